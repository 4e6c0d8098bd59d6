"""Lagged ridge regression from sums that are made once: every ratio of generated to real trials is then one small solve."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.trials import Index
from bci_align.decoders import Floats, Wiener
from bci_align.decoders.protocol import history


def lagged(features: Floats, rows: Index, lags: int, breaks: Collection[int] = ()) -> Floats:
    """Rows (n, lags * d + 1) of a Wiener filter's design at the bins ``rows`` of ``features`` (T, d), newest lag first, then 1.

    Bins before a stretch count as 0, as in :class:`~bci_align.decoders.wiener.Wiener`.
    """
    before = history(rows, breaks)
    parts = [np.where((before >= k)[:, None], features[np.maximum(rows - k, 0)], 0.0) for k in range(lags)]
    return np.concatenate([*parts, np.ones((len(rows), 1))], 1)


@dataclass(frozen=True)
class Moments:
    """Sums over bins of a design x and kinematics y: ``xx`` (F, F), ``xy`` (F, K), and how many ``bins``."""

    xx: Floats
    xy: Floats
    bins: float

    @classmethod
    def of(cls, design: Floats, kinematics: Floats) -> Moments:
        """Sum over the rows of ``design`` (n, F) and ``kinematics`` (n, K)."""
        x = design.astype(np.float32)  # counts and latents: sums of so few bins lose nothing, and take half the time
        return cls((x.T @ x).astype(np.float64), design.T @ kinematics, float(len(design)))

    def plus(self, other: Moments, weight: float) -> Moments:
        """Add ``other`` with every bin weighing ``weight``."""
        return Moments(self.xx + weight * other.xx, self.xy + weight * other.xy, self.bins + weight * other.bins)

    def solve(self, ridge: float) -> Floats:
        """Weights (F, K) of ridge regression; the last row, the bias, is not shrunk. ``ridge`` is per bin of :attr:`bins`."""
        penalty = np.full(len(self.xx), ridge * self.bins)
        penalty[-1] = 0.0
        weights: Floats = np.linalg.solve(self.xx + np.diag(penalty) + 1e-9 * np.eye(len(self.xx)), self.xy).astype(np.float64)
        return weights


def as_wiener(weights: Floats, lags: int) -> Wiener:
    """The decoder whose :meth:`Moments.solve` gave ``weights``."""
    return Wiener(weights[:-1].astype(np.float32), weights[-1].astype(np.float32), lags)


def windows_as_stream(x: NDArray[np.float32]) -> tuple[Floats, list[int]]:
    """Windows (n, T, d) end to end (n * T, d), and the bins at which all but the first begin."""
    n, bins, _ = x.shape
    return x.reshape(n * bins, -1).astype(np.float64), [i * bins for i in range(1, n)]
