"""Scores of decoded kinematics. R2 in per cent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def r2(truth: Floats, decoded: Floats) -> float:
    """Variance-weighted R2 (%) of ``decoded`` (n, K) about ``truth`` (n, K): 1 - sum of squared errors / sum of squares.

    Both must be in units in which the outputs may be added: divide by the source day's standard deviation first. NaN in
    ``decoded`` (a lost bin) counts as decoding the mean of the truth.
    """
    mean = truth.mean(0)
    error = np.where(np.isnan(decoded), mean, decoded) - truth
    return float(100 * (1 - np.square(error).sum() / np.square(truth - mean).sum()))


def r2_per_output(truth: Floats, decoded: Floats) -> list[float]:
    """R2 (%) of each of K outputs."""
    return [r2(truth[:, [k]], decoded[:, [k]]) for k in range(truth.shape[1])]


def rmse(truth: Floats, decoded: Floats) -> float:
    """Root-mean-square of the Euclidean error over n bins, in the units of both."""
    return float(np.sqrt(np.square(truth - decoded).sum(1).mean()))
