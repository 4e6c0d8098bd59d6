"""A plain Wiener decoder, enough to judge the simulator by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bci_align.session.types import Session

LAGS = 10


@dataclass
class Wiener:
    """Ridge regression from z-scored counts of the last ``LAGS`` bins to velocity, all bins inside trials."""

    mean: np.ndarray
    sd: np.ndarray
    weights: np.ndarray

    @staticmethod
    def features(z: np.ndarray) -> np.ndarray:
        padded = np.concatenate([np.zeros((LAGS - 1, z.shape[1])), z])
        lagged = [padded[LAGS - 1 - k : len(padded) - k] for k in range(LAGS)]
        return np.concatenate([*lagged, np.ones((len(z), 1))], axis=1, dtype=np.float32)

    @staticmethod
    def scale(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return counts.mean(0), counts.std(0) + 0.05

    @classmethod
    def fit(cls, day: Session, until: float = 1.0) -> Wiener:
        """Fit on the first share ``until`` of the bins inside trials."""
        mean, sd = cls.scale(day.counts)
        inside = in_trials(day)
        x, y = cls.features((day.counts - mean) / sd)[inside], day.kinematics[inside]
        n = int(until * len(x))
        gram = x[:n].T @ x[:n] + 300.0 * np.eye(x.shape[1])
        return cls(mean, sd, np.linalg.solve(gram, x[:n].T @ y[:n]))

    def r2(self, day: Session, renormalise: bool = False, after: float = 0.0) -> float:
        """Pooled R2 of both velocities over the bins inside trials, from share ``after`` on."""
        mean, sd = self.scale(day.counts) if renormalise else (self.mean, self.sd)
        inside = in_trials(day)
        x, y = self.features((day.counts - mean) / sd)[inside], day.kinematics[inside]
        n = int(after * len(x))
        return float(1 - ((y[n:] - x[n:] @ self.weights) ** 2).sum() / ((y[n:] - y[n:].mean(0)) ** 2).sum())

    def online(self):
        """The same decoder bin by bin: counts (C,) -> velocity (2,)."""
        past = np.zeros((LAGS, len(self.mean)))

        def step(counts: np.ndarray) -> np.ndarray:
            past[1:] = past[:-1].copy()
            past[0] = (counts - self.mean) / self.sd
            return np.append(past.ravel(), 1.0) @ self.weights

        return step


def in_trials(day: Session) -> np.ndarray:
    mask = np.zeros(day.bins, dtype=bool)
    for i in range(len(day.trials)):
        mask[slice(*day.trial_bins(i))] = True
    return mask


@pytest.fixture(scope="session")
def wiener() -> type[Wiener]:
    return Wiener
