"""Read from an HDF5 file that nobody vouches for: bounded memory, no pickles, nothing from outside the file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bci_align.errors import SessionError

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What h5py raises for damaged files, depending on which byte is wrong. Our own :class:`SessionError` is none of them."""

LARGEST = 16 * 2**30
"""Bytes one array may take in memory: days of recording at any array size, and well below what a hostile file can claim."""

_BEST_RATIO = 1100
"""Deflate cannot pack more than about 1032 to 1; an array that claims more is not in the file."""

_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


def group(parent: Any, name: str, path: Path) -> Any:
    """The group ``name`` of ``parent``; :class:`SessionError` when missing, linked from elsewhere or no group."""
    return _member(parent, name, path, h5py.Group)


def dataset(parent: Any, name: str, path: Path) -> Any:
    """The dataset ``name`` of ``parent``, unread; :class:`SessionError` when missing or stored outside the file."""
    d = _member(parent, name, path, h5py.Dataset)
    if d.external or d.is_virtual:
        where = f"{path}: {d.name.lstrip('/')}"
        raise SessionError(f"{where}: expected data stored in this file, found data linked from other files")
    return d


def array(parent: Any, name: str, path: Path, *, ndim: int, kinds: str, itemsize: int = 0) -> NDArray[Any]:
    """The dataset ``name`` of ``parent``: ``ndim`` axes, a dtype whose kind is in ``kinds`` (NumPy's letters).

    ``itemsize``: bytes per element it will take in memory, where that is more than on disk. :class:`SessionError` for a
    missing dataset, another shape or dtype (objects above all), storage outside the file, or an implausible size.
    """
    d = dataset(parent, name, path)
    where = f"{path}: {d.name.lstrip('/')}"
    if d.dtype.hasobject or d.dtype.kind not in kinds:
        raise SessionError(f"{where}: expected {_words(kinds)}, found dtype {d.dtype}")
    if d.shape is None or len(d.shape) != ndim:
        raise SessionError(f"{where}: expected {ndim} axes, found shape {d.shape}")
    plist = d.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        if plist.get_filter(i)[0] not in _FILTERS:
            raise SessionError(f"{where}: expected gzip compression or none, found HDF5 filter {plist.get_filter(i)[0]}")
    size = math.prod(d.shape) * max(d.dtype.itemsize, itemsize)
    on_disk = math.prod(d.shape) * d.dtype.itemsize
    if size > LARGEST:
        raise SessionError(f"{where}: expected at most {LARGEST // 2**30} GiB, found shape {d.shape}, {size / 2**30:.0f} GiB")
    held = path.stat().st_size
    if on_disk > _BEST_RATIO * held:
        raise SessionError(f"{where}: expected an array that fits in a file of {held} bytes, found shape {d.shape}")
    return np.asarray(d[()])


def labels(value: object, where: str) -> tuple[str, ...]:
    """A (n,) array of UTF-8 byte strings as a tuple of text."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "S" or value.ndim != 1:
        found = "nothing" if value is None else f"{type(value).__name__} of dtype {getattr(value, 'dtype', None)}"
        raise SessionError(f"{where}: expected a list of fixed-length strings, found {found}")
    return tuple(bytes(v).decode("utf-8") for v in value)


def text(value: object, where: str) -> str:
    """A string attribute."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise SessionError(f"{where}: expected text, found {'nothing' if value is None else repr(value)}")
    return value


def _member(parent: Any, name: str, path: Path, kind: type) -> Any:
    prefix = parent.name.strip("/")
    where = f"{path}: {prefix}/{name}" if prefix else f"{path}: {name}"
    link = parent.get(name, getlink=True)
    if link is None:
        raise SessionError(f"{where}: missing from the file")
    if not isinstance(link, h5py.HardLink):
        raise SessionError(f"{where}: expected data stored in this file, found a link to elsewhere")
    member = parent[name]
    if not isinstance(member, kind):
        raise SessionError(f"{where}: expected a {kind.__name__.lower()}, found a {type(member).__name__.lower()}")
    return member


def _words(kinds: str) -> str:
    if "S" in kinds:
        return "fixed-length strings"
    return "floating-point numbers" if kinds == "f" else "numbers"
