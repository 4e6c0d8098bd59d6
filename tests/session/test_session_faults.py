"""Whatever lies in a session file: a Session equal to what was saved, or one SessionError, and nothing else."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bci_align.errors import SessionError
from bci_align.session import h5read, io
from bci_align.session.types import Session

Make = Callable[..., Session]
Equal = Callable[[Session, Session], bool]


@pytest.fixture
def saved(tmp_path: Path, make_session: Make) -> Path:
    io.save(make_session(), tmp_path / "s.h5")
    return tmp_path / "s.h5"


def put(name: str, data: Any, **options: Any) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        if name in f:
            del f[name]
        f.create_dataset(name, data=data, **options)

    return change


def attr(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda f: f.attrs.__setitem__(name, value)


def drop(name: str) -> Callable[[h5py.File], None]:
    return lambda f: f.__delitem__(name)


def link(name: str, to: Any) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        del f[name]
        f[name] = to

    return change


def external_storage(f: h5py.File) -> None:
    del f["counts"]
    f.create_dataset("counts", (200, 5), "u1", external=[("/etc/hostname", 0, 1000)])


def virtual(f: h5py.File) -> None:
    layout = h5py.VirtualLayout((200, 5), "u1")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "counts", (200, 5))
    del f["counts"]
    f.create_virtual_dataset("counts", layout)


def huge(shape: tuple[int, int]) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        del f["counts"]
        f.create_dataset("counts", shape, "u1", chunks=(1024, 96), compression="gzip")

    return change


def objects(f: h5py.File) -> None:
    del f["channels"]
    f.create_dataset("channels", data=["a", "b", "c", "d", "e"], dtype=h5py.string_dtype())


fractional = np.full((200, 5), 1.0)
fractional[7, 3] = 0.5
infinite = np.full((200, 5), np.inf)
negative = np.full((200, 5), -1)

FAULTS = [
    (lambda f: f.attrs.__delitem__("format"), "format: expected 'bci_align.session', found an HDF5 file without"),
    (attr("format", "nwb"), "format: expected 'bci_align.session', found 'nwb'"),
    (attr("schema", 2), "schema: expected 1, found .*another version"),
    (attr("bin_s", "0.05"), "bin_s: expected a float64 attribute"),
    (attr("bin_s", np.nan), "bin_s: expected a positive number"),
    (attr("name", 3), "name: expected text"),
    (lambda f: f["meta"].attrs.__setitem__("k", 3), r"meta\['k'\]: expected text"),
    (drop("counts"), "counts: missing"),
    (drop("channels"), "channels: missing"),
    (drop("trials"), "trials: missing"),
    (drop("meta"), "meta: missing"),
    (drop("trials/end_s"), "trials/end_s: missing"),
    (put("counts", fractional), "counts: expected whole spike counts, found 0.5 in bin 7, channel 3"),
    (put("counts", infinite), "counts: expected finite spike counts, found inf in bin 0, channel 0"),
    (put("counts", negative), "counts: expected no negative spike counts, found -1"),
    (put("counts", np.full((200, 5), 2**40)), "counts: expected spike counts of at most"),
    (put("counts", np.zeros(5)), "counts: expected 2 axes, found shape"),
    (put("counts", np.zeros((0, 5))), "counts: expected a .* array with at least one of each"),
    (put("counts", h5py.Empty("f4")), "counts: expected 2 axes"),
    (put("counts", [[b"a"]]), "counts: expected numbers, found dtype"),
    (put("counts", np.ones((200, 5), "i1"), compression="lzf"), "counts: expected gzip compression or none"),
    (objects, "channels: expected fixed-length strings, found dtype object"),
    (put("channels", np.array([b"a", b"b"])), "channels: expected 5 labels"),
    (put("channels", np.array([b"\xff"] * 5)), "damaged"),
    (put("kinematics", np.zeros((200, 2))), "kinematics: expected float32, found float64"),
    (put("kinematics", np.zeros((200, 2), "f4")), "kinematics names: expected .*, found nothing"),
    (put("trials/success", np.array([0, 1, 2], "u1")), "trials/success: expected 0 or 1, found 2"),
    (put("trials/end_s", np.zeros(3)), "trials: expected every end after its start"),
    (put("trials/go_s", np.zeros(2)), r"trials\.go_s: expected 3 values"),
    (link("counts", h5py.ExternalLink("other.h5", "counts")), "counts: .*found a link to elsewhere"),
    (link("counts", h5py.SoftLink("/kinematics")), "counts: .*found a link to elsewhere"),
    (link("trials", h5py.ExternalLink("other.h5", "/")), "trials: .*found a link to elsewhere"),
    (external_storage, "counts: .*found data linked from other files"),
    (virtual, "counts: .*found data linked from other files"),
    (link("trials", np.zeros(3)), "trials: expected a group, found a dataset"),
    (put("trials/success", np.ones(3, "u1")), "sha256: expected .*the file was altered"),
    (attr("name", "another"), "sha256: expected .*the file was altered"),
    (huge((2**40, 96)), "counts: expected at most 16 GiB"),
    (huge((10**7, 96)), "counts: expected an array that fits in a file of"),
]


@pytest.mark.parametrize(("change", "sentence"), FAULTS, ids=[s for _, s in FAULTS])
def test_each_fault_is_one_sentence(saved: Path, change: Callable[[h5py.File], None], sentence: str) -> None:
    with h5py.File(saved, "r+") as f:
        change(f)
    with pytest.raises(SessionError, match=rf"s\.h5: .*{sentence}") as e:
        io.load(saved)
    assert "\n" not in str(e.value)


def test_whole_numbers_of_another_dtype_are_counts(saved: Path, make_session: Make, equal: Equal) -> None:
    with h5py.File(saved, "r+") as f:
        put("counts", make_session().counts.astype(">f8"))(f)
        put("trials/start_s", make_session().trials.start_s.astype(">f8"))(f)
    assert equal(io.load(saved), make_session())


def test_another_program_may_leave_the_digest_out(saved: Path, make_session: Make, equal: Equal) -> None:
    with h5py.File(saved, "r+") as f:
        del f.attrs["sha256"]
    assert equal(io.load(saved), make_session())


def zipped(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr(name, b"x")

    return write


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda p: p.write_bytes(pickle.dumps({"counts": 1})), "a Python pickle, which is never read"),
        (lambda p: p.write_bytes(b""), "an empty file"),
        (lambda p: p.write_text("start_s,end_s\n0,é\n"), "a text file"),
        (lambda p: p.write_bytes(b"\x00\x01\x02"), "a binary file of unknown kind"),
        (lambda p: p.write_bytes(b"MATLAB 7.3 MAT-file"), "a MATLAB file"),
        (lambda p: p.write_bytes(b"\x1f\x8b\x08"), "a gzip file"),
        (lambda p: p.write_bytes(b"PK\x03\x04 and then nothing"), "a damaged or cut-short zip"),
        (zipped("counts.npy"), r"a NumPy \.npz file"),
        (zipped("archive/data.pkl"), "a PyTorch file or another zip of a Python pickle"),
        (zipped("notes.txt"), "a zip file"),
        (lambda p: p.mkdir(), "a directory"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, write: Callable[[Path], None], found: str) -> None:
    write(tmp_path / "s.h5")
    with pytest.raises(SessionError, match=rf"s\.h5: expected .*, found {found}"):
        io.load(tmp_path / "s.h5")


def test_pickles_by_suffix_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"anything")
    with pytest.raises(SessionError, match=r"model\.pt: expected .*, found a Python pickle"):
        io.load(tmp_path / "model.pt")
    with pytest.raises(SessionError, match=r"no\.h5: no such file"):
        io.load(tmp_path / "no.h5")


def outcome(path: Path, content: bytes) -> Session | None:
    """The session in a file of ``content``, or None after a SessionError; any other exception fails the test."""
    path.write_bytes(content)
    try:
        return io.load(path)
    except SessionError:
        return None


def test_a_cut_file_is_never_a_session(saved: Path) -> None:
    whole = saved.read_bytes()
    offsets = {0, 1, 7, 8, 9, *range(16, 128, 7), *np.linspace(0, len(whole) - 1, 150).astype(int).tolist(), len(whole) - 1}
    for offset in sorted(offsets):
        assert outcome(saved, whole[:offset]) is None, offset


def test_an_altered_file_is_equal_or_an_error(saved: Path, make_session: Make, equal: Equal) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    for offset in [*range(64), *rng.integers(0, len(whole), 300).tolist()]:
        altered = bytearray(whole)
        altered[offset] ^= int(rng.integers(1, 256))
        session = outcome(saved, bytes(altered))
        assert session is None or equal(session, make_session()), offset


def test_our_limit_counts_what_memory_takes(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 x 5 uint8 are 1000 bytes on disk and 4000 once they are int32."""
    monkeypatch.setattr(h5read, "LARGEST", 3999)
    with pytest.raises(SessionError, match="counts: expected at most"):
        io.load(saved)
