"""Read arrays from an npz file that nobody vouches for: never a pickle, never more memory than the file can account for."""

from __future__ import annotations

import difflib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import SessionError
from bci_align.session.sniff import NPZ, looks_like, regular_file

LARGEST = 16 * 2**30
"""Bytes that one array may take in memory."""

_BEST_RATIO = 1100
"""Deflate cannot pack more than about 1032 to 1."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError, MemoryError)


class Npz:
    """The arrays of one npz file by name, each checked before a byte of its data is read."""

    def __init__(self, path: Path) -> None:
        self.path = regular_file(path)
        kind = looks_like(path)
        if kind != NPZ:
            raise SessionError(f"{path}: expected a NumPy .npz file, found {kind}")
        try:
            with zipfile.ZipFile(path) as z:
                self._members = {i.filename.removesuffix(".npy"): i for i in z.infolist()}
        except _DAMAGE as e:
            raise SessionError(f"{path}: the file is damaged or cut short ({e})") from e

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in the file's order."""
        return list(self._members)

    def get(self, name: str, key: str) -> NDArray[Any]:
        """The array ``name``, which the map's ``key`` asks for (named in every :class:`SessionError`)."""
        info = self._members.get(name)
        if info is None:
            near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.0)
            raise SessionError(
                f"{self.path}: {key}: no array {name!r}; the nearest is {near[0]!r}, and the file holds {', '.join(self.names)}"
            )
        if info.file_size > _BEST_RATIO * info.compress_size + 2**16:
            raise SessionError(f"{self.path}: array {name!r} claims {info.file_size} bytes from {info.compress_size} in the zip")
        try:
            with zipfile.ZipFile(self.path) as z:
                with z.open(info) as f:
                    self._check_header(f, name, info.file_size)
                with z.open(info) as f:
                    return np.asarray(np.lib.format.read_array(f, allow_pickle=False))
        except _DAMAGE as e:
            raise SessionError(f"{self.path}: array {name!r} is damaged or cut short ({e})") from e

    def numbers(self, name: str, key: str, *, ndim: int | tuple[int, ...]) -> NDArray[Any]:
        """The array ``name`` if it is numeric (or bool) with ``ndim`` axes (any of several); 0 takes any array of one element."""
        a = self.get(name, key)
        if a.dtype.kind not in "biuf":
            raise SessionError(f"{self.path}: {key}: expected numbers in array {name!r}, found dtype {a.dtype}")
        if ndim == 0 and a.size == 1:
            return a.reshape(())
        axes = ndim if isinstance(ndim, tuple) else (ndim,)
        if a.ndim not in axes:
            expected = "a single number" if ndim == 0 else f"{' or '.join(map(str, axes))} axes"
            raise SessionError(f"{self.path}: {key}: expected {expected} in array {name!r}, found shape {a.shape}")
        return a

    def _check_header(self, f: Any, name: str, declared: int) -> None:
        """Refuse pickles and false sizes by the .npy header alone."""
        version = np.lib.format.read_magic(f)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(f)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(f)
        else:
            raise SessionError(f"{self.path}: array {name!r}: expected .npy version 1.0 or 2.0, found {version}")
        if dtype.hasobject:
            raise SessionError(
                f"{self.path}: array {name!r} is pickled; pickles are never read, because opening one can run code:"
                " save it as a plain numeric or string array"
            )
        size = math.prod(shape) * dtype.itemsize
        if size > LARGEST:
            raise SessionError(f"{self.path}: array {name!r}: expected at most {LARGEST // 2**30} GiB, found shape {shape}")
        if min(shape, default=0) < 0 or size != declared - f.tell():
            raise SessionError(
                f"{self.path}: array {name!r}: expected {size} bytes for shape {shape}, found {declared - f.tell()} in the zip"
            )
