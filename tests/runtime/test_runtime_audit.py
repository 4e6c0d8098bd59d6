"""The log of decisions: no change of it goes unseen, whoever writes and whoever is killed over it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.errors import AuditError, RuntimeFault
from bci_align.runtime.audit import ANCHOR, GENESIS, NAME, append, verify

pytestmark = pytest.mark.computes


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for k in range(5):
        append(tmp_path, "verdict", {"generation": k, "reason": "spread,\nin \u00b5V", "value": np.float64(k)})
    return tmp_path


def test_lines_are_json_and_chained(log: Path) -> None:
    lines = [json.loads(line) for line in (log / NAME).read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["prev"] for line in lines] == [GENESIS, *(line["hash"] for line in lines[:-1])]
    found = verify(log)
    assert found.hash == lines[-1]["hash"] and found.notes == []
    assert [e.content["generation"] for e in found.entries] == [0, 1, 2, 3, 4]


BYTES: dict[str, bytes] = {}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit")
    for k in range(4):
        append(out, "swapped", {"generation": k, "bin": 100 * k})
    BYTES.update({name: (out / name).read_bytes() for name in (NAME, ANCHOR)})
    return out


def altered(out: Path, name: str, data: bytes) -> str:
    """What verify says of the log with ``data`` in place of one of its files; the log is put back."""
    (out / name).write_bytes(data)
    try:
        with pytest.raises(AuditError) as e:
            verify(out)
        return str(e.value)
    finally:
        (out / name).write_bytes(BYTES[name])


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_a_byte_is_found_and_its_line_named(written: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([NAME, NAME, NAME, ANCHOR]))
    old = BYTES[name]
    at = data.draw(st.integers(0, len(old) - 1))
    new = data.draw(st.binary(max_size=1).filter(lambda b: b != old[at : at + 1]))
    said, line = altered(written, name, old[:at] + new + old[at + 1 :]), old[:at].count(b"\n") + 1
    assert name != NAME or f"line {line}: " in said


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_missing_added_or_moved_line_is_found_and_named(written: Path, data: st.DataObject) -> None:
    lines = BYTES[NAME].splitlines(keepends=True)
    i, j = data.draw(st.permutations(range(4)))[:2]
    how = data.draw(st.sampled_from(["removed", "doubled", "exchanged"]))
    if how == "removed":
        new, first = lines[:i] + lines[i + 1 :], i
    elif how == "doubled":
        new, first = [*lines[:i], lines[j], *lines[i:]], i
    else:
        new, first = list(lines), min(i, j)
        new[i], new[j] = new[j], new[i]
    assert f"line {first + 1}: " in altered(written, NAME, b"".join(new))


def test_a_missing_file_is_found(log: Path) -> None:
    (log / ANCHOR).unlink()
    with pytest.raises(AuditError, match=r"audit\.anchor: expected the hash of line 5, found that of line 0"):
        verify(log)
    append(log, "swapped", {})
    with pytest.raises(AuditError, match="line 6: the log was found broken when this was written"):
        verify(log)
    (log / NAME).unlink()
    with pytest.raises(AuditError, match="line 1: is missing, with all that followed"):
        verify(log)
    with pytest.raises(AuditError, match="cannot be read"):
        verify(log / "elsewhere")


def test_an_append_does_not_heal_a_log(log: Path) -> None:
    """Else the next decision would hide that somebody had been at the last one."""
    whole = (log / NAME).read_bytes()
    for damaged, line in ((whole.replace(b'"generation": 4', b'"generation": 3'), 5), (whole[: whole.index(b'{"n": 4')], 4)):
        (log / NAME).write_bytes(damaged)
        append(log, "swapped", {"generation": 9})
        with pytest.raises(AuditError, match=f"line {line}: "):
            verify(log)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_without_its_end_is_put_aside_and_told(log: Path, cut: int) -> None:
    """The anchor is that of the line before, as it is when a process is killed over a line."""
    before = {name: (log / name).read_bytes() for name in (NAME, ANCHOR)}
    append(log, "committed", {"generation": 7})
    torn = (log / NAME).read_bytes()[:-cut]
    for name, data in (before | {NAME: torn}).items():
        (log / name).write_bytes(data)
    assert verify(log).notes == ["line 6: has no end: a process was killed while it wrote it"]
    assert append(log, "committed", {"generation": 7}) == 7
    found = verify(log)
    assert [e.decision for e in found.entries[-2:]] == ["torn", "committed"]
    assert found.notes[0].startswith("line 6: a process was killed while it wrote this line")
    kept = log / str(found.entries[-2].content["kept"])
    assert kept.read_bytes() == torn[len(before[NAME]) :]


def test_a_process_killed_between_line_and_anchor_leaves_a_good_log(log: Path) -> None:
    before = (log / ANCHOR).read_bytes()
    append(log, "committed", {})
    (log / ANCHOR).write_bytes(before)
    assert len(verify(log).entries) == 6
    append(log, "committed", {})
    assert len(verify(log).entries) == 7


APPENDING = """
import sys
from pathlib import Path
from bci_align.runtime.audit import append
for k in range(int(sys.argv[3])):
    append(Path(sys.argv[1]), "verdict", {"who": sys.argv[2], "k": k, "text": "x" * 3000})
    print(k, flush=True)
"""


def appender(out: Path, who: str, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDING, str(out), who, str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_append_in_turn(tmp_path: Path) -> None:
    with appender(tmp_path, "a", 20) as a, appender(tmp_path, "b", 20) as b:
        assert a.wait() == b.wait() == 0
    entries = verify(tmp_path).entries
    for who in "ab":
        assert [e.content["k"] for e in entries if e.content["who"] == who] == list(range(20))


def test_sigkills_while_appending_leave_a_log_that_verifies(tmp_path: Path) -> None:
    """What a killed process said to have been written is there, and another one goes on."""
    rng = np.random.default_rng(0)
    for k in range(12):
        with appender(tmp_path, f"k{k}", 10**6) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
            told = process.stdout.read().split()
            assert process.wait() == -signal.SIGKILL
        found = [e.content["k"] for e in verify(tmp_path).entries if e.content.get("who") == f"k{k}"]
        assert found == list(range(len(found)))
        assert len(found) > (int(told[-1]) if told else 0)
    append(tmp_path, "committed", {})
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("audit.torn-")} == {NAME, ANCHOR}


def test_a_fault_of_the_disk_is_a_sentence_and_leaves_the_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (log / NAME).read_bytes()
    sync = os.fsync

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RuntimeFault, match=r"audit\.jsonl: cannot be written \(No space left on device\)"):
        append(log, "committed", {})
    monkeypatch.setattr(os, "fsync", sync)
    assert (log / NAME).read_bytes() == before
    assert len(verify(log).entries) == 5
    with pytest.raises(RuntimeFault, match="cannot be written"):
        append(log / "elsewhere", "committed", {})
