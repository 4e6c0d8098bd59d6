"""A space of codes: what every generator of trials offers, ours and every rival; and the linear one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.trials import Array, Index, Scaler, TrialSet

Floats = NDArray[np.float64]
REACH_S = 0.2
"""Seconds before and after a bin whose rates tell its kinematics, where codes are to tell them from rates alone."""
TAPS = 17
"""Bins at most that are read: of finer ones those that are as far apart, since rates are smooth."""
READ_RIDGE = 0.1
"""Of that read-out, per bin, in squared units of what it reads."""
READ_SHARE = 0.1
"""Variance of what it reads, in units of that of the rates, in the components that codes are."""


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
    """Principal components of whole trials around the ``mean`` trial (T, C + K), in z-scores.

    ``loadings`` (L, T * (C + K)), one standard deviation each; ``projection`` (T * seen, L) gives codes of what the seen channels
    are beyond the mean: over the training trials they have mean 0 and unit variance. :meth:`fit` are components of what is seen
    as it is (``PCA-20``), :meth:`reading` of rates in units of their noise and of the kinematics that they tell.
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
        seen = x.shape[2] if sees_kinematics else scaler.channels
        flat = (x - mean)[..., :seen].reshape(len(x), -1)
        vectors, rank = _components(flat, code)
        return cls._of(scaler, x, mean, flat, vectors, rank, code)

    @classmethod
    def reading(cls, trials: TrialSet, code: int, bin_s: float, scaler: Scaler | None = None) -> LinearSpace:
        """Fit codes that are read off rates alone, but so that they tell kinematics; bins of ``bin_s`` seconds.

        Components of whole trials are fitted to few of them; a read-out that is the same in every bin is not. So these are of
        square-root rates, whose Poisson noise is alike in all channels, beside the kinematics that a ridge reads off the rates
        around each bin. All of it is linear: one projection.
        """
        scaler = scaler or Scaler.fit(trials)
        x = scaler.to(trials)
        mean = x.mean(0)
        n, bins, _ = x.shape
        unit = scaler.sd[: scaler.channels].astype(np.float64)
        unit = np.tile(unit / np.sqrt(np.square(unit).mean()), bins)
        seen = (x - mean)[..., : scaler.channels].astype(np.float64).reshape(n, -1)
        x_seen = (seen * unit).reshape(n, bins, -1)
        offsets = _offsets(bins, bin_s)
        weights = _read_out(x_seen, (x - mean)[..., scaler.channels :], offsets)
        told = _told(x_seen, weights, offsets).reshape(n, -1)
        share = np.sqrt(READ_SHARE * np.square(x_seen).sum() / max(np.square(told).sum(), 1e-12))
        vectors, rank = _components(np.concatenate([seen * unit, share * told], 1).astype(np.float32), code)
        own = seen.shape[1]
        of_told = _back(share * vectors[own:].reshape(bins, -1, rank), weights, offsets).reshape(own, rank)
        return cls._of(scaler, x, mean, seen, unit[:, None] * (vectors[:own] + of_told), rank, code)

    @classmethod
    def _of(
        cls, scaler: Scaler, x: Array, mean: Array, seen: Array | Floats, along: Array | Floats, rank: int, code: int
    ) -> LinearSpace:
        """Codes of what is ``seen`` (n, F) ``along`` (F, rank) directions, which are orthogonal over the trials."""
        n, bins, channels = x.shape
        size = np.sqrt(np.square(seen @ along).mean(0))
        projection = np.zeros((seen.shape[1], code), np.float32)
        projection[:, :rank] = along / size
        codes = (seen @ along / size).astype(np.float32)
        loadings = np.zeros((code, bins * channels), np.float32)
        loadings[:rank] = codes.T @ (x - mean).reshape(n, -1) / n  # orthogonal: the regression of the whole trial on them
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


def _components(flat: Array, most: int) -> tuple[Array, int]:
    """Principal directions (F, rank) of the rows of ``flat`` (n, F), at most ``most``, and how many there are."""
    _, s, vt = np.linalg.svd(flat, full_matrices=False)
    rank = min(most, len(flat) - 2, int((s > 1e-6 * s[0]).sum()))
    return vt[:rank].T, rank


def _offsets(bins: int, bin_s: float) -> list[int]:
    """Bins around each that are read, at most :data:`TAPS` and no farther than :data:`REACH_S`."""
    reach = min(round(REACH_S / bin_s), bins - 1)
    step = max(-(-2 * reach // (TAPS - 1)), 1)
    return list(range(-(reach // step) * step, reach + 1, step))


def _shifted(x: Floats, by: int, axis: int) -> Floats:
    """``x`` such that bin t of ``axis`` is what bin t + ``by`` was; bins beyond the ends count as 0."""
    x = np.moveaxis(x, axis, 0)
    out = np.zeros_like(x)
    out[max(-by, 0) : len(x) - max(by, 0)] = x[max(by, 0) : len(x) - max(-by, 0)]
    return np.moveaxis(out, 0, axis)


def _read_out(x: Floats, y: Array, offsets: list[int]) -> Floats:
    """Weights (offsets, C, K) of a ridge, the same for all bins, that reads ``y`` (n, T, K) off ``x`` (n, T, C) around each."""
    n, bins, channels = x.shape
    design = np.concatenate([_shifted(x, o, 1) for o in offsets], 2).reshape(n * bins, -1)
    penalty = READ_RIDGE * len(design) * np.eye(design.shape[1])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ y.reshape(n * bins, -1).astype(np.float64))
    return weights.reshape(len(offsets), channels, -1)


def _told(x: Floats, weights: Floats, offsets: list[int]) -> Floats:
    """What the read-out tells (n, T, K) of ``x`` (n, T, C)."""
    return np.asarray(sum(_shifted(x, o, 1) @ w for o, w in zip(offsets, weights, strict=True)))


def _back(v: Floats, weights: Floats, offsets: list[int]) -> Floats:
    """The transpose of :func:`_told`: directions (T, C, L) of ``x`` along which it tells ``v`` (T, K, L)."""
    return np.asarray(
        sum(np.einsum("ck,tkl->tcl", w, _shifted(v, -o, 0), optimize=True) for o, w in zip(offsets, weights, strict=True))
    )
