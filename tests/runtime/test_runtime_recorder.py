"""The recording on the disk: whole after any kill, readable after the disk was full, never written over another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bci_align.bundle.store import Bundle
from bci_align.config import ChecksConfig, LiveConfig, PromotionConfig, RecordConfig
from bci_align.errors import RuntimeFault, SessionError
from bci_align.runtime import audit, recorder_process
from bci_align.runtime import replay as module
from bci_align.runtime.calls import Call, Hole
from bci_align.runtime.child import Child
from bci_align.runtime.recorded_session import as_session
from bci_align.runtime.recorder_process import free_path
from bci_align.runtime.recording import About, Recording, Writer, is_recording
from bci_align.runtime.rerun import verify
from bci_align.runtime.sealed import SealedReader
from bci_align.runtime.shared import Cell, Shared
from bci_align.runtime.tape import Op, Tape
from bci_align.session import io
from bci_align.session.types import Session
from bci_align.streams.contract import Decoded

from .fakes import QUICK

ABOUT = About(("a", "b", "µ3"), ("vx", "vy"), ("m/s", ""), 0.02, "/b", "1" * 64, "2026-01-01", "numpy 0")


def put(tape: Tape, first: int, n: int) -> None:
    channels = tape.record["counts"].shape[0]
    for k in range(first, first + n):
        gave = Decoded(k, 0.02 * k, np.array([k / 3, -k]), 0)
        tape.call(Op.BIN, gave, seq=k, t=0.02 * k, arrived=time.monotonic(), counts=np.full(channels, k, np.float32))


def whole(path: Path) -> list[Call]:
    """All calls of a recording, which must be without a hole and right."""
    with Recording(path) as recording:
        calls = list(recording.calls())
    good = [c for c in calls if isinstance(c, Call)]
    assert len(good) == len(calls)
    for k, c in enumerate(good):
        assert c.gave is not None
        assert (c.number, c.argument.seq, c.gave.values.tolist()) == (k, k, [k / 3, -k])
        assert (c.argument.counts == np.float32(k)).all()
    return good


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    tape = Tape(bytearray(Tape.nbytes(3, 2, 5000)), 3, 2, 5000)
    reader = SealedReader(tape)
    writer = Writer(tmp_path / "r.h5", ABOUT)
    for k in range(40):
        put(tape, 100 * k, 100)
        writer.write(reader.take(10**6)[1], b"line %d\n" % k)
        with Recording(tmp_path / "r.h5") as beside:  # at any time, beside the writer
            assert len(beside) == 100 * (k + 1)
    writer.close()
    writer.close()
    assert len(whole(tmp_path / "r.h5")) == 4000
    with Recording(tmp_path / "r.h5") as r:
        assert r.about == ABOUT
        assert r.audit().splitlines()[-1] == b"line 39"
    with h5py.File(tmp_path / "r.h5") as f:  # any HDF5 program
        assert f["records"].fields("values")[30].tolist() == [10.0, -30.0]
    assert is_recording(tmp_path / "r.h5")
    with pytest.raises(RuntimeFault, match=r"r\.h5: already exists and is never overwritten"):
        Writer(tmp_path / "r.h5", ABOUT)


def test_names_are_never_taken_twice(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for name in ("recording-20260102T030405Z.h5", "recording-20260102T030405Z-2.h5", "recording-20260102T030405Z-3.h5"):
        path = free_path(tmp_path, now)
        assert path.name == name
        path.touch()


def test_what_is_no_recording_is_said(tmp_path: Path, days: tuple[Session, Session]) -> None:
    io.save(days[0], tmp_path / "day.h5")
    (tmp_path / "text").write_text("no\n")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "day.h5").read_bytes()[:3000])
    for name, said in (
        ("none", "no such file"), ("text", "found a text file"), ("day.h5", "no recording|expected 'bci_align.recording'"),
        ("cut.h5", "damaged or no recording"),
    ):  # fmt: skip
        assert not is_recording(tmp_path / name)
        with pytest.raises(SessionError, match=said):
            Recording(tmp_path / name)


def test_a_changed_byte_of_a_record_is_a_hole_and_not_data(tmp_path: Path) -> None:
    tape = Tape(bytearray(Tape.nbytes(3, 2, 500)), 3, 2, 500)
    put(tape, 0, 300)
    writer = Writer(tmp_path / "r.h5", ABOUT)
    writer.write(SealedReader(tape).take(1000)[1])
    writer.close()
    data = bytearray((tmp_path / "r.h5").read_bytes())
    at = data.index(np.full(3, 111, np.float32).tobytes())
    data[at + 5] ^= 4
    (tmp_path / "r.h5").write_bytes(data)
    with Recording(tmp_path / "r.h5") as r:
        calls = list(r.calls())
    assert calls[111] == Hole(111, 1, "damaged")
    assert len(calls) == 300


WRITING = """
import sys
import numpy as np
from pathlib import Path
from bci_align.runtime.recording import About, Writer
from bci_align.runtime.sealed import SealedReader
from bci_align.runtime.tape import Op, Tape
from bci_align.streams.contract import Decoded
C = int(sys.argv[2])
tape = Tape(bytearray(Tape.nbytes(C, 2, 4096)), C, 2, 4096)
reader = SealedReader(tape)
about = About(tuple(f"c{i}" for i in range(C)), ("vx", "vy"), ("m", "m"), 0.02, "/b", "1", "now", "none")
writer = Writer(Path(sys.argv[1]), about)
assert "torch" not in sys.modules
k = 0
while True:
    for k in range(k, k + 20):
        gave = Decoded(k, 0.02 * k, np.array([k / 3, -k]), 0)
        tape.call(Op.BIN, gave, seq=k, t=0.02 * k, counts=np.full(C, k, np.float32))
    k += 1
    writer.write(reader.take(1000)[1], b"x" * 50)
    print(k, flush=True)
