"""Bring a foreign file in: a map in YAML says which array means what; no data set has code of its own.

``configs/import/`` holds examples. The map's faults are :class:`ConfigError`, the file's faults :class:`SessionError`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bci_align.config import Strict
from bci_align.errors import ConfigError, SessionError
from bci_align.session.counts import whole_counts
from bci_align.session.npz import Npz
from bci_align.session.types import Session, Trials, bin_of, validate

SCALED_TOLERANCE = 1e-3
"""How far a scaled count may lie from a whole number: rounding of stored means, never a real fraction."""

_NOT_YET = ("hdf5", "mat", "nwb", "xdf")


class CountsMap(Strict):
    """Where the spike counts are."""

    array: str = Field(description="array of spike counts, (bins, channels)")
    scale: float = Field(1.0, gt=0, description="factor that makes counts of what is stored, e.g. 13 for a mean over 13 bins")


class ChannelsMap(Strict):
    """What the channels are called: the array's values, or numbers from 1 where there is none, each after ``prefix``."""

    array: str | None = Field(None, description="array of channel labels, one per column of the counts")
    prefix: str = Field("", description="text before each label or number")


class ZeroMap(Strict):
    """Which rest defines the zero of the kinematics; what was subtracted is written into the session's meta."""

    event: str = Field(description="array of event times in seconds, one per trial")
    before_s: float = Field(gt=0, description="seconds of rest that end at the event")
    statistic: Literal["median"] = Field("median", description="statistic over those bins of all trials, per output")


class KinematicsMap(Strict):
    """Where the behaviour is."""

    array: str = Field(description="array (bins, outputs)")
    names: tuple[str, ...] = Field(description="one name per output")
    units: tuple[str, ...] = Field(description="one unit per output")
    zero: ZeroMap | None = Field(None, description="subtract the level at rest; none keeps the values as they are")


class SuccessMap(Strict):
    """Which trials were rewarded."""

    array: str = Field(description="array with one entry per trial")
    equals: bool | int | float | str = Field(description="its value in rewarded trials")


class TrialsMap(Strict):
    """Where the trial events are: arrays of times in seconds from the start of bin 0."""

    start: str = Field(description="array of trial starts")
    go: str | None = Field(None, description="array of go cues; none where the task has no go cue")
    end: str = Field(description="array of trial ends")
    success: SuccessMap | Literal["all"] = Field(description="which trials were rewarded, or 'all'")
    target: str | None = Field(None, description="array (trials, D) of targets, for scoring only")


class ImportMap(Strict):
    """What the arrays of a foreign file mean: ``bci-align import --map MAP.yaml``."""

    format: str = Field(description="kind of file: npz")
    counts: CountsMap
    bin_s: str | float = Field(description="bin width: seconds, or the array that holds it")
    channels: ChannelsMap = ChannelsMap()
    kinematics: KinematicsMap | None = None
    trials: TrialsMap
    name: str | None = Field(None, description="name of the session; none takes the file's")
    subject: str | None = Field(None, description="who was recorded")
    meta: dict[str, str] = Field(default_factory=dict, description="free text to keep with the session: origin, citation")


def import_file(path: str | Path, map: ImportMap, name: str | None = None) -> Session:
    """Read the foreign file ``path`` as ``map`` says into a valid session called ``name``.

    :class:`SessionError` names the file, the map's key, what was expected and what the file holds.
    """
    path = Path(path)
    if map.format in _NOT_YET:
        raise ConfigError(f"format: {map.format!r} is not read yet; expected 'npz'")
    if map.format != "npz":
        raise ConfigError(f"format: expected 'npz', found {map.format!r}")
    file = Npz(path)
    bin_s = float(file.numbers(map.bin_s, "bin_s", ndim=0)) if isinstance(map.bin_s, str) else map.bin_s
    if not (np.isfinite(bin_s) and bin_s > 0):
        raise SessionError(f"{path}: bin_s: expected a positive number of seconds, found {bin_s}")
    counts = whole_counts(
        file.numbers(map.counts.array, "counts.array", ndim=2),
        f"{path}: counts.array {map.counts.array!r}",
        scale=map.counts.scale,
        tolerance=0.0 if map.counts.scale == 1.0 else SCALED_TOLERANCE,
    )
    kinematics, zero = _kinematics(file, map.kinematics, len(counts), bin_s)
    session = Session(
        counts=counts,
        bin_s=bin_s,
        channels=_channels(file, map.channels, counts.shape[1]),
        trials=_trials(file, map.trials),
        kinematics=kinematics,
        kinematics_names=map.kinematics.names if map.kinematics else (),
        kinematics_units=map.kinematics.units if map.kinematics else (),
        name=name or map.name or path.stem,
        meta=_meta(path, map, zero),
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


def _kinematics(file: Npz, map: KinematicsMap | None, bins: int, bin_s: float) -> tuple[NDArray[np.float32] | None, str]:
    """The kinematics, zeroed where the map says so, and a sentence on what was subtracted."""
    if map is None:
        return None, ""
    raw = file.numbers(map.array, "kinematics.array", ndim=2).astype(np.float64)
    if not (raw.shape[1] == len(map.names) == len(map.units)):
        raise SessionError(
            f"{file.path}: kinematics: expected {raw.shape[1]} names and units, one per column of array {map.array!r},"
            f" found {len(map.names)} names and {len(map.units)} units"
        )
    if len(raw) != bins:
        raise SessionError(f"{file.path}: kinematics.array: expected {bins} rows, one per bin, found {len(raw)}")
    told = ""
    if map.zero is not None:
        level = _rest(file, map.zero, raw, bin_s)
        raw = raw - level
        levels = ", ".join(f"{n} {v:.9g}" for n, v in zip(map.names, level, strict=True))
        told = f"{map.zero.statistic} of the {map.zero.before_s:g} s before {map.zero.event} subtracted: {levels}"
    with np.errstate(over="ignore"):  # validate() names what became infinite
        return raw.astype(np.float32), told


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


def _trials(file: Npz, map: TrialsMap) -> Trials:
    start_s = file.numbers(map.start, "trials.start", ndim=1).astype(np.float64)
    end_s = file.numbers(map.end, "trials.end", ndim=1).astype(np.float64)
    go_s = file.numbers(map.go, "trials.go", ndim=1).astype(np.float64) if map.go else np.full(len(start_s), np.nan)
    target = file.numbers(map.target, "trials.target", ndim=2).astype(np.float64) if map.target else None
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
