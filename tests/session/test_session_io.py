import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.errors import SessionError
from bci_align.session import io
from bci_align.session.digest import digest
from bci_align.session.types import Session

Make = Callable[..., Session]
Equal = Callable[[Session, Session], bool]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(("most", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65536, "u4"), (2**31 - 1, "u4")])
def test_reads_back_equal(tmp_path: Path, make_session: Make, equal: Equal, most: int, dtype: str, labels: bool) -> None:
    session = make_session(most=most, labels=labels)
    io.save(session, tmp_path / "s.h5")
    assert equal(io.load(tmp_path / "s.h5"), session)
    with h5py.File(tmp_path / "s.h5") as f:
        assert f["counts"].dtype == dtype and f["counts"].compression == "gzip"
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


def test_breaks_read_back_and_are_under_the_digest(tmp_path: Path, make_session: Make, equal: Equal) -> None:
    session = make_session(breaks=(39, 70, 199))
    io.save(session, tmp_path / "s.h5")
    assert equal(io.load(tmp_path / "s.h5"), session) and io.load(tmp_path / "s.h5").breaks == (39, 70, 199)
    with h5py.File(tmp_path / "s.h5", "a") as f:
        f["breaks"][1] = 71
    with pytest.raises(SessionError, match=r"s\.h5: sha256: expected"):
        io.load(tmp_path / "s.h5")
    io.save(replace(session, breaks=()), tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5") as f:
        assert "breaks" not in f
        # The digest of a session without breaks is the one that files had before there were breaks.
        assert f.attrs["sha256"].decode() == digest(make_session()) != digest(session)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    name=text,
    meta=st.dictionaries(text.filter(bool), text, max_size=12),
    channels=st.lists(text, min_size=1, max_size=6, unique=True),
    unit=text,
    bin_s=st.floats(0.03, 10.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_text_reads_back_equal(
    make_session: Make, equal: Equal, name: str, meta: dict[str, str], channels: list[str], unit: str, bin_s: float, seed: int
) -> None:
    session = replace(
        make_session(channels=len(channels), seed=seed),
        name=name,
        meta=meta,
        channels=tuple(channels),
        bin_s=bin_s,
        kinematics_units=(unit, ""),
    )
    with tempfile.TemporaryDirectory() as folder:
        io.save(session, Path(folder) / "s.h5")
        assert equal(io.load(Path(folder) / "s.h5"), session)


def test_long_text_and_many_entries_read_back_equal(tmp_path: Path, make_session: Make, equal: Equal) -> None:
    """Beyond 64 KiB or 8 attributes HDF5 stores them in another way."""
    session = replace(make_session(), meta={"note": "µ" * 70_000} | {f"k{i}": str(i) for i in range(40)})
    io.save(session, tmp_path / "s.h5")
    assert equal(io.load(tmp_path / "s.h5"), session)


def test_overwrites_only_when_told(tmp_path: Path, make_session: Make, equal: Equal) -> None:
    old, new = make_session(seed=1), make_session(seed=2)
    io.save(old, tmp_path / "s.h5")
    with pytest.raises(SessionError, match=r"s\.h5: already exists .*--force"):
        io.save(new, tmp_path / "s.h5")
    assert equal(io.load(tmp_path / "s.h5"), old)
    io.save(new, tmp_path / "s.h5", overwrite=True)
    assert equal(io.load(tmp_path / "s.h5"), new)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: replace(s, kinematics=s.kinematics.astype(float)), "kinematics: expected float32, found float64"),
        (lambda s: replace(s, name="a\0b"), "name: expected text without NUL"),
        (lambda s: replace(s, meta={"k": "\ud800"}), r"meta\['k'\]: expected text"),
        (lambda s: replace(s, meta={"": "v"}), "meta: expected keys that are not empty"),
        (lambda s: replace(s, meta={"k": 3}), r"meta\['k'\]: expected text"),
        (lambda s: replace(s, counts=s.counts.astype(np.int64) + 2**40), "counts: expected spike counts of at most"),
        (
            lambda s: replace(s, trials=replace(s.trials, success=np.array([0, 1, 2]))),
            r"trials\.success: expected bool, found int64",
        ),
        (lambda s: replace(s, channels=s.channels[:-1]), "channels: expected 5 labels"),
    ],
)
def test_what_would_not_read_back_is_refused(
    tmp_path: Path, make_session: Make, change: Callable[[Session], Session], sentence: str
) -> None:
    with pytest.raises(SessionError, match=rf"s\.h5: {sentence}"):
        io.save(change(make_session()), tmp_path / "s.h5")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_session(
    tmp_path: Path, make_session: Make, equal: Equal, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_session(seed=1)
    io.save(old, tmp_path / "s.h5")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "as_text", full)
    with pytest.raises(SessionError, match=r"s\.h5: cannot be written .*No space"):
        io.save(make_session(seed=2), tmp_path / "s.h5", overwrite=True)
    assert equal(io.load(tmp_path / "s.h5"), old)
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


KILLED = """
import sys
from dataclasses import replace
from bci_align import atomic
from bci_align.session import io
def stop(*a, **k):
    print("here", flush=True)
    sys.stdin.read()
where = sys.argv[2]
session = io.load(sys.argv[1])
if where == "text":
    io.as_text = stop
else:
    setattr(atomic, where, stop)
io.save(replace(session, name="new"), sys.argv[1], overwrite=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("where", ["text", "_sync", "sync_directory"])
def test_a_kill_while_writing_leaves_a_whole_session(tmp_path: Path, make_session: Make, equal: Equal, where: str) -> None:
    old = make_session()
    io.save(old, tmp_path / "s.h5")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s.h5"), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    # By the last stop the rename is done, and then the new one must be whole.
    expected = replace(old, name="new") if where == "sync_directory" else old
    assert equal(io.load(tmp_path / "s.h5"), expected)
