"""Steady-state Kalman filter on latents (Wu et al. 2006; steady state: Malik et al. 2011)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from bci_align.decoders.protocol import Arrays, Floats, history


class Kalman:
    """State = kinematics (K,); ``y_t = A y_{t-1} + G (z_t - C A y_{t-1} - c)``.

    ``transition`` A (K, K), ``observation`` C (d, K), ``offset`` c (d,), ``gain`` G (K, d) of the converged Riccati recursion.
    """

    kind = "kalman"

    def __init__(
        self,
        transition: NDArray[np.float32],
        observation: NDArray[np.float32],
        offset: NDArray[np.float32],
        gain: NDArray[np.float32],
    ) -> None:
        self.transition, self.observation = transition.astype(np.float64), observation.astype(np.float64)
        self.offset, self.gain = offset.astype(np.float64), gain.astype(np.float64)

    @classmethod
    def fit(cls, latents: Floats, kinematics: Floats, rows: NDArray[np.intp], breaks: Collection[int] = ()) -> Kalman:
        """Fit on ``rows`` (bin indices) of ``latents`` (T, d) and ``kinematics`` (T, K), continuous between ``breaks``.

        The first bin of a stretch has no transition into it; it is observed as any other.
        """
        y, z = kinematics[rows], latents[rows]
        k = y.shape[1]
        follows = rows[history(rows, breaks) >= 1]
        after, before = kinematics[follows], kinematics[follows - 1]
        a = np.linalg.lstsq(before, after, rcond=None)[0].T
        w = np.cov((after - before @ a.T).T).reshape(k, k) + 1e-6 * np.eye(k)
        design = np.c_[y, np.ones(len(y))]
        coef = np.linalg.lstsq(design, z, rcond=None)[0]
        c, offset = coef[:-1].T, coef[-1]
        q = np.cov((z - design @ coef).T) + 1e-6 * np.eye(z.shape[1])
        p = w.copy()
        for _ in range(500):
            prior = a @ p @ a.T + w
            gain = prior @ c.T @ np.linalg.inv(c @ prior @ c.T + q)
            p = (np.eye(k) - gain @ c) @ prior
        return cls(a.astype(np.float32), c.astype(np.float32), offset.astype(np.float32), gain.astype(np.float32))

    @classmethod
    def load(cls, arrays: Arrays) -> Kalman:
        """Rebuild from :meth:`arrays`."""
        return cls(arrays["transition"], arrays["observation"], arrays["offset"], arrays["gain"])

    def state0(self) -> Floats:
        """Give the kinematics before the first bin: at rest."""
        return np.zeros(len(self.transition))

    def step(self, state: Floats, latents: Floats) -> tuple[Floats, Floats]:
        """Predict, then correct by one bin of latents."""
        y = self.transition @ state
        y = y + self.gain @ (latents - self.offset - self.observation @ y)
        return y, y

    def arrays(self) -> Arrays:
        """Give A, C, c and G."""
        return {name: getattr(self, name).astype(np.float32) for name in ("transition", "observation", "offset", "gain")}
