"""What generated trials are worth to a decoder: isometric day 16 with targets missing, or few trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation import codes, rivals
from bci_align.augmentation.carry import carry, with_earlier
from bci_align.augmentation.encoding import Encoding
from bci_align.augmentation.generate import Generator
from bci_align.augmentation.makers import screened
from bci_align.augmentation.model import SHARE, HoldOut, hold_out
from bci_align.augmentation.retrain import Choice, Ground, Maker, augmented, counts_in_noise
from bci_align.augmentation.spaces import LinearSpace, Space
from bci_align.augmentation.trials import Index, TrialSet, cut, window_bins
from bci_align.config import AugmentConfig, RetrainConfig
from bci_align.evaluation.score import rows
from bci_align.session.types import Session
from benchmarks.common import say

LAGS = 10
"""Of the decoder under test, a ridge on counts."""
CALIBRATION = 120
"""Rewarded trials that calibration trials are taken from; all later ones are scored."""
MISSING_AT = (0, 2, 3, 5, 6)
"""Middle of the three adjacent targets that seed s misses, counted from angle 0 in steps of 45 degrees."""
REAL, OURS, OURS_EARLIER, ORACLE = "real trials alone", "ours", "ours, with an earlier day", "oracle: all calibration trials"
ENCODED = "encoding model of rotated kinematics (ours without codes)"
EARLIER, CARRIED = "earlier day's trials, re-normalised", "earlier day's trials, carried over (ours without codes)"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """One method on one seed: R2 (%) of later trials of the ``asked`` targets (those missing, or all) and of the ``others``."""

    method: str
    seed: int
    asked: float
    others: float
    ratio: float
    held_out: dict[float, float]
    yields: dict[str, float]


def octant(target: Floats) -> Index:
    """Which of eight directions each target (n, 2) has."""
    return np.round(np.degrees(np.arctan2(target[:, 1], target[:, 0])) / 45).astype(np.intp) % 8


@dataclass(frozen=True)
class Scene:
    """One calibration: its ``trials`` (indices), what is ``asked`` for (m, 2), and what is scored."""

    session: Session
    trials: Index
    asked: Floats
    scored: Index
    others: Index
    oracle: Index
    how: HoldOut
    seed: int


def missing(session: Session, seed: int) -> Scene:
    """Three adjacent targets without calibration trials."""
    rewarded = session.rewarded()
    assert session.trials.target is not None
    target = session.trials.target[rewarded]
    gone = np.isin(octant(target), [(MISSING_AT[seed % len(MISSING_AT)] + k) % 8 for k in (-1, 0, 1)])
    early = np.arange(len(rewarded)) < CALIBRATION
    asked = np.unique(np.round(target[gone], 6), axis=0)
    late = rewarded[~early]
    return Scene(
        session, rewarded[early & ~gone], asked, late[gone[~early]], late[~gone[~early]], rewarded[early], "target", seed
    )


def few(session: Session, seed: int, per_target: int = 2) -> Scene:
    """So many calibration trials of every target, drawn by seed."""
    rewarded = session.rewarded()
    assert session.trials.target is not None
    target = session.trials.target[rewarded]
    which, rng = octant(target[:CALIBRATION]), np.random.default_rng(seed)
    chosen = np.sort(np.concatenate([rng.permutation(np.flatnonzero(which == k))[:per_target] for k in range(8)]))
    asked = np.unique(np.round(target, 6), axis=0)
    late = rewarded[CALIBRATION:]
    return Scene(session, rewarded[chosen], asked, late, late, rewarded[:CALIBRATION], "trials", seed)


def compare(scene: Scene, earlier: Session, config: AugmentConfig, settings: RetrainConfig, vae_too: bool) -> list[Result]:
    """Every method on one scene, each with ratio and ridge chosen on the same held-out calibration trials."""
    s = scene.session
    assert s.kinematics is not None
    seen = rows(s, scene.trials)
    scale = s.kinematics[seen].std(0).astype(np.float64)
    features = counts_in_noise(s.counts.astype(np.float32), seen)
    cuts, kept = cut(s, scene.trials, config)
    ground, oracle, asked, others = (
        Ground(s, t, features, scale, LAGS) for t in (kept, scene.oracle, scene.scored, scene.others)
    )
    out = hold_out(cuts, scene.how, SHARE, scene.seed, config)
    training = cuts.of(np.setdiff1d(np.arange(len(cuts)), out))
    tried = np.unique(np.concatenate([scene.asked, cuts.of(out).conditions()[0]]), axis=0)
    before = window_bins(config, s.bin_s)[0]
    day0 = cut(earlier, earlier.rewarded(), config)[0]

    def score(method: str, weights: Floats, choice: Choice) -> Result:
        places = [np.arange(len(g.trials)) for g in (asked, others)]
        found = Result(
            method,
            scene.seed,
            asked.r2(weights, places[0]),
            others.r2(weights, places[1]),
            choice.ratio,
            choice.table,
            choice.yields,
        )
        say(f"  {method}: {found.asked:.1f} ({found.others:.1f}), ratio {found.ratio:g}")
        return found

    def run(method: str, make: Callable[[TrialSet], Maker]) -> Result:
        return score(method, *refit(make(training), make(cuts)))

    def refit(proof: Maker, full: Maker) -> tuple[Floats, Choice]:
        return augmented(ground, out, proof, full, cuts.target, scene.asked, tried, settings, scene.seed)

    def encoding(real: TrialSet) -> Encoding:
        return Encoding.fit(real, before, s.bin_s)

    def space(fit: Callable[[TrialSet], Space], encoded: bool = False, and_earlier: bool = False) -> Callable[[TrialSet], Maker]:
        def make(real: TrialSet) -> Maker:
            start = with_earlier(real, day0 if and_earlier else None)
            by = encoding(start) if encoded else None
            generator = Generator.fit(fit(start), start, before, scene.seed, recorded=real, encoding=by)
            return screened(generator, start, real, settings)

        return make

    def ours(t: TrialSet) -> Space:
        return codes.train(t, config, scene.seed)

    def vae(t: TrialSet) -> Space:
        networks = codes.untrained(config, *_sizes(t))
        size = sum(p.numel() for n in networks for p in n.parameters())
        return rivals.train_vae(t, config, scene.seed, size)

    never = Choice(0.0, 0.0, {}, 0.0, 0.0)
    weights, choice = refit(_nothing(training), _nothing(cuts))
    results = [score(REAL, weights, choice)]
    for name, plain in rivals.PLAIN.items():
        results.append(run(name, lambda real, plain=plain: _plain(plain, real)))  # type: ignore[misc]
    results.append(run("PCA-20 codes", space(lambda t: LinearSpace.fit(t, 20))))
    if vae_too:
        results.append(run("sequential VAE", space(vae)))
    results.append(run(ENCODED, lambda real: _encoded(encoding(real), real)))
    results.append(run(OURS, space(ours, encoded=True)))
    results.append(run(EARLIER, lambda real: _of_earlier(renormalised(day0, real))))
    results.append(run(CARRIED, lambda real: _of_earlier(carry(day0, real))))
    results.append(run(OURS_EARLIER, space(ours, encoded=True, and_earlier=True)))
    full = oracle.fit(np.arange(len(oracle.trials)), None, 0.0, choice.ridge)
    return [*results, score(ORACLE, full, never)]


def _sizes(t: TrialSet) -> tuple[int, int, int]:
    return t.rates.shape[1], t.rates.shape[2], t.kinematics.shape[2]


def _nothing(real: TrialSet) -> Maker:
    return lambda targets, count, seed: (real.of(np.zeros(0, np.intp)), {})


def _plain(plain: Callable[[TrialSet, Floats, int, np.random.Generator], TrialSet], real: TrialSet) -> Maker:
    return lambda targets, count, seed: (plain(real, targets, count, np.random.default_rng(seed)), {})


def _encoded(encoding: Encoding, real: TrialSet) -> Maker:
    def make(targets: Floats, count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        rng = np.random.default_rng(seed)
        turned = rivals.rotated(real, targets, count, rng)
        rates = encoding.rates(turned.kinematics)
        return TrialSet(encoding.spikes.draw(rates, rng), rates, turned.kinematics, turned.target), {}

    return make


def _of_earlier(trials: TrialSet) -> Maker:
    """The earlier day's own trials of the targets asked for, however many there are."""

    def make(targets: Floats, count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        return trials.of((np.abs(trials.target[:, None] - targets[None]).max(2) < 1e-6).any(1)), {}

    return make


def renormalised(earlier: TrialSet, today: TrialSet) -> TrialSet:
    """An earlier day's trials with every channel's counts scaled to today's mean rate."""
    factor = (today.counts.mean((0, 1)) + 0.02) / (earlier.counts.mean((0, 1)) + 0.02)
    return replace(earlier, counts=(earlier.counts * factor).astype(np.float32))
