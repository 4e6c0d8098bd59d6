"""Wiener filter: ridge regression on the latents of this bin and the bins before it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from bci_align.decoders.protocol import Arrays, Floats, history


class Wiener:
    """``y_t = sum_k W_k z_{t-k} + b``; ``weight`` (lags * d, K), newest lag first; ``bias`` (K,)."""

    kind = "wiener"

    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32], lags: int) -> None:
        self.weight, self.bias, self.lags = weight.astype(np.float64), bias.astype(np.float64), lags

    @classmethod
    def fit(
        cls,
        latents: Floats,
        kinematics: Floats,
        rows: NDArray[np.intp],
        lags: int = 5,
        ridge: float = 1.0,
        breaks: Collection[int] = (),
    ) -> Wiener:
        """Fit on ``rows`` (bin indices) of ``latents`` (T, d) and ``kinematics`` (T, K), continuous between ``breaks``.

        Bins before a stretch count as 0, which is what the empty lag line holds there live.
        """
        before = history(rows, breaks)
        lagged = [np.where((before >= k)[:, None], latents[np.maximum(rows - k, 0)], 0.0) for k in range(lags)]
        x = np.concatenate([*lagged, np.ones((len(rows), 1))], axis=1)
        penalty = np.full(x.shape[1], ridge)
        penalty[-1] = 0.0  # the bias is not shrunk
        w = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ kinematics[rows])
        return cls(w[:-1].astype(np.float32), w[-1].astype(np.float32), lags)

    @classmethod
    def load(cls, arrays: Arrays) -> Wiener:
        """Rebuild from :meth:`arrays`."""
        return cls(arrays["weight"], arrays["bias"], int(arrays["lags"][0]))

    def state0(self) -> Floats:
        """Give the empty lag line ((lags - 1) * d,), newest first: before the first bin the latents were at their mean, 0."""
        d = len(self.weight) // self.lags
        return np.zeros(d * (self.lags - 1))

    def step(self, state: Floats, latents: Floats) -> tuple[Floats, Floats]:
        """Push one bin into the lag line and decode."""
        d, kept = len(latents), len(state)
        line = np.empty(d + kept)  # filled by hand: a third quicker than to concatenate
        line[:d], line[d:] = latents, state
        return line[:kept], line.dot(self.weight) + self.bias

    def arrays(self) -> Arrays:
        """Give weight, bias and lags."""
        return {
            "weight": self.weight.astype(np.float32),
            "bias": self.bias.astype(np.float32),
            "lags": np.array([self.lags], np.float32),
        }
