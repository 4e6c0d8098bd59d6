"""The days that scenarios are made of, simulated and recorded, and the lists of scenarios of a benchmark."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bci_align.session.types import Session, unlabelled
from bci_align_sim.drift import Drift, apply
from bci_align_sim.scenarios import MAKERS, Indices, Maker, Material, Scenario
from bci_align_sim.task import record_day
from bci_align_sim.tuning import Tuning

LATER = 40
"""Trials scored after the calibration, at most."""

EARLIER = 30
"""Trials on which an earlier generation was renormalised."""

LEVELS = (0.2, 0.9)
"""Drift levels between the source day and the target day."""

SPARE = 1.25
"""Trials recorded for each one wanted: some fail."""

RUN_IN = 10
"""Bins before each calibration trial; TrainConfig's default."""

DEVELOPMENT_SEEDS = (100, 101, 102, 103)
BENCHMARK_SEEDS = (510, 511, 512, 513)


class Subject(Protocol):
    """Whoever was recorded: a ``source`` day, and target days as ``material``."""

    @property
    def source(self) -> Session:
        """The day on which the bundle is trained."""

    def material(self, maker: Maker, seed: int, level: float | None, earlier: bool) -> Material:
        """Material for ``maker``, another for another ``seed``; ``level`` of drift, None for one drawn from ``LEVELS``."""


@dataclass(frozen=True)
class SimulatedSubject:
    """A simulated array; each seed of :meth:`material` is another wear of it, another day, other movements."""

    seed: int
    channels: int = 48
    bin_s: float = 0.05
    trials: int = 140

    @property
    def source(self) -> Session:
        return record_day(self._tuning(), self.trials, self._seed("day0"), self.bin_s, f"subject {self.seed}")

    def material(self, maker: Maker, seed: int, level: float | None, earlier: bool) -> Material:
        """Material for ``maker`` as :class:`Subject` has it.

        An earlier generation stands half way to today's drift. Without drift since the incumbent it stands exactly there, and
        without an earlier generation the array is as it was on the source day.
        """
        rng = np.random.default_rng([self.seed, seed])
        wear, hand, before, second = (int(s) for s in rng.integers(2**31, size=4))
        level = float(rng.uniform(*LEVELS)) if level is None else level
        still = maker.kind == "no drift"
        level = 0.0 if still and not earlier else level
        n = int(rng.integers(maker.trials[0], maker.trials[1] + 1))
        day = self._day(wear, level, n + LATER, hand, f"drift {level:.2f}")
        calibration, later = _cut(day.rewarded(), 0, n)
        trials = None
        if earlier:
            past = self._day(wear, level if still else level / 2, EARLIER, before, "earlier")
            trials = unlabelled(past, past.rewarded()[:EARLIER], RUN_IN)
        other = None
        if maker.other == "animal":
            animal = Tuning.draw(self.channels, second)
            other = record_day(animal, round(SPARE * (n + LATER)), hand + 1, self.bin_s, "another animal")
        elif maker.other == "day":
            other = self._day(second, float(rng.uniform(*LEVELS)), n, hand + 1, "another day")
        return Material(day, calibration, later, RUN_IN, trials, other)

    def _seed(self, what: str) -> int:
        return int(np.random.SeedSequence([self.seed, zlib.crc32(what.encode())]).generate_state(1)[0])

    def _tuning(self) -> Tuning:
        return Tuning.draw(self.channels, self._seed("array"))

    def _day(self, wear: int, level: float, rewarded: int, hand: int, name: str) -> Session:
        return record_day(apply(self._tuning(), Drift.level(level), wear), round(SPARE * rewarded), hand, self.bin_s, name)


