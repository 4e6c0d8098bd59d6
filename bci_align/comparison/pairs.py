"""Pairs of days to compare methods on: named in a YAML file, or found as session files in a directory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from bci_align.config import Strict, TrainConfig, load
from bci_align.errors import ConfigError, MismatchError, SessionError
from bci_align.session import io
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session, refuse_generated

DEFAULT = "pairs.yaml"
"""Name of the pairs file that is looked for beside the data."""

CURVE = (5, 20)
"""Numbers of unlabelled trials beside all of them, where no file says other ones."""

LEAST_SCORED = 5
"""Fewer scored trials tell nothing of a method, let alone of a difference between two."""


class DayFile(Strict):
    """One recording."""

    file: str = Field(min_length=1, description="recording, relative to the data directory")
    map: str | None = Field(None, description="import map, relative to the pairs file; none for a session file (.h5)")


class PairFile(Strict):
    """One pair of days."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="plain word; names figures and folders")
    source: DayFile
    target: DayFile
    calibration: int = Field(ge=2, description="first rewarded trials of the target day, aligned on; the later ones are scored")
    unlabelled: tuple[int, ...] = Field((), description="numbers of calibration trials to align on, for the curve; none: all")
    train: TrainConfig = Field(TrainConfig(), description="source-day training; keys that are left out keep their default")


class PairsFile(Strict):
    """``bci-align benchmark alignment --pairs FILE``; an example is configs/benchmark/real.yaml."""

    pairs: tuple[PairFile, ...] = Field(min_length=1, description="pairs of days, each compared for itself")


@dataclass(frozen=True)
class Pair:
    """Two days to compare methods on.

    The first ``calibration`` rewarded trials of ``target`` calibrate, the later ones are scored once. ``unlabelled_counts``:
    how many of the calibration trials, from the first on, the methods are given, in rising order; the last is the headline.
    A target without kinematics has label-free scores only. ``train`` are the settings of the source-day training.
    """

    name: str
    source: Session
    target: Session
    calibration: int
    unlabelled_counts: tuple[int, ...]
    train: TrainConfig = field(default_factory=TrainConfig)


def find_pairs(data: Path, pairs_file: Path | None = None) -> list[Pair]:
    """Give the pairs that ``pairs_file`` (default: ``pairs.yaml`` in ``data``) names, every one checked.

    Without such a file the session files (.h5) of ``data`` in order of name: the first is the source, every other one a target,
    half of whose rewarded trials calibrate. Raises :class:`ConfigError`, :class:`SessionError` or :class:`MismatchError`.
    """
    if not data.is_dir():
        raise ConfigError(f"{data}: expected a directory of recordings, found {'a file' if data.exists() else 'nothing'}")
    if pairs_file is None and (data / DEFAULT).is_file():
        pairs_file = data / DEFAULT
    return _named(data, pairs_file) if pairs_file else _unnamed(data)


def _named(data: Path, pairs_file: Path) -> list[Pair]:
    told = load(PairsFile, pairs_file).pairs
    twice = [name for name, times in Counter(p.name for p in told).items() if times > 1]
    if twice:
        raise ConfigError(f"{pairs_file}: pairs: expected different names, found {twice[0]!r} more than once")
    days: dict[DayFile, Session] = {}
    for day in (d for p in told for d in (p.source, p.target)):
        if day not in days:
            days[day] = _day(data, pairs_file, day)
    return [
        _checked(
            Pair(p.name, days[p.source], days[p.target], p.calibration, p.unlabelled or (p.calibration,), p.train),
            f"{pairs_file}: pair {p.name!r}",
        )
        for p in told
    ]


def _day(data: Path, pairs_file: Path, day: DayFile) -> Session:
    path = data / day.file
    return import_file(path, load(ImportMap, pairs_file.parent / day.map)) if day.map else io.load(path)


def _unnamed(data: Path) -> list[Pair]:
    files = sorted(data.glob("*.h5"))
    if len(files) < 2:
        raise ConfigError(f"{data}: expected {DEFAULT} or at least two session files (.h5), found {len(files)} and no {DEFAULT}")
    source, *targets = [io.load(f) for f in files]
    pairs = []
    for path, target in zip(files[1:], targets, strict=True):
        calibration = len(target.rewarded()) // 2
        counts = (*(n for n in CURVE if n < calibration), calibration)
        name = "".join(c if (c.isalnum() and c.isascii()) or c in "-_" else "_" for c in path.stem)
        pairs.append(_checked(Pair(name, source, target, calibration, counts), f"{path}"))
    return pairs


def _checked(p: Pair, where: str) -> Pair:
    """Refuse before hours of training what could not be compared after them."""
    for day in (p.source, p.target):
        refuse_generated(day, where)
    trials = len(p.target.rewarded())
    if p.calibration < 2 or trials - p.calibration < LEAST_SCORED:
        raise SessionError(
            f"{where}: expected a target day of at least {max(p.calibration, 2) + LEAST_SCORED} rewarded trials"
            f" ({max(p.calibration, 2)} to align on, {LEAST_SCORED} to score), found {trials}"
        )
    counts = p.unlabelled_counts
    if list(counts) != sorted(set(counts)) or counts[0] < 2 or counts[-1] > p.calibration:
        raise ConfigError(
            f"{where}: unlabelled: expected rising numbers from 2 to calibration ({p.calibration}), found {list(counts)}"
        )
    if p.source.kinematics is None:
        raise SessionError(f"{where}: source day {p.source.name!r}: kinematics: expected some to train a decoder on, found none")
    if len(p.source.rewarded()) < p.train.min_trials:
        raise SessionError(
            f"{where}: source day {p.source.name!r}: expected at least {p.train.min_trials} rewarded trials to train on,"
            f" found {len(p.source.rewarded())}"
        )
    if abs(p.source.bin_s - p.target.bin_s) > 1e-9:
        raise MismatchError(
            f"{where}: expected bins of {p.source.bin_s:g} s on both days, found {p.target.bin_s:g} s on the target"
        )
    for key in ("kinematics_names", "kinematics_units") if p.target.kinematics is not None else ():
        expected, found = (", ".join(getattr(day, key)) for day in (p.source, p.target))
        if expected != found:
            what = key.replace("_", ": ")
            raise MismatchError(f"{where}: {what}: expected {expected} on both days, found {found} on the target")
    return p