"""


@pytest.mark.parametrize("channels", [3, 700])
def test_sigkills_at_random_leave_everything_that_was_flushed(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(channels)
    for k in range(5):
        path = tmp_path / f"{k}.h5"
        command = [sys.executable, "-c", WRITING, str(path), str(channels)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "20\n"
            time.sleep(rng.uniform(0, 0.2))
            os.kill(process.pid, signal.SIGKILL)
            told = process.stdout.read().split()
            assert process.wait() == -signal.SIGKILL
        assert len(whole(path)) >= (int(told[-1]) if told else 20)
        with Recording(path) as r:
            assert set(r.audit()) == {ord("x")}


Start = Callable[..., tuple[Shared, Child]]


@pytest.fixture
def start(bundle: Bundle, tmp_path: Path) -> Iterator[Start]:
    """Starts recorders on shared memory of the bundle's shape; ends them."""
    m = bundle.manifest
    shared = Shared.create(len(m.channels), m.hidden, outputs=len(m.outputs))
    children: list[Child] = []

    def begin(out: Path = tmp_path, **record: Any) -> tuple[Shared, Child]:
        config = LiveConfig(bundle=str(bundle.path), out=str(out), record=RecordConfig(**record))
        child = Child("recorder", recorder_process.main, (shared.layout, config))
        children.append(child)
        return shared, child

    try:
        yield begin
    finally:
        shared.set(Cell.STOP, 1)
        for child in children:
            child.end(5.0)
            child.close()
        shared.close()


HEARD: dict[int, list[dict[str, Any]]] = {}
"""Reports of every child that nobody has asked for yet."""


def until(child: Child, kind: str) -> dict[str, Any]:
    """The next report of that kind; those before it are dropped."""
    deadline, heard = time.monotonic() + 60, HEARD.setdefault(id(child), [])
    while True:
        ended = child.done
        heard += child.read()
        while heard:
            report = heard.pop(0)
            if report["report"] == kind:
                return report
        assert not ended, f"the recorder ended without {kind}"
        assert time.monotonic() < deadline, f"no {kind} came"
        time.sleep(0.005)


def test_a_recorder_killed_at_random_loses_at_most_the_last_second(start: Start, tmp_path: Path) -> None:
    """And the one that is started anew goes on in a file of its own, from as far back as the tape reaches."""
    audit.append(tmp_path, "before", {})
    shared, child = start()
    path = Path(until(child, "ready")["path"])
    first, began = shared.tape.head, time.monotonic()
    while time.monotonic() - began < 1.5:
        put(shared.tape, first, 5)
        first += 5
        time.sleep(0.02)
    audit.append(tmp_path, "swapped", {"generation": 1})
    put(shared.tape, first, 5)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    killed = time.monotonic()
    calls = whole(path)
    assert calls[-1].argument.arrived > killed - 1.0
    child.end(5.0)
    _, second = start()
    again = Path(until(second, "ready")["path"])
    assert again != path
    shared.set(Cell.STOP, 1)
    report = until(second, "finished")
    assert report["path"] == str(again) and report["records"] == first + 5
    assert len(whole(again)) == first + 5
    with Recording(path) as r:
        assert b"before" not in r.audit()  # of an earlier session