@dataclass(frozen=True, eq=False)
class RecordedSubject:
    """Two recorded days with the same channels; ``held_out``: trials of the source day that no training saw."""

    source: Session
    target: Session
    held_out: Indices
    good: tuple[int, int] = (40, 120)
    """Fewest and most calibration trials of a good scenario."""

    def material(self, maker: Maker, seed: int, level: float | None, earlier: bool) -> Material:
        """Material for ``maker`` as :class:`Subject` has it; ``level`` means nothing, the drift is what it was.

        Calibration is a random run of the target day's trials, the trials right after it are scored. No recording lies between
        the two days: an earlier generation is of the target day's own first trials. Without drift and without an earlier
        generation the held-out trials of the source day are divided at random.
        """
        rng = np.random.default_rng(seed)
        if maker.kind == "no drift" and not earlier:
            order = rng.permutation(self.held_out)
            half = len(order) // 2
            return Material(self.source, np.sort(order[:half]), np.sort(order[half:]), RUN_IN)
        rewarded = self.target.rewarded()
        first = EARLIER if earlier else 0
        low, high = self.good if maker.kind == "good" else maker.trials
        high = min(high, len(rewarded) - first - LATER)
        n = int(rng.integers(min(low, high), high + 1))
        calibration, later = _cut(rewarded, int(rng.integers(first, len(rewarded) - n - LATER + 1)), n)
        trials = unlabelled(self.target, rewarded[:EARLIER], RUN_IN) if earlier else None
        return Material(self.target, calibration, later, RUN_IN, trials, self.source if maker.other == "day" else None)


@dataclass(frozen=True)
class Plan:
    """One scenario before it is made: which ``maker`` on which ``subject``, by name; ``level`` of drift where it is set."""

    maker: str
    subject: str
    seed: int
    level: float | None = None
    earlier: bool = False

    def make(self, subjects: Mapping[str, Subject]) -> Scenario:
        """Make the scenario; the same plan gives the same bits."""
        maker = MAKERS[self.maker]
        seed = zlib.crc32(f"{self.maker}/{self.subject}/{self.seed}".encode())
        return maker(subjects[self.subject].material(maker, seed, self.level, self.earlier), seed)


def simulated_plans(subjects: Sequence[str], bad: int = 3, good: int = 12) -> list[Plan]:
    """``bad`` scenarios of every bad or trivial maker and ``good`` good ones, over all ``LEVELS``, for each subject.

    In every third scenario an earlier generation decodes. Which one it is turns from maker to maker and subject to subject.
    """
    plans = []
    makers = [m for m in MAKERS.values() if m.kind != "good"]
    for i, subject in enumerate(subjects):
        plans += [Plan(m.name, subject, k, None, (k + i + j) % 3 == 2) for j, m in enumerate(makers) for k in range(bad)]
        steps = (np.arange(good) + (i + 1) / (len(subjects) + 1)) / good
        levels = LEVELS[0] + (LEVELS[1] - LEVELS[0]) * steps
        plans += [Plan("drift", subject, k, float(level), (k + i) % 3 == 2) for k, level in enumerate(levels)]
    return plans


RECORDED = {
    "permuted": 6, "half dead": 6, "one direction": 8, "two trials": 6, "noise": 5, "shuffled bins": 5, "reversed": 4,
    "swapped pairs": 4, "mixture": 4, "gain drift": 4, "no drift": 6,
}  # fmt: skip
"""Bad and trivial scenarios of each kind from recorded days. There is no second animal with the same channels."""


def recorded_plans(subject: str, good: int = 16, bad: Mapping[str, int] = RECORDED) -> list[Plan]:
    """Scenarios of a recorded subject; good ones always from generation 0, for want of a day between the two."""
    plans = [Plan(name, subject, k, None, k % 3 == 2) for name, n in bad.items() for k in range(n)]
    return plans + [Plan("drift", subject, k) for k in range(good)]


def _cut(rewarded: Indices, first: int, n: int) -> tuple[Indices, Indices]:
    """``n`` trials from the ``first`` on, and the ``LATER`` ones after them."""
    return rewarded[first : first + n], rewarded[first + n : first + n + LATER]


def subject_seeds(development: bool) -> tuple[int, ...]:
    """Seeds of the simulated subjects on which thresholds may be chosen, or of those that are reported: never the same."""
    return DEVELOPMENT_SEEDS if development else BENCHMARK_SEEDS
