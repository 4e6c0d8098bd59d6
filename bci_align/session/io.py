"""Sessions on disk: one HDF5 file per recorded day, which reads back equal to what was saved.

Root attributes ``format``, ``schema``, ``name``, ``bin_s`` (seconds), ``sha256``; datasets ``counts`` (T, C), ``channels``
(C,), ``kinematics`` (T, K) with attributes ``names`` and ``units``, ``trials/{start_s,go_s,end_s,success,target}``, and
``breaks`` (n,) where the recording has gaps; group ``meta`` with one attribute per entry. ``sha256`` is
:func:`~bci_align.session.digest.digest` of the whole session, so that a flipped bit anywhere is an error, not data; a file
that another program wrote to this layout may leave it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bci_align.atomic import write_file
from bci_align.errors import SessionError
from bci_align.session import h5read
from bci_align.session.counts import MOST, whole_counts
from bci_align.session.digest import digest
from bci_align.session.sniff import HDF5, looks_like, regular_file
from bci_align.session.types import Session, Trials, validate

FORMAT = "bci_align.session"
SCHEMA = 1


def save(session: Session, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``session`` to ``path`` whole or not at all; an existing file is replaced only with ``overwrite``.

    :class:`SessionError` when the session breaks its contract, holds something the file could not give back equal, or the
    file cannot be written.
    """
    path = Path(path)
    validate(session, str(path))
    _check_storable(session, str(path))
    with write_file(path, overwrite=overwrite, error=SessionError) as temporary:
        try:
            # v108: metadata with checksums, and attributes of any length; read by every HDF5 since 2008.
            with h5py.File(temporary, "w", libver=("v108", "v108")) as f:
                _write(f, session)
        except (OSError, ValueError, RuntimeError) as e:
            raise SessionError(f"{path}: cannot be written ({e})") from e


def load(path: str | Path) -> Session:
    """Read the session in ``path``.

    Every fault is one :class:`SessionError`: no such file, not HDF5 (what it looks like instead), cut short or altered,
    another format or schema, a dataset missing or of the wrong dtype or shape, or a session that breaks its contract.
    """
    path = Path(path)
    kind = looks_like(regular_file(path))
    if kind != HDF5:
        raise SessionError(f"{path}: expected a session file (HDF5), found {kind}")
    try:
        with h5py.File(path, "r") as f:
            session = _read(f, path)
            told = h5read.text(f.attrs["sha256"], f"{path}: sha256") if "sha256" in f.attrs else None
    except h5read.DAMAGE as e:
        raise SessionError(f"{path}: the file is damaged or cut short ({e})") from e
    validate(session, str(path))
    if told is not None and told != digest(session):
        raise SessionError(f"{path}: sha256: expected {told} as when it was saved, found another; the file was altered")
    return session


def _check_storable(s: Session, where: str) -> None:
    """What validate() lets pass but a file would lose or change."""

    def fail(field: str, expected: str, found: object) -> SessionError:
        return SessionError(f"{where}: {field}: expected {expected}, found {found}")

    if int(s.counts.max()) > MOST:
        raise fail("counts", f"spike counts of at most {MOST}", int(s.counts.max()))
    if s.kinematics is not None and s.kinematics.dtype != np.float32:
        raise fail("kinematics", "float32", s.kinematics.dtype)
    if s.trials.success.dtype != np.bool_:
        raise fail("trials.success", "bool", s.trials.success.dtype)
    texts = {"name": s.name}
    texts |= {f"channels[{i}]": c for i, c in enumerate(s.channels)}
    texts |= {f"kinematics_names[{i}]": c for i, c in enumerate(s.kinematics_names)}
    texts |= {f"kinematics_units[{i}]": c for i, c in enumerate(s.kinematics_units)}
    for key, value in s.meta.items():
        texts |= {f"meta key {key!r}": key, f"meta[{key!r}]": value}
        if not key:
            raise fail("meta", "keys that are not empty", repr(key))
    for field, text in texts.items():
        # HDF5 strings end at a NUL and are UTF-8.
        if not isinstance(text, str) or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise fail(field, "text without NUL or lone surrogates", repr(text))


