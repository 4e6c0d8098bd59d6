"""Rivals that know each channel by itself: nothing, re-normalisation once, re-normalisation that runs along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.rivals.protocol import checked, to_source_counts
from bci_align.alignment.start import renormalise as fixed
from bci_align.bundle.store import Bundle
from bci_align.models.read_in import Array, ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.signal.normaliser import SD_FLOOR

TIME_CONSTANT_S = 120.0
"""Seconds over which the running statistics forget: long against one movement, so that they follow the array and not the arm."""


@checked
def none(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Decode today as if it were the source day."""
    return bundle.read_in


@checked
def renormalise(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Per-channel mean and standard deviation of today's trials in place of the source day's."""
    return fixed(bundle.read_in, trials)


@dataclass(frozen=True)
class RunningNormaliser:
    """Counts (T, C) -> source-like counts (T, C) by exponentially weighted statistics of each channel.

    ``read_in`` the source day's; ``mean`` (C,) spikes per bin and ``variance`` (C,) where the statistics start; ``rate`` the
    weight of the newest bin, ``1 - exp(-bin_s / time constant)``.
    """

    read_in: ReadIn
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    rate: float

    def __call__(self, counts: Array) -> Array:
        mean, variance, out = self.mean, self.variance, np.empty(counts.shape, np.float32)
        for i, x in enumerate(counts):
            deviation = x - mean
            mean = mean + self.rate * deviation
            variance = (1 - self.rate) * (variance + self.rate * deviation**2)
            out[i] = (x - mean) / np.maximum(np.sqrt(variance), SD_FLOOR)
        return to_source_counts(self.read_in, out)


@checked
def running(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> RunningNormaliser:
    """Start from the statistics of today's trials and let every bin that is decoded, in a trial or not, move them."""
    x = np.concatenate(trials.bodies()).astype(np.float64)
    rate = 1 - float(np.exp(-bundle.manifest.bin_s / TIME_CONSTANT_S))
    return RunningNormaliser(bundle.read_in, x.mean(0), x.var(0), rate)
