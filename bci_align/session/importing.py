"""Bring a foreign file in: a map in YAML says which array means what; no data set has code of its own.

``configs/import/`` holds examples. The map's faults are :class:`ConfigError`, the file's faults :class:`SessionError`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import ConfigError, SessionError
from bci_align.session.counts import whole_counts
from bci_align.session.importmap import ChannelsMap, ImportMap, KinematicsMap, SuccessMap, TrialsMap, ZeroMap
from bci_align.session.npz import Npz
from bci_align.session.types import TIME_TOLERANCE_S, Session, Trials, bin_of, validate

SCALED_TOLERANCE = 1e-3
"""How far a scaled count may lie from a whole number: rounding of stored means, never a real fraction."""

_NOT_YET = ("hdf5", "mat", "nwb", "xdf")


def import_file(path: str | Path, map: ImportMap, name: str | None = None) -> Session:
    """Read the foreign file ``path`` as ``map`` says into a valid session called ``name``.

    :class:`SessionError` names the file, the map's key, what was expected and what the file holds.
    """
    path = Path(path)
    map.check_layout()
    if map.format in _NOT_YET:
        raise ConfigError(f"format: {map.format!r} is not read yet; expected 'npz'")
    if map.format != "npz":
        raise ConfigError(f"format: expected 'npz', found {map.format!r}")
    file = Npz(path)
    bin_s = float(file.numbers(map.bin_s, "bin_s", ndim=0)) if isinstance(map.bin_s, str) else map.bin_s
    if not (np.isfinite(bin_s) and bin_s > 0):
        raise SessionError(f"{path}: bin_s: expected a positive number of seconds, found {bin_s}")
    raw = file.numbers(map.counts.array, "counts.array", ndim=2 if map.layout == "continuous" else 3)
    stored = raw.shape[:-1]  # (bins,) or (trials, bins)
    counts = whole_counts(
        raw.reshape(-1, raw.shape[-1]),
        f"{path}: counts.array {map.counts.array!r}",
        scale=map.counts.scale,
        tolerance=0.0 if map.counts.scale == 1.0 else SCALED_TOLERANCE,
    )
    kinematics, zero = _kinematics(file, map.kinematics, stored, bin_s)
    session = Session(
        counts=counts,
        bin_s=bin_s,
        channels=_channels(file, map.channels, counts.shape[1]),
        trials=_trials(file, map.trials) if map.layout == "continuous" else _rows(file, map.trials, stored, bin_s),
        kinematics=kinematics,
        kinematics_names=map.kinematics.names if map.kinematics else (),
        kinematics_units=map.kinematics.units if map.kinematics else (),
        name=name or map.name or path.stem,
        meta=_meta(path, map, zero),
        breaks=tuple(range(stored[-1], len(counts), stored[-1])),
    )
    return validate(session, str(path))


def _channels(file: Npz, map: ChannelsMap, n: int) -> tuple[str, ...]:
    if map.array is None:
        return tuple(f"{map.prefix}{i + 1}" for i in range(n))
    values = file.get(map.array, "channels.array")
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise SessionError(
            f"{file.path}: channels.array: expected a list of labels or whole numbers in array {map.array!r},"
            f" found shape {values.shape} of dtype {values.dtype}"
        )
    return tuple(map.prefix + _plain_text(v) for v in values)


def _plain_text(value: Any) -> str:
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _kinematics(
    file: Npz, map: KinematicsMap | None, stored: tuple[int, ...], bin_s: float
) -> tuple[NDArray[np.float32] | None, str]:
    """The kinematics (T, K), zeroed or differenced where the map says so, and a sentence on what was subtracted."""
    if map is None:
        return None, ""
    arrays = (map.array,) if isinstance(map.array, str) else map.array
    raw = np.concatenate([_outputs(file, name, stored) for name in arrays], axis=1)
    if not (raw.shape[1] == len(map.names) == len(map.units)):
        raise SessionError(
            f"{file.path}: kinematics: expected {raw.shape[1]} names and units, one per column of array {', '.join(arrays)!r},"
            f" found {len(map.names)} names and {len(map.units)} units"
        )
    told = ""
    if map.zero is not None:
        level = _rest(file, map.zero, raw, bin_s)
        raw = raw - level
        levels = ", ".join(f"{n} {v:.9g}" for n, v in zip(map.names, level, strict=True))
        told = f"{map.zero.statistic} of the {map.zero.before_s:g} s before {map.zero.event} subtracted: {levels}"
    if map.difference:
        raw = difference(raw, stored[-1], bin_s)
    with np.errstate(over="ignore"):  # validate() names what became infinite
        return raw.astype(np.float32), told


def _outputs(file: Npz, name: str, stored: tuple[int, ...]) -> NDArray[np.float64]:
    """One array of outputs as (T, K)."""
    raw = file.numbers(name, "kinematics.array", ndim=len(stored) + 1).astype(np.float64)
    if raw.shape[:-1] != stored:
        expected, what = (f"{stored[0]}", "one per bin") if len(stored) == 1 else (f"{stored}", "trials and bins as the counts")
        found = f"{len(raw)}" if len(stored) == 1 else f"{raw.shape[:-1]}"
        raise SessionError(f"{file.path}: kinematics.array: expected {expected} rows, {what}, found {found}")
    return raw.reshape(-1, raw.shape[-1])


def difference(position: NDArray[np.float64], stretch: int, bin_s: float) -> NDArray[np.float64]:
    """Backward difference of ``position`` (T, K) per second, within stretches of ``stretch`` bins each.

    Bin t holds ``(p_t - p_{t-1}) / bin_s``: it uses nothing after its own end, as a causal decoder must. The first bin of a
    stretch has no bin before it and holds 0, at rest, which is where every decoder's state starts; to repeat the second
    bin's difference would let the first know its future.
    """
    steps = np.diff(position, axis=0, prepend=position[:1])
    steps[::stretch] = 0.0
    return steps / bin_s


def _rest(file: Npz, map: ZeroMap, kinematics: NDArray[np.float64], bin_s: float) -> NDArray[np.float64]:
    """Per output, the statistic over the last whole bins before the event, pooled over the trials that have it."""
    key = "kinematics.zero"
    n = round(map.before_s / bin_s)
    if n < 1:
        raise SessionError(f"{file.path}: {key}.before_s: expected at least one bin of {bin_s:g} s, found {map.before_s:g} s")
    times = file.numbers(map.event, f"{key}.event", ndim=1).astype(np.float64)
    stops = [bin_of(t, bin_s) for t in times.tolist() if np.isfinite(t)]
    inside = [stop for stop in stops if n <= stop <= len(kinematics)]
    if not inside:
        raise SessionError(
            f"{file.path}: {key}.event: expected times in seconds inside the recording in array {map.event!r},"
            f" found none of {len(times)} with {map.before_s:g} s before it"
        )
    rest: NDArray[np.float64] = np.median(np.concatenate([kinematics[s - n : s] for s in inside]), axis=0)
    return rest


def _rows(file: Npz, map: TrialsMap, stored: tuple[int, ...], bin_s: float) -> Trials:
    """One rewarded trial per row of the counts, from its first bin to its last.

    An end on the edge behind a row would lie in the next row's first bin, so it is told a trifle before.
    """
    n, bins = stored
    start_s: NDArray[np.float64] = np.arange(n) * np.float64(bins * bin_s)
    end_s: NDArray[np.float64] = start_s + (bins * bin_s - 2 * TIME_TOLERANCE_S)
    return Trials(start_s, np.full(n, np.nan), end_s, np.ones(n, dtype=np.bool_), _target(file, map))


def _target(file: Npz, map: TrialsMap) -> NDArray[np.float64] | None:
    if map.target is None:
        return None
    target = file.numbers(map.target, "trials.target", ndim=(1, 2)).astype(np.float64)
    return target[:, None] if target.ndim == 1 else target


def _trials(file: Npz, map: TrialsMap) -> Trials:
    assert map.start is not None and map.end is not None and map.success is not None  # check_layout saw to it
    start_s = file.numbers(map.start, "trials.start", ndim=1).astype(np.float64)
    end_s = file.numbers(map.end, "trials.end", ndim=1).astype(np.float64)
    go_s = file.numbers(map.go, "trials.go", ndim=1).astype(np.float64) if map.go else np.full(len(start_s), np.nan)
    target = _target(file, map)
    if map.success == "all":
        return Trials(start_s, go_s, end_s, np.ones(len(start_s), dtype=np.bool_), target)
    return Trials(start_s, go_s, end_s, _success(file, map.success), target)


def _success(file: Npz, map: SuccessMap) -> NDArray[np.bool_]:
    """Which entries equal the map's value; a value that never occurs is a wrong map, not a day without rewards."""
    values = file.get(map.array, "trials.success.array")
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise SessionError(
            f"{file.path}: trials.success.array: expected one entry per trial in array {map.array!r},"
            f" found shape {values.shape} of dtype {values.dtype}"
        )
    plain = [_plain_text(v) for v in values] if values.dtype.kind in "US" else values.tolist()
    rewarded = np.array([isinstance(v, str) == isinstance(map.equals, str) and v == map.equals for v in plain], dtype=np.bool_)
    if not rewarded.any():
        some = ", ".join(repr(v) for v in list(dict.fromkeys(plain))[:5])
        raise SessionError(
            f"{file.path}: trials.success.equals: expected {map.equals!r} in array {map.array!r}, found only {some or 'nothing'}"
        )
    return rewarded


def _meta(path: Path, map: ImportMap, zero: str) -> dict[str, str]:
    """The map's meta and where the session came from."""
    own = {"source_file": path.name, "source_sha256": _sha256(path)}
    if map.subject is not None:
        own["subject"] = map.subject
    if zero:
        own["kinematics_zero"] = zero
    taken = sorted(own.keys() & map.meta.keys())
    if taken:
        raise ConfigError(f"key 'meta.{taken[0]}': expected another key, because the import fills this one in")
    return {**map.meta, **own}


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
