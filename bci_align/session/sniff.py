"""Say what a file looks like from its first bytes, without ever executing or unpickling anything."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bci_align.errors import SessionError

HDF5 = "an HDF5 file"
NPZ = "a NumPy .npz file"
PICKLE = "a Python pickle, which is never read because opening one can run code"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_HEAD = 512


def regular_file(path: Path) -> Path:
    """``path`` if it is a file that can be opened, else a :class:`SessionError` that says what it is instead."""
    try:
        exists = path.exists()
    except OSError as e:
        raise SessionError(f"{path}: cannot be read ({e.strerror or e})") from None
    if not exists:
        raise SessionError(f"{path}: no such file")
    if not path.is_file():
        raise SessionError(f"{path}: expected a file, found {'a directory' if path.is_dir() else 'a device or socket'}")
    return path


def looks_like(path: Path) -> str:
    """What the existing file ``path`` appears to be, in words that fit after "found"."""
    try:
        with path.open("rb") as f:
            head = f.read(_HEAD)
    except OSError as e:
        raise SessionError(f"{path}: cannot be read ({e.strerror or e})") from None
    if not head:
        return "an empty file"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return HDF5
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if _is_pickle(head) or path.suffix.lower() in _PICKLE_SUFFIXES:
        return PICKLE
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy .npy file"
    if head.startswith(b"MATLAB"):
        return "a MATLAB file"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file"
    return "a text file" if _is_text(head) else "a binary file of unknown kind"


def _is_pickle(head: bytes) -> bool:
    """Protocols 2 to 5 say so in two bytes; a protocol 0 or 1 pickle is caught by its suffix, or named as text."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as z:
            names = z.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a damaged or cut-short zip (or npz) file"
    if any(n.endswith((".pkl", ".pickle")) for n in names):
        return f"a PyTorch file or another zip of {PICKLE}"
    if names and all(n.endswith(".npy") for n in names):
        return NPZ
    return "a zip file"


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="ignore")  # the last character may be cut
    return bool(text) and len(text.encode()) > len(head) - 4 and all(c.isprintable() or c in "\r\n\t\f" for c in text)
