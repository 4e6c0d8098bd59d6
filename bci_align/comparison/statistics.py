"""What the scores of one run say: R2 and its bootstrap from the same per-trial sums, and what a method is worth.

R2 in per cent. Everything here is arithmetic on sums; it reads no session and runs no method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

BLOCK = 5
"""Consecutive trials that are drawn together: neighbours share the state of the array and of the subject."""

DRAWS = 2000
LEVEL = 0.95

LEAST_GAIN = 0.5
"""R2 points between re-normalisation and the oracle, below which a share of that gain is a ratio of two noises."""


@dataclass(frozen=True)
class Truth:
    """What was to be decoded, per scored trial, in source standard deviations.

    ``bins`` (n,); ``total`` (n, K) sums and ``square`` (n, K) sums of squares of the kinematics over each trial's bins.
    """

    bins: Floats
    total: Floats
    square: Floats

    @classmethod
    def of(cls, trials: Sequence[Floats]) -> Truth:
        """Sum kinematics (T_i, K) of each trial; about their common mean, which R2 does not see and rounding does."""
        centre = np.concatenate(list(trials)).mean(0)
        moved = [np.asarray(t, np.float64) - centre for t in trials]
        return cls(
            np.array([float(len(t)) for t in moved]),
            np.stack([t.sum(0) for t in moved]),
            np.stack([(t * t).sum(0) for t in moved]),
        )

    def spread(self, draw: Index) -> Floats:
        """Sum of squares (...,) about the mean of the trials in ``draw`` (..., n), all outputs together; 0 for rounding alone."""
        bins, total, square = self.bins[draw].sum(-1), self.total[draw].sum(-2), self.square[draw].sum(-2)
        spread = (square - total**2 / bins[..., None]).sum(-1)
        return np.asarray(np.where(spread > 1e-9 * square.sum(-1), spread, 0.0))


def r2(truth: Truth, error: Floats, draw: Index | None = None) -> Floats:
    """Variance-weighted R2 (%) of squared-error sums ``error`` (n, K) on the trials of ``draw`` (..., n); None: on each once.

    The same number as :func:`bci_align.evaluation.metrics.r2` of the trials' bins put end to end. NaN where the trials drawn do
    not move.
    """
    draw = np.arange(len(truth.bins)) if draw is None else draw
    spread = truth.spread(draw)
    lost = error[draw].sum((-1, -2))
    return np.asarray(100 * (1 - np.divide(lost, spread, out=np.full_like(spread, np.nan), where=spread > 0)))


def blocks(trials: int, draws: int, rng: np.random.Generator, length: int = BLOCK) -> Index:
    """Draw ``trials`` indices in blocks of ``length`` consecutive ones, the last trial followed by the first: (draws, trials).

    Circular block bootstrap (Politis & Romano 1992): every trial is as likely as any other. Few trials get shorter blocks.
    """
    length = max(1, min(length, trials // 4))
    starts = rng.integers(trials, size=(draws, math.ceil(trials / length)))
    return np.asarray(((starts[..., None] + np.arange(length)) % trials).reshape(draws, -1)[:, :trials])


@dataclass(frozen=True)
class Resampled:
    """R2 (%) of several methods, mean over seeds: ``value`` on what was measured, ``draws`` (B,) of the bootstrap."""

    value: Mapping[str, float]
    draws: Mapping[str, Floats]

    def interval(self, quantity: Callable[[Mapping[str, float]], float], level: float = LEVEL) -> tuple[float, float]:
        """Percentile interval of ``quantity`` of the methods' R2; draws where it is not a number are left out."""
        names = list(self.draws)
        columns = zip(*(self.draws[n].tolist() for n in names), strict=True)
        values = np.array([quantity(dict(zip(names, row, strict=True))) for row in columns])
        values = values[~np.isnan(values)]
        if not len(values):
            return math.nan, math.nan
        tail = 50 * (1 - level)
        # A quantity may be infinite ("worth more than all"): no interpolation between the draws.
        low, high = np.percentile(values, [tail, 100 - tail], method="nearest")
        return float(low), float(high)


def resample(
    truths: Sequence[Truth], errors: Mapping[str, Sequence[Floats]], draws: int = DRAWS, seed: int = 0, length: int = BLOCK
) -> Resampled:
    """Bootstrap seeds and blocks of trials, the same draw for every method: differences are paired.

    ``truths`` one per seed, of the same trials (their unit, the source day's standard deviation, depends on the seed);
    ``errors``: squared-error sums (n, K) of each method, one array per seed.
    """
    rng = np.random.default_rng(seed)
    seeds = len(truths)
    trials = blocks(len(truths[0].bins), draws, rng, length)
    which = rng.integers(seeds, size=(draws, seeds))
    value, drawn = {}, {}
    for name, per_seed in errors.items():
        value[name] = float(np.mean([r2(t, e) for t, e in zip(truths, per_seed, strict=True)]))
        each = np.stack([r2(t, e, trials) for t, e in zip(truths, per_seed, strict=True)])
        drawn[name] = each[which, np.arange(draws)[:, None]].mean(1)
    return Resampled(value, drawn)


def of_oracle(value: float, oracle: float) -> float:
    """R2 as a share of the supervised oracle's; NaN where the oracle itself decodes nothing."""
    return value / oracle if oracle > 0 else math.nan


def recovered(value: float, renormalised: float, oracle: float) -> float:
    """Share of what labels would have gained over re-normalisation; NaN where they gain less than ``LEAST_GAIN`` points."""
    gain = oracle - renormalised
    return (value - renormalised) / gain if gain >= LEAST_GAIN else math.nan


def worth(value: float, labelled: Sequence[int], curve: Sequence[float]) -> float:
    """Number of labelled trials with which supervised refitting gets R2 ``value``.

    ``curve``: its R2 with each of ``labelled`` trials (rising), made monotone by its running maximum, then interpolated in log
    k. -inf below the first, inf above the last, NaN without a number.
    """
    if math.isnan(value) or not len(labelled) or np.isnan(curve).any():
        return math.nan
    rising = np.maximum.accumulate(np.asarray(curve, np.float64))
    if value < rising[0]:
        return -math.inf
    if value > rising[-1]:
        return math.inf
    first = np.unique(rising, return_index=True)[1]  # on a plateau the fewest trials are what it is worth
    return float(np.exp(np.interp(value, rising[first], np.log(np.asarray(labelled, np.float64)[first]))))


def worth_text(k: float, labelled: Sequence[int]) -> str:
    """How ``worth`` is shown: '< 5', '23', '> 120', '-'."""
    if math.isnan(k):
        return "-"
    if math.isinf(k):
        return f"< {labelled[0]}" if k < 0 else f"> {labelled[-1]}"
    return f"{k:.0f}"
