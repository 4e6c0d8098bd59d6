"""A space of codes: what every generator of trials offers, ours and every rival; and the linear one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from bci_align.augmentation.trials import Array, Index, Scaler, TrialSet


class Space(Protocol):
    """Codes of trials, and trials of codes.

    ``encode`` gives codes (n, L). ``decode`` gives rates (n, T, C) in spikes per bin and kinematics (n, T, K) in physical units
    of codes (n, L); what is random in it follows ``seed``, and with ``shared`` every code gets the same noise.
    ``exact`` says whether ``edit`` with a trial's own code gives the trial back.
    """

    exact: ClassVar[bool]

    def encode(self, trials: TrialSet) -> Array: ...

    def decode(self, codes: Array, seed: int, shared: bool = False) -> tuple[Array, Array]: ...

    def edit(self, trials: TrialSet, rows: Index, codes: Array, seed: int) -> tuple[Array, Array]:
        """Rates and kinematics of the trials ``rows`` with other ``codes`` (n, L), all else kept that the space can keep."""
        ...


@dataclass(frozen=True)
class LinearSpace:
    """Principal components of whole trials (``PCA-20``) around the ``mean`` trial (T, C + K), in z-scores.

    ``loadings`` (L, T * (C + K)), one standard deviation each; ``projection`` (T * seen, L) gives codes of what the seen channels
    are beyond the mean: over the training trials they have mean 0 and unit variance.
    """

    scaler: Scaler
    mean: Array
    projection: Array
    loadings: Array
    exact: ClassVar[bool] = False

    @classmethod
    def fit(cls, trials: TrialSet, code: int, sees_kinematics: bool = True, scaler: Scaler | None = None) -> LinearSpace:
        """Fit on training trials; fewer than ``code`` components where there are too few trials, the others are zero."""
        scaler = scaler or Scaler.fit(trials)
        x = scaler.to(trials)
        mean = x.mean(0)
        x = x - mean
        n, bins, channels = x.shape
        seen = channels if sees_kinematics else scaler.channels
        flat = x[..., :seen].reshape(n, -1)
        u, s, vt = np.linalg.svd(flat, full_matrices=False)
        rank = min(code, n - 2, int((s > 1e-6 * s[0]).sum()))
        projection = np.zeros((flat.shape[1], code), np.float32)
        projection[:, :rank] = vt[:rank].T / s[:rank] * np.sqrt(n)
        codes = u[:, :rank] * np.sqrt(n)
        loadings = np.zeros((code, bins * channels), np.float32)
        loadings[:rank] = codes.T @ x.reshape(n, -1) / n  # codes are orthogonal: the regression of the whole trial on them
        return cls(scaler, mean, projection, loadings)

    def encode(self, trials: TrialSet) -> Array:
        x: Array = self.scaler.to(trials) - self.mean
        seen = len(self.projection) // len(self.mean)
        codes: Array = x[..., :seen].reshape(len(x), -1) @ self.projection
        return codes

    def decode(self, codes: Array, seed: int = 0, shared: bool = False) -> tuple[Array, Array]:
        x = (codes @ self.loadings).reshape(len(codes), *self.mean.shape) + self.mean
        return self.scaler.back(x.astype(np.float32))

    def edit(self, trials: TrialSet, rows: Index, codes: Array, seed: int = 0) -> tuple[Array, Array]:
        return self.decode(codes, seed)  # what is beyond the components is not in the space
