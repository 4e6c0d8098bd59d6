"""A live session on disk: one HDF5 file that a kill at any instant leaves readable.

Attributes ``format``, ``schema``, ``started`` (ISO 8601, UTC), ``bin_s`` (seconds), ``bundle`` (its directory), ``identity`` (its
hash), ``versions``; datasets ``channels`` (C,), ``outputs`` and ``units`` (K,), ``records`` (n,), each one record of the tape
(:func:`~bci_align.runtime.tape.record_dtype`) with its own seal, and ``audit`` (m,), the bytes of the audit log's lines of this
session. The file is in HDF5's single-writer mode: what is flushed stays readable whatever happens next, by HDF5's own ordering
of its writes, and the seals say where a record is not whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bci_align.errors import RuntimeFault, SessionError
from bci_align.runtime.tape import record_dtype
from bci_align.session import h5read
from bci_align.session.io import as_text
from bci_align.session.sniff import HDF5, looks_like, regular_file

if TYPE_CHECKING:  # the recorder writes without ever reading calls
    from bci_align.runtime.calls import Call, Hole

FORMAT = "bci_align.recording"
SCHEMA = 1

_CHUNK_BYTES = 2**16
_BLOCK = 4096
"""Records that are in memory at once while reading."""


@dataclass(frozen=True)
class About:
    """What a recording says of itself; ``bundle`` and ``identity`` are those of the start."""

    channels: tuple[str, ...]
    outputs: tuple[str, ...]
    units: tuple[str, ...]
    bin_s: float
    bundle: str
    identity: str
    started: str
    versions: str


class Writer:
    """Writes a new recording; a path that exists is refused. ``OSError`` when the disk will not take more."""

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        dtype = record_dtype(len(about.channels), len(about.outputs))
        try:
            self._file: Any = h5py.File(path, "x", libver=("v110", "v110"))
        except FileExistsError:
            raise RuntimeFault(f"{path}: already exists and is never overwritten") from None
        f = self._file
        f.attrs.update({"format": as_text(FORMAT), "schema": SCHEMA, "bin_s": about.bin_s})
        f.attrs.update({k: as_text(getattr(about, k)) for k in ("started", "bundle", "identity", "versions")})
        for name in ("channels", "outputs", "units"):
            f.create_dataset(name, data=as_text(getattr(about, name)))
        rows = max(_CHUNK_BYTES // dtype.itemsize, 16)
        self._records = f.create_dataset("records", (0,), dtype, maxshape=(None,), chunks=(rows,))
        self._audit = f.create_dataset("audit", (0,), np.uint8, maxshape=(None,), chunks=(_CHUNK_BYTES // 8,))
        f.flush()
        # No object can be made from here on; what is there can grow, and a reader finds it whole at any time.
        f.swmr_mode = True
        self._handle = os.open(path, os.O_RDONLY)
        self._dtype = dtype
        self.records = 0
        """Records written."""

    def write(self, rows: list[NDArray[np.uint8]], audit: bytes = b"") -> None:
        """Append records, given as their bytes, and bytes of the audit log, and have both on the disk before returning."""
        if rows:
            self._append(self._records, np.concatenate(rows).view(self._dtype))
            self.records += len(rows)
        if audit:
            self._append(self._audit, np.frombuffer(audit, np.uint8))
        if rows or audit:
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; harmless when called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._file.close()

    @staticmethod
    def _append(dataset: Any, items: NDArray[Any]) -> None:
        n = dataset.shape[0]
        dataset.resize((n + len(items),))
        dataset[n:] = items
        dataset.flush()


class Recording:
    """A recording to read, also one whose writer was killed or is still at work. Use as a context manager.

    Every fault is one :class:`SessionError`: no such file, not HDF5, another format or schema, damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        kind = looks_like(regular_file(self.path))
        if kind != HDF5:
            raise SessionError(f"{self.path}: expected a recording (HDF5), found {kind}")
        try:
            # As a reader beside a writer: the only way to open what a killed writer has left.
            self._file: Any = h5py.File(self.path, "r", libver="latest", swmr=True)
        except h5read.DAMAGE as e:
            raise SessionError(f"{self.path}: the file is damaged or no recording ({e})") from None
        try:
            self.about = self._about()
        except h5read.DAMAGE as e:
            self.close()
            raise SessionError(f"{self.path}: the file is damaged or cut short ({e})") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._records.shape[0])

    def close(self) -> None:
        """Close the file; harmless when called twice."""
        self._file.close()

    def calls(self) -> Iterator[Call | Hole]:
        """Calls on the decode loop in order, and the holes between them; see :func:`~bci_align.runtime.calls.parse`."""
        from bci_align.runtime.calls import parse

        return parse(self.rows(), self.dtype)

    def rows(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes of every record, in order."""
        for at in range(0, len(self), _BLOCK):
            try:
                block = np.asarray(self._records[at : at + _BLOCK])
            except h5read.DAMAGE as e:
                raise SessionError(f"{self.path}: records: cannot be read from number {at} on ({e})") from None
            yield from block.view(np.uint8).reshape(len(block), -1)

    def audit(self) -> bytes:
        """The audit log's lines of this session."""
        return bytes(h5read.array(self._file, "audit", self.path, ndim=1, kinds="u").tobytes())

    def _about(self) -> About:
        f, path = self._file, self.path
        found = h5read.text(f.attrs["format"], f"{path}: format") if "format" in f.attrs else None
        if found != FORMAT:
            raise SessionError(f"{path}: format: expected {FORMAT!r}, found {found!r}")
        schema = f.attrs.get("schema")
        if not isinstance(schema, int | np.integer) or int(schema) != SCHEMA:
            raise SessionError(f"{path}: schema: expected {SCHEMA}, found {schema!r}; another version of bci_align wrote this")
        bin_s = f.attrs.get("bin_s")
        if not isinstance(bin_s, float) or not bin_s > 0:
            raise SessionError(f"{path}: bin_s: expected a positive number of seconds, found {bin_s!r}")

        def labels(name: str) -> tuple[str, ...]:
            return h5read.labels(h5read.array(f, name, path, ndim=1, kinds="S"), f"{path}: {name}")

        texts = {k: h5read.text(f.attrs.get(k), f"{path}: {k}") for k in ("started", "bundle", "identity", "versions")}
        about = About(labels("channels"), labels("outputs"), labels("units"), float(bin_s), **texts)
        self.dtype = record_dtype(len(about.channels), len(about.outputs))
        self._records = h5read.dataset(f, "records", path)
        if self._records.dtype != self.dtype or len(self._records.shape) != 1:
            raise SessionError(f"{path}: records: expected one axis of {self.dtype.itemsize} bytes each, found something else")
        return about


def is_recording(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file that says it is a recording."""
    if not path.is_file() or looks_like(path) != HDF5:
        return False
    try:
        with h5py.File(path, "r", libver="latest", swmr=True) as f:
            return "format" in f.attrs and h5read.text(f.attrs["format"], str(path)) == FORMAT
    except (SessionError, *h5read.DAMAGE):
        return False
