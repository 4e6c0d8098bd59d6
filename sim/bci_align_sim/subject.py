"""A simulated subject: turns movement, or the intention to move, into spike counts bin by bin.

Given the tuned rate (:mod:`bci_align_sim.tuning`), a channel's log rate also follows its own recent spikes, as in the
point-process models of Truccolo et al. 2005 (J Neurophysiol 93:1074), and a slow noise shared by the whole array. Counts are
therefore not plain Poisson, as recorded ones are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align_sim.tuning import SHARED, FloatArray, Tuning

HISTORY_TAU_S = np.array([0.02, 0.12])
"""Decay of a spike's effect on its own channel: refractoriness or bursting, then adaptation or excitability."""

HISTORY_RANGE = (-2.0, 0.7)
"""Bounds of the history's effect on the log rate, so that self-excitation cannot run away."""

SHARED_TAU_S = 0.25
"""Correlation time of the shared noise."""

DEAD_TIME_S = 0.001
"""A threshold detector counts no two crossings closer than this."""


@dataclass(frozen=True)
class SubjectState:
    """What the next bin depends on."""

    rates: FloatArray
    """(lead + 1, C) Hz, the rates of the movement planned for the coming bins; the first row is the nearest."""
    trace: FloatArray
    """(C, 2) decayed sum of spikes fired beyond the expected number, fast and slow."""
    shared: FloatArray
    """(SHARED,) the shared noise, of unit variance."""


class Subject:
    """The neurons of ``tuning`` seen in bins of ``bin_s`` seconds.

    Cortex leads movement: the counts of a bin tell of movement up to ``lead`` bins later, each channel by its own lead.
    """

    def __init__(self, tuning: Tuning, bin_s: float = 0.02) -> None:
        self.tuning = tuning
        self.bin_s = bin_s
        self._ahead = np.rint(tuning.lead_s / bin_s).astype(np.intp)
        self.lead = int(self._ahead.max())
        """Bins by which the movement given to :meth:`step` runs ahead of the counts it returns."""
        self._columns = np.arange(tuning.channels)
        self._decay = np.exp(-bin_s / HISTORY_TAU_S)
        self._shared_decay = math.exp(-bin_s / SHARED_TAU_S)
        self._loudness = 0.5 * (tuning.shared**2).sum(1)
        self._most = max(round(bin_s / DEAD_TIME_S), 1)

    def state0(self, position: FloatArray | None = None, velocity: FloatArray | None = None) -> SubjectState:
        """The state before the first bin.

        ``position`` and ``velocity`` (lead, 2), cm and cm/s, are the movement already planned for the first ``lead`` bins;
        without them the subject rests at the centre.
        """
        rest = np.zeros((self.lead, 2))
        rates = self.tuning.rates(rest if position is None else position, rest if velocity is None else velocity)
        # The oldest row is dropped by the first step before it is read, so its value never matters.
        rates = np.concatenate([np.zeros((1, self.tuning.channels)), rates])
        return SubjectState(rates, np.zeros((self.tuning.channels, 2)), np.zeros(SHARED))

    def step(
        self, rng: np.random.Generator, state: SubjectState, position: FloatArray, velocity: FloatArray
    ) -> tuple[SubjectState, NDArray[np.int32]]:
        """Counts of the next bin.

        ``position`` (2,) cm and ``velocity`` (2,) cm/s are the movement planned for ``lead`` bins after this one. Returns the
        next state and counts (C,) int32.
        """
        new = self.tuning.rates(position[None, :], velocity[None, :])
        planned = np.concatenate([state.rates[1:], new])
        trace, shared, counts = self._fire(rng, state.trace, state.shared, planned[self._ahead, self._columns])
        return SubjectState(planned, trace, shared), counts

    def run(self, rng: np.random.Generator, position: FloatArray, velocity: FloatArray) -> NDArray[np.int32]:
        """Counts (T, C) int32 for a whole movement: ``position`` (T, 2) cm and ``velocity`` (T, 2) cm/s, one row per bin.

        Equal, bit for bit, to :meth:`step` fed with the movement ``lead`` bins ahead (at rest after its end). Only the tuned
        rates are computed for all bins at once; firing needs each bin's spikes for the next.
        """
        bins = len(position)
        position = np.concatenate([position, np.repeat(position[-1:], self.lead, axis=0)])
        velocity = np.concatenate([velocity, np.zeros((self.lead, 2))])
        rates = self.tuning.rates(position, velocity)
        state = self.state0()
        trace, shared = state.trace, state.shared
        counts = np.empty((bins, self.tuning.channels), dtype=np.int32)
        for k in range(bins):
            trace, shared, counts[k] = self._fire(rng, trace, shared, rates[k + self._ahead, self._columns])
        return counts

    def _fire(
        self, rng: np.random.Generator, trace: FloatArray, shared: FloatArray, rate: FloatArray
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
        """One bin of spikes at the tuned ``rate`` (C,) Hz; returns the next trace, the next shared noise and the counts."""
        fresh = rng.standard_normal(SHARED)
        shared = self._shared_decay * shared + math.sqrt(1.0 - self._shared_decay**2) * fresh
        history = np.clip((self.tuning.history * trace).sum(1), *HISTORY_RANGE)
        # Half the variance is taken off so that the noise leaves a channel's mean rate alone.
        noise = (self.tuning.shared * shared).sum(1) - self._loudness
        expected = rate * self.bin_s
        counts = np.minimum(rng.poisson(expected * np.exp(history + noise)), self._most).astype(np.int32)
        # Spikes beyond the expected number, not all spikes: history then shapes the timing and leaves the tuning alone.
        trace = self._decay * (trace + (counts - expected)[:, None])
        return trace, shared, counts