def _write(f: Any, s: Session) -> None:
    f.attrs.update(
        {"format": as_text(FORMAT), "schema": SCHEMA, "name": as_text(s.name), "bin_s": s.bin_s, "sha256": as_text(digest(s))}
    )
    most = int(s.counts.max())
    smallest = next(t for t in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(t).max)
    _put(f, "counts", s.counts.astype(smallest))
    _put(f, "channels", as_text(s.channels))
    if s.kinematics is not None:
        k = _put(f, "kinematics", s.kinematics)
        k.attrs["names"] = as_text(s.kinematics_names)
        k.attrs["units"] = as_text(s.kinematics_units)
    trials = f.create_group("trials")
    for name in ("start_s", "go_s", "end_s"):
        _put(trials, name, getattr(s.trials, name).astype(np.float64))
    _put(trials, "success", s.trials.success.astype(np.uint8))
    if s.trials.target is not None:
        _put(trials, "target", s.trials.target.astype(np.float64))
    if s.breaks:
        _put(f, "breaks", np.array(s.breaks, np.int64))
    f.create_group("meta").attrs.update({key: as_text(value) for key, value in s.meta.items()})


def _put(group: Any, name: str, array: NDArray[Any]) -> Any:
    if array.size == 0:  # HDF5 has no chunks of nothing, and so no filters
        return group.create_dataset(name, data=array)
    return group.create_dataset(
        name, data=array, dtype=array.dtype, compression="gzip", compression_opts=4, shuffle=True, fletcher32=True
    )


def as_text(value: str | tuple[str, ...]) -> NDArray[Any]:
    """Text as fixed-length UTF-8: variable-length strings lie where HDF5 keeps no checksum, and list as objects."""
    encoded = [v.encode() for v in ((value,) if isinstance(value, str) else value)]
    flat = np.array(encoded, dtype=h5py.string_dtype("utf-8", max((len(v) for v in encoded), default=1) or 1))
    return flat.reshape(()) if isinstance(value, str) else flat


def _read(f: Any, path: Path) -> Session:
    if "format" not in f.attrs:
        raise SessionError(f"{path}: format: expected {FORMAT!r}, found an HDF5 file without that attribute")
    found = h5read.text(f.attrs["format"], f"{path}: format")
    if found != FORMAT:
        raise SessionError(f"{path}: format: expected {FORMAT!r}, found {found!r}")
    schema = f.attrs.get("schema")
    if not isinstance(schema, int | np.integer) or int(schema) != SCHEMA:
        raise SessionError(f"{path}: schema: expected {SCHEMA}, found {schema!r}; another version of bci_align wrote this file")
    bin_s = f.attrs.get("bin_s")
    if not isinstance(bin_s, float):  # np.float64 is one
        raise SessionError(f"{path}: bin_s: expected a float64 attribute in seconds, found {bin_s!r}")
    # What the counts take once they are int32 decides, not their small dtype on disk.
    counts = whole_counts(h5read.array(f, "counts", path, ndim=2, kinds="iuf", itemsize=4), f"{path}: counts")
    kinematics: NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    if "kinematics" in f:
        kinematics = h5read.array(f, "kinematics", path, ndim=2, kinds="f")
        if kinematics.dtype.itemsize != 4:
            raise SessionError(f"{path}: kinematics: expected float32, found {kinematics.dtype}")
        kinematics = kinematics.astype(np.float32)  # in the machine's byte order
        names = h5read.labels(f["kinematics"].attrs.get("names"), f"{path}: kinematics names")
        units = h5read.labels(f["kinematics"].attrs.get("units"), f"{path}: kinematics units")
    breaks = h5read.array(f, "breaks", path, ndim=1, kinds="iu") if "breaks" in f else np.zeros(0, np.int64)
    return Session(
        counts=counts,
        bin_s=float(bin_s),
        channels=h5read.labels(h5read.array(f, "channels", path, ndim=1, kinds="S"), f"{path}: channels"),
        trials=_read_trials(h5read.group(f, "trials", path), path),
        kinematics=kinematics,
        kinematics_names=names,
        kinematics_units=units,
        name=h5read.text(f.attrs.get("name"), f"{path}: name"),
        meta={
            str(key): h5read.text(value, f"{path}: meta[{key!r}]") for key, value in h5read.group(f, "meta", path).attrs.items()
        },
        breaks=tuple(int(b) for b in breaks),
    )


def _read_trials(g: Any, path: Path) -> Trials:
    start_s, go_s, end_s = (
        h5read.array(g, name, path, ndim=1, kinds="f").astype(np.float64) for name in ("start_s", "go_s", "end_s")
    )
    success = h5read.array(g, "success", path, ndim=1, kinds="biu")
    if not np.isin(success, (0, 1)).all():
        raise SessionError(f"{path}: trials/success: expected 0 or 1, found {success[~np.isin(success, (0, 1))][0]}")
    target = h5read.array(g, "target", path, ndim=2, kinds="fiu").astype(np.float64) if "target" in g else None
    return Trials(start_s, go_s, end_s, success.astype(np.bool_), target)
