"""Spikes of rates: Poisson, or each neuron with its own dispersion and memory of the last bin, and all with shared gains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.beyond import Beyond
from bci_align.augmentation.trials import Array, TrialSet

Floats = NDArray[np.float64]
FLOOR = 1e-4
"""Expected spikes per bin below which a rate counts as this."""


def poisson(rates: Array, rng: np.random.Generator) -> Array:
    """Counts (n, T, C) of ``rates`` (n, T, C), spikes per bin."""
    return rng.poisson(np.maximum(rates, FLOOR)).astype(np.float32)


@dataclass(frozen=True)
class SpikeModel:
    """How counts scatter around rates: neuron by neuron, and all neurons together.

    ``dispersion`` (C,): variance over mean (1: Poisson). ``memory`` (C,): spikes that one spike more than expected in a bin
    brings in the next one; it changes timing and leaves the mean rate alone. ``beyond``: what no neuron has of its own, None
    around rates that hold it already.
    """

    dispersion: Floats
    memory: Floats
    beyond: Beyond | None = None

    @classmethod
    def fit(cls, counts: Array, rates: Array, most: int = 0) -> SpikeModel:
        """Fit to ``counts`` around ``rates`` (n, T, C), both of the same trials.

        Moments: dispersion is sum (n - r)^2 / sum r without what is shared, memory the regression of a bin's n - r on the bin
        before, both shrunk towards Poisson by 20 spikes' worth. Rates that were smoothed from these very counts hold back some of
        the scatter, and all that is slow and shared: around them only the neurons' own is fitted (``most`` = 0). Around rates
        that are decoded from these trials' codes up to ``most`` shared gains are looked for.
        """
        expected = np.maximum(rates.astype(np.float64), FLOOR)
        beyond = Beyond.fit(counts, expected, most) if most else None
        if beyond is not None:
            expected = expected * beyond.sharpness
        left = counts.astype(np.float64) - (rates if beyond is None else expected)
        memory = (left[:, 1:] * left[:, :-1]).sum((0, 1)) / (np.square(left[:, :-1]).sum((0, 1)) + 20)
        memory = np.clip(memory, -0.4, 0.4)
        fresh = left[:, 1:] - memory * left[:, :-1]
        shared = 0.0 if beyond is None else (np.square(expected) * np.expm1(beyond.variance()))[:, 1:].sum((0, 1))
        dispersion = (np.square(fresh).sum((0, 1)) - shared + 20) / (expected[:, 1:].sum((0, 1)) + 20)
        return cls(np.clip(dispersion, 0.2, 5.0), memory, beyond)

    def draw(self, rates: Array, rng: np.random.Generator) -> Array:
        """Counts (n, T, C) of ``rates`` (n, T, C).

        Above 1 the scatter is a negative binomial's, below 1 a binomial's with random number of chances, so that mean and
        variance are those asked for (a rate smaller than 1 - dispersion cannot scatter so little and is Poisson-like).
        """
        out = np.empty(rates.shape, np.float32)
        before = np.zeros((rates.shape[0], rates.shape[2]))
        gains = 1.0 if self.beyond is None else self.beyond.draw(len(rates), rng)
        expected = np.maximum(rates.astype(np.float64) * gains, FLOOR)
        for t in range(rates.shape[1]):
            rate = expected[:, t]
            mean = np.maximum(rate + self.memory * before, 0.1 * rate)
            out[:, t] = self._scatter(mean, rng)
            before = out[:, t].astype(np.float64) - rate
        return out

    def _scatter(self, mean: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
        over = np.broadcast_to(self.dispersion > 1 + 1e-6, mean.shape)
        loose = np.maximum(self.dispersion - 1, 1e-6)
        wide = rng.poisson(rng.gamma(np.maximum(mean / loose, 1e-9), loose))
        p = np.clip(1 - self.dispersion, 1e-6, 0.95)
        chances = mean / p
        whole = np.floor(chances) + (rng.random(mean.shape) < chances % 1)
        narrow = rng.binomial(whole.astype(np.int64), p)
        return np.where(over, wide, narrow)


def resampled(trials: TrialSet, count: int, rng: np.random.Generator) -> TrialSet:
    """``count`` trials with fresh Poisson spikes of real trials' own smoothed rates: noise is added and nothing else."""
    rows = rng.choice(len(trials), count, replace=count > len(trials))
    some = trials.of(rows)
    return some.with_counts(poisson(some.rates, rng))