def test_decisions_are_recorded_as_they_happen(start: Start, tmp_path: Path) -> None:
    shared, child = start(flush_s=0.1)
    path = Path(until(child, "ready")["path"])
    for k in range(3):
        audit.append(tmp_path, "swapped", {"generation": k})
    shared.set(Cell.STOP, 1)
    until(child, "finished")
    with Recording(path) as r:
        assert r.audit() == (tmp_path / audit.NAME).read_bytes()


def test_an_overrun_is_told_and_recorded_as_a_hole(start: Start) -> None:
    shared, child = start()
    path = Path(until(child, "ready")["path"])
    os.kill(child.pid, signal.SIGSTOP)
    put(shared.tape, 0, shared.tape.capacity + 100)
    os.kill(child.pid, signal.SIGCONT)
    missed = until(child, "missed")["records"]
    shared.set(Cell.STOP, 1)
    until(child, "finished")
    with Recording(path) as r:
        calls = list(r.calls())
    holes = [c for c in calls if isinstance(c, Hole)]
    assert [(h.records, h.why) for h in holes] == [(missed, "missed")]
    assert len(calls) - 1 + missed == shared.tape.head


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        message = f"a small disk cannot be mounted: {mounted.stderr.strip()}"
        # A check that CI skips is a check nobody makes.
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("leave_mb", "said"), [(0.0, "No space left on device"), (1.0, "expected 1 MB free on the disk")])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_written(
    start: Start, small_disk: Path, leave_mb: float, said: str
) -> None:
    shared, child = start(small_disk, flush_s=0.05, leave_mb=leave_mb)
    path = Path(until(child, "ready")["path"])
    first, failed = 0, None
    while failed is None:
        put(shared.tape, first, 200)
        first += 200
        time.sleep(0.02)
        failed = next((r for r in child.read() if r["report"] == "record_failed"), None)
        assert first < 10**6
    assert said in failed["reason"] and str(path) in failed["reason"]
    child.end(20.0)
    assert child.exitcode == 0
    written = len(whole(path))
    assert f"after {written} records" in failed["reason"]
    assert written > 1000
    if leave_mb:
        audit.append(small_disk, "swapped", {})  # there is room for decisions
        with h5py.File(path) as f:
            assert len(f["records"]) == written


def test_a_disk_that_is_full_from_the_start_is_the_same_sentence(start: Start, small_disk: Path) -> None:
    (small_disk / "full").write_bytes(bytes(1_500_000))
    _, child = start(small_disk, leave_mb=1.0)
    assert "recording ended after 0 records: expected 1 MB free" in until(child, "record_failed")["reason"]
    until(child, "finished")
    assert [p.name for p in small_disk.iterdir()] == ["full"]


def test_what_the_live_system_recorded_decodes_again_to_the_same_bytes(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real socket, with an alignment and a swap; the log of decisions is whole and in the recording."""
    promotion = PromotionConfig(shadow_bins=10, probation_bins=10, spread=(1e-6, 1e6), most_clamped=1.0, most_jump=1e6)
    config = LiveConfig(bundle=str(bundle.path), out=str(tmp_path), calibration_trials=10, promotion=promotion)
    played = module._for_replay  # which does not record what is recorded
    update = {"record": RecordConfig(leave_mb=0.0), "checks": ChecksConfig(stale_s=0.0, late_bins=1e6)}
    monkeypatch.setattr(module, "_for_replay", lambda c: played(c).model_copy(update=update))
    result = module.replay(days[1], config, "zmq", methods=QUICK)
    (path,) = tmp_path.glob("recording-*.h5")
    found = verify(path)
    assert found.difference is None and found.holes == []
    assert found.samples >= result.bins_out == days[1].bins
    assert len(found.swaps) == len(result.swaps) == 1
    with Recording(path) as r:
        assert r.audit() == (tmp_path / audit.NAME).read_bytes()
        gave = [c.gave for c in r.calls() if isinstance(c, Call) and c.op == Op.BIN and c.gave is not None]
    assert (np.array([g.values for g in gave]) == result.outputs).all()
    assert {e.decision for e in audit.verify(tmp_path).entries} >= {"accepted", "shadow", "swapped"}
    session = as_session(path)
    assert session.fingerprint() == days[1].fingerprint() and session.breaks == ()
    assert len(session.trials) == len(days[1].trials)
    assert np.allclose(session.trials.start_s, days[1].trials.start_s, atol=1e-4)
