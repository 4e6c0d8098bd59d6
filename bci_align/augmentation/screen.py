"""Which generated trials are let through: an ensemble agrees with the label, the activity is realistic, the code in support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.moments import Moments, lagged, windows_as_stream
from bci_align.augmentation.navigate import Navigator
from bci_align.augmentation.trials import Array, TrialSet
from bci_align.config import RetrainConfig

Floats = NDArray[np.float64]
LAGS = 4
RIDGE = 0.1
SLACK = 1.25
"""By how much the range of real trials may be left."""


@dataclass(frozen=True)
class Screened:
    """What was let through: ``kept`` (n,) bool; ``yields``: share of all that passed each test, and ``kept``, all of them."""

    kept: NDArray[np.bool_]
    yields: dict[str, float]


def screen(
    generated: TrialSet,
    codes: Array,
    navigator: Navigator,
    real: TrialSet,
    config: RetrainConfig,
    rng: np.random.Generator,
) -> Screened:
    """Judge ``generated`` trials made from ``codes`` (n, L) beside the ``real`` training trials.

    *Ensemble*: ``members`` ridge decoders, each of its own random half of the channels (the decoder that is to be retrained is
    never among them), fitted on the real trials and the *other* half of the generated ones, so that none judges a trial it has
    seen, and so that a target without real trials is not refused for being new; however many are generated, they weigh no more
    than the real ones, lest they be judged by each other alone. A trial passes if the members' mean decoding errs by at most
    ``tolerance`` standard deviations of the kinematics.
    *Range*: spikes per bin over the array between the least and the most of the real trials, and the kinematics' extent no larger
    than the largest, both with a quarter to spare. *Support*: the code's distance from its target's mean code is one that
    training trials have.
    """
    tests = {
        "ensemble": _ensemble(generated, real, config, rng),
        "range": _range(generated, real),
        "support": navigator.distance(codes, generated.target) <= SLACK * navigator.limit,
    }
    kept = np.logical_and.reduce(list(tests.values()))
    return Screened(kept, {name: float(ok.mean()) for name, ok in tests.items()} | {"kept": float(kept.mean())})


def _range(generated: TrialSet, real: TrialSet) -> NDArray[np.bool_]:
    def loudness(t: TrialSet) -> Floats:
        return t.counts.sum(2).mean(1)

    def extent(t: TrialSet) -> Floats:
        return np.linalg.norm(t.kinematics - real.kinematics.mean((0, 1)), axis=2).max(1)

    low, high = loudness(real).min() / SLACK, loudness(real).max() * SLACK
    found = loudness(generated)
    ok: NDArray[np.bool_] = (found >= low) & (found <= high) & (extent(generated) <= SLACK * extent(real).max())
    return ok


def _ensemble(generated: TrialSet, real: TrialSet, config: RetrainConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    n, channels = len(generated), generated.counts.shape[2]
    half = rng.permutation(n) % 2
    scale = real.kinematics.std((0, 1)) + 1e-12
    decoded = np.zeros(generated.kinematics.shape)
    for _ in range(config.members):
        some = rng.permutation(channels)[: max(channels // 2, 1)]
        by = Moments.of(*_design(real, some))
        for side in (0, 1):
            judged = half == side
            if not judged.any():
                continue
            sums = by
            if (~judged).any():
                others = Moments.of(*_design(generated.of(~judged), some))
                sums = by.plus(others, min(1.0, by.bins / others.bins))
            weights = sums.solve(RIDGE)
            decoded[judged] += (_design(generated.of(judged), some)[0] @ weights).reshape(*generated.kinematics[judged].shape)
    error = (decoded / config.members - generated.kinematics) / scale
    ok: NDArray[np.bool_] = np.sqrt(np.square(error[:, LAGS:]).mean((1, 2))) <= config.tolerance
    return ok


def _design(trials: TrialSet, channels: NDArray[np.intp]) -> tuple[Floats, Floats]:
    features, breaks = windows_as_stream(trials.counts[..., channels])
    return lagged(features, np.arange(len(features)), LAGS, breaks), windows_as_stream(trials.kinematics)[0]
