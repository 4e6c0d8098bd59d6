"""Per-channel normaliser: what re-normalisation fits on a new day's unlabelled trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SD_FLOOR = 0.05
"""Spikes per bin. A channel that fires a handful of times in a block has a spread of a few hundredths: dividing by it would let
one stray spike outweigh the whole array, so no channel is amplified beyond 1 / SD_FLOOR."""


def fit(counts: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit ``(mean (C,), gain (C,))`` on blocks of counts (T_i, C); normalised counts are ``(counts - mean) * gain``.

    A channel that never fires in the blocks gets gain 0: it says nothing, on every bin.
    """
    x = np.concatenate(list(counts)).astype(np.float64)
    mean, sd = x.mean(0), x.std(0)
    gain = np.where(x.max(0) > 0, 1.0 / np.maximum(sd, SD_FLOOR), 0.0)
    return mean.astype(np.float32), gain.astype(np.float32)
