"""Scenarios on which a label-free gate is judged: what it sees, and what comes afterwards.

A maker takes the :class:`Material` of one day, simulated or recorded, and a random generator. Where a fault is of the wiring or
the array it stays for the later trials; where it is of the calibration (an amplifier that broke for ten minutes, a monotonous
task) the later trials are as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bci_align.session.types import Session, UnlabelledTrials, unlabelled

Kind = Literal["bad", "good", "no drift"]
Indices = NDArray[np.intp]
Counts = NDArray[np.float32]

SAME_TARGET = 1e-6
"""Targets closer than this, in the task's own units, are one."""

DRIFTING_LOG_GAIN = 1.0
"""Standard deviation of the channels' log gains at the day's end where gains go on drifting, above all of any good day."""

BEAT_HZ = 0.7
"""A mains-like artefact comes and goes at this rate: the hum's beat with the bins."""


@dataclass(frozen=True, eq=False)
class Material:
    """One target day before anything is done to it, and what else a maker may need.

    ``calibration`` and ``later`` index the rewarded trials of ``target`` that are aligned on and scored; ``earlier``: trials on
    which an earlier generation, today's incumbent, is renormalised (None: the incumbent is the source day's read-in); ``other``:
    a second day with the same channels, of the same array or of another animal, where a maker asks for one.
    """

    target: Session
    calibration: Indices
    later: Indices
    run_in: int
    earlier: UnlabelledTrials | None = None
    other: Session | None = None


@dataclass(frozen=True, eq=False)
class Scenario:
    """``calibration`` is all that aligner and gate see; ``later_trials`` (indices) of ``later`` are scored with its labels.

    ``earlier`` as in :class:`Material`. 'good': aligning should pay; 'bad': it may well not; 'no drift': nothing is to be gained.
    """

    name: str
    kind: Kind
    calibration: UnlabelledTrials
    later: Session
    later_trials: Indices
    earlier: UnlabelledTrials | None = None


Change = Callable[[Material, np.random.Generator], Scenario]


@dataclass(frozen=True)
class Maker:
    """A named maker.

    ``kind`` of its scenarios; ``trials``: fewest and most calibration trials of its material; ``other``: the second day that it
    needs ('day': the same array's, 'animal': another one's).
    """

    name: str
    kind: Kind
    change: Change
    trials: tuple[int, int] = (20, 60)
    other: Literal["day", "animal"] | None = None

    def __call__(self, material: Material, seed: int) -> Scenario:
        """Make the scenario; the same material and seed give the same one."""
        return self.change(material, np.random.default_rng(seed))


def plain(name: str, kind: Kind) -> Change:
    """A normal day."""

    def change(m: Material, rng: np.random.Generator) -> Scenario:
        return _whole_day(name, m, m.target.counts, kind)

    return change


def permuted(m: Material, rng: np.random.Generator) -> Scenario:
    """Every channel on another one's input: the wiring, so for the later trials too."""
    c = len(m.target.channels)
    order = rng.permutation(c)
    # A cycle through all channels in a random order: no channel stays where it was.
    wiring = np.empty(c, np.intp)
    wiring[order] = np.roll(order, 1)
    return _whole_day("permuted", m, m.target.counts[:, wiring])


def reversed_order(m: Material, rng: np.random.Generator) -> Scenario:
    """The connector turned round: the last channel first."""
    return _whole_day("reversed", m, m.target.counts[:, ::-1])


def swapped_pairs(m: Material, rng: np.random.Generator) -> Scenario:
    """A quarter to three quarters of the channels swapped pairwise."""
    c = len(m.target.channels)
    pairs = rng.permutation(c)[: 2 * round(rng.uniform(0.125, 0.375) * c)].reshape(-1, 2)
    wiring = np.arange(c)
    wiring[pairs[:, 0]], wiring[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    return _whole_day("swapped pairs", m, m.target.counts[:, wiring])


def half_dead(m: Material, rng: np.random.Generator) -> Scenario:
    """Half of the channels silent for good: a whole bank of the connector, or channels here and there."""
    c = len(m.target.channels)
    dead = (np.arange(c) + rng.integers(c)) % c if rng.random() < 0.5 else rng.permutation(c)
    counts = m.target.counts.copy()
    counts[:, dead[: c // 2]] = 0
    return _whole_day("half dead", m, counts)


def another_animal(m: Material, rng: np.random.Generator) -> Scenario:
    """Another animal's day altogether; its trials are calibrated on and scored."""
    other = _other(m)
    rewarded, n = other.rewarded(), len(m.calibration)
    calibration = unlabelled(other, rewarded[:n], m.run_in)
    return Scenario("another animal", "bad", calibration, other, rewarded[n:][: len(m.later)], m.earlier)


def two_trials(m: Material, rng: np.random.Generator) -> Scenario:
    """Two calibration trials."""
    two = np.sort(rng.choice(m.calibration, 2, replace=False))
    return _whole_day("two trials", replace(m, calibration=two), m.target.counts)


def one_direction(m: Material, rng: np.random.Generator) -> Scenario:
    """All calibration trials to one target, the later ones to all."""
    assert m.target.trials.target is not None
    targets = m.target.trials.target[m.calibration]
    chosen = np.unique(targets.round(3), axis=0)
    same = np.abs(targets.round(3) - chosen[rng.integers(len(chosen))]).max(1) < SAME_TARGET
    return _whole_day("one direction", replace(m, calibration=m.calibration[same]), m.target.counts)


def gain_drift(m: Material, rng: np.random.Generator) -> Scenario:
    """Gains that go on drifting after calibration, to ``DRIFTING_LOG_GAIN`` at the last later trial.

    Spikes are lost at random below 1 and gained in proportion above: a detector's threshold that moves through the noise.
    """
    first, last = m.target.trial_bins(int(m.calibration[-1]))[1], m.target.trial_bins(int(m.later[-1]))[1]
    share = np.clip((np.arange(m.target.bins) - first) / max(last - first, 1), 0, 1)
    gain = np.exp(share[:, None] * rng.normal(0, DRIFTING_LOG_GAIN, len(m.target.channels)))
    kept = rng.binomial(m.target.counts, np.minimum(gain, 1))
    gained = rng.poisson(m.target.counts * np.maximum(gain - 1, 0))
    return _whole_day("gain drift", m, kept + gained)


def noise(m: Material, rng: np.random.Generator) -> Scenario:
    """Independent Poisson noise of the channels' mean rates for calibration (a broken amplifier); later trials normal."""
    before = unlabelled(m.target, m.calibration, m.run_in)
    rate = np.concatenate(before.bodies()).mean(0)
    return _broken("noise", m, before, lambda x: rng.poisson(rate, x.shape))


def shuffled_bins(m: Material, rng: np.random.Generator) -> Scenario:
    """The bins of each calibration trial in a random order; later trials normal."""
    before = unlabelled(m.target, m.calibration, m.run_in)
    return _broken("shuffled bins", m, before, lambda x: rng.permutation(x, axis=0))


def saturated(m: Material, rng: np.random.Generator) -> Scenario:
    """A third to nine tenths of the channels at their largest count in every bin of the calibration; later trials normal."""
    before = unlabelled(m.target, m.calibration, m.run_in)
    c = len(m.target.channels)
    stuck = rng.permutation(c)[: round(rng.uniform(0.3, 0.9) * c)]
    most = np.concatenate(before.counts).max(0)

    def change(x: Counts) -> Counts:
        x = x.copy()
        x[:, stuck] = most[stuck]
        return x

    return _broken("saturated", m, before, change)


def mains(m: Material, rng: np.random.Generator) -> Scenario:
    """A common artefact on all channels while calibrating, gone later: see :func:`_hum`."""
    before = unlabelled(m.target, m.calibration, m.run_in)
    size = rng.uniform(1.0, 4.0)
    return _broken("mains", m, before, lambda x: x + _hum(len(x), m.target.bin_s, size, rng))


def mains_to_stay(m: Material, rng: np.random.Generator) -> Scenario:
    """The common artefact of :func:`mains` on the whole day."""
    hum = _hum(m.target.bins, m.target.bin_s, rng.uniform(1.0, 4.0), rng)
    return _whole_day("mains to stay", m, m.target.counts + hum.astype(np.int32))


def mixture(m: Material, rng: np.random.Generator) -> Scenario:
    """Calibration trials of two days, every one as likely of either and at least one of each; later trials of the target day."""
    other = _other(m)
    today = unlabelled(m.target, m.calibration, m.run_in)
    # Those of another day come in random order: their place in it must not follow the target day's.
    before = unlabelled(other, rng.choice(other.rewarded(), len(today)), m.run_in)
    foreign = rng.random(len(today)) < 0.5
    foreign[rng.choice(len(today), 2, replace=False)] = [True, False]
    counts = tuple(b if f else t for f, b, t in zip(foreign, before.counts, today.counts, strict=True))
    run_in = tuple(b if f else t for f, b, t in zip(foreign, before.run_in, today.run_in, strict=True))
    mixed = replace(today, counts=counts, run_in=run_in)
    return Scenario("mixture", "bad", mixed, m.target, m.later, m.earlier)


ONE_DIRECTION_TRIALS = (128, 128)
"""Eight targets in shuffled blocks: some fifteen rewarded trials to each."""

MAKERS = {
    maker.name: maker
    for maker in (
        Maker("permuted", "bad", permuted),
        Maker("reversed", "bad", reversed_order),
        Maker("swapped pairs", "bad", swapped_pairs),
        Maker("half dead", "bad", half_dead),
        Maker("another animal", "bad", another_animal, other="animal"),
        Maker("two trials", "bad", two_trials),
        Maker("one direction", "bad", one_direction, ONE_DIRECTION_TRIALS),
        Maker("gain drift", "bad", gain_drift),
        Maker("noise", "bad", noise),
        Maker("shuffled bins", "bad", shuffled_bins),
        Maker("saturated", "bad", saturated),
        Maker("mains", "bad", mains),
        Maker("mains to stay", "bad", mains_to_stay),
        Maker("mixture", "bad", mixture, other="day"),
        Maker("no drift", "no drift", plain("no drift", "no drift")),
        Maker("drift", "good", plain("drift", "good")),
    )
}
"""Every maker by its name."""


def _other(m: Material) -> Session:
    if m.other is None:
        raise ValueError("the material holds no second day")
    return m.other


def _whole_day(name: str, m: Material, counts: NDArray[np.generic], kind: Kind = "bad") -> Scenario:
    """The target day with other ``counts`` (T, C), before calibration and after it."""
    day = replace(m.target, counts=np.ascontiguousarray(counts, np.int32))
    return Scenario(name, kind, unlabelled(day, m.calibration, m.run_in), day, m.later, m.earlier)


def _broken(name: str, m: Material, trials: UnlabelledTrials, change: Callable[[Counts], NDArray[np.generic]]) -> Scenario:
    """Change the calibration trials, their run-in included, and leave the later ones alone."""
    calibration = replace(trials, counts=tuple(np.asarray(change(x), np.float32) for x in trials.counts))
    return Scenario(name, "bad", calibration, m.target, m.later, m.earlier)


def _hum(bins: int, bin_s: float, size: float, rng: np.random.Generator) -> Counts:
    """Crossings (bins, 1) that an artefact causes on every channel at once, ``size`` per bin on average, in slow beats."""
    wave = 1 + np.sin(2 * np.pi * (BEAT_HZ * bin_s * np.arange(bins) + rng.random()))
    return np.asarray(rng.poisson(size * wave), np.float32)[:, None]
