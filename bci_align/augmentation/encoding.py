"""An encoding model: every channel's rate as a smooth, rectifying function of kinematics, which holds where no trial was.

A Poisson point-process model (Truccolo et al., J Neurophysiol 2005, in bins) with a softplus link: the drive of a channel is
linear in kinematics around the time of the bin, in their size and that of their change, and, for movements in a plane, in their
second and third circular harmonics, since tuning is sharper than a cosine. What five directions leave open the prior of the
coefficients decides; it is the channels' own (empirical Bayes): preferred directions point anywhere, so coefficients of the axes
have mean zero and one covariance, whatever half of the directions was seen, while all channels may grow together with the size
of a movement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import Array, TrialSet
from bci_align.errors import AugmentationError

Floats = NDArray[np.float64]
LAGS_S = (-0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
"""Seconds by which the kinematics that drive a bin come after it: motor cortex leads."""
HARMONICS = {2: 0.05, 3: 0.05}
"""Prior variance of circular harmonics of movements in a plane, in units of the first one's."""
ROUNDS, STEPS, HALVINGS = 4, 8, 6
"""Rounds of expectation and maximisation of the prior, Newton steps in each, halvings of a step."""
SOFT = 0.1
"""Size of kinematics, in units of a movement's, below which their direction fades out of the higher harmonics."""
FLOOR = 1e-3
"""Least rate, in units of the channel's mean."""
LOOSE = 1e-4
"""Least prior variance of a coefficient."""
REST = float(np.log(np.expm1(1.0)))
"""Drive at which a channel fires at its mean rate."""


@dataclass(frozen=True)
class Encoding:
    """``rates`` of kinematics, channel by channel, and how ``spikes`` scatter around them.

    ``origin`` (K,) and ``size`` (): where movements start and how far they go, physical units; ``unit`` (C,) mean spikes per bin;
    ``weights`` (C, F) of the features that :func:`features` makes at ``lags`` (bins).
    """

    origin: Floats
    size: Floats
    unit: Floats
    weights: Floats
    spikes: SpikeModel
    lags: tuple[int, ...]

    @classmethod
    def fit(cls, trials: TrialSet, before: int, bin_s: float) -> Encoding:
        """Fit on ``trials`` with bins of ``bin_s`` seconds, ``before`` of them ahead of the go cue.

        :class:`AugmentationError` where nothing moves.
        """
        k = trials.kinematics.astype(np.float64)
        origin = k[:, : max(before, 1)].mean((0, 1))
        size = np.array(np.linalg.norm(k - origin, axis=2).max(1).mean())
        if not size > 0:
            raise AugmentationError("encoding model: kinematics: expected some that vary over the trials, found constants")
        lags = lags_of(bin_s)
        x, blocks = features((k - origin) / size, lags)
        x, counts = x.reshape(-1, x.shape[2]), trials.counts.reshape(-1, trials.counts.shape[2]).astype(np.float64)
        unit = np.maximum(counts.mean(0), 0.02)
        weights = _fit(x, counts / unit, unit, blocks)
        rates = (_rate(x @ weights.T) * unit).reshape(trials.counts.shape).astype(np.float32)
        return cls(origin, size, unit, weights, SpikeModel.fit(trials.counts, rates), lags)

    def rates(self, kinematics: Array) -> Array:
        """Expected spikes per bin (n, T, C) of ``kinematics`` (n, T, K)."""
        x, _ = features((kinematics.astype(np.float64) - self.origin) / self.size, self.lags)
        found: Array = (_rate(x @ self.weights.T) * self.unit).astype(np.float32)
        return found


@dataclass(frozen=True)
class Blocks:
    """Columns of a design: ``axes`` one list per harmonic of the columns (L,) of each axis, ``sizes`` those of no direction."""

    axes: tuple[tuple[list[int], ...], ...]
    sizes: list[int]


def lags_of(bin_s: float) -> tuple[int, ...]:
    """Give :data:`LAGS_S` in bins, each once."""
    return tuple(sorted({round(lag / bin_s) for lag in LAGS_S}))


def width(outputs: int, lags: int) -> int:
    """Number F of features of ``outputs`` kinematics at so many ``lags``."""
    return 1 + lags * (outputs + 2 + 2 * len(HARMONICS) * (outputs == 2))


def features(z: Floats, lags: tuple[int, ...]) -> tuple[Floats, Blocks]:
    """Design (n, T, F) of ``z`` (n, T, K), kinematics from their origin in units of a movement, and what its columns are.

    A constant; then, each at every lag, the K axes, the harmonics (K = 2), the size of ``z`` and of its change over 150 ms or
    three bins. Kinematics beyond the window's ends are those at its ends.
    """
    n, bins, k = z.shape
    at = [np.clip(np.arange(bins) + lag, 0, bins - 1) for lag in lags]
    groups = [[z[..., i] for i in range(k)]]
    if k == 2:
        turned = z[..., 0] + 1j * z[..., 1]
        for degree in HARMONICS:
            harmonic = turned**degree / (np.abs(turned) + SOFT) ** (degree - 1)
            groups.append([harmonic.real, harmonic.imag])
    lone = [np.linalg.norm(z, axis=2), 3 * np.linalg.norm(np.gradient(z, axis=1), axis=2)]
    columns, taken = [np.ones((n, bins))], 1

    def placed(x: Floats) -> list[int]:
        nonlocal taken
        columns.extend(x[:, a] for a in at)
        taken += len(at)
        return list(range(taken - len(at), taken))

    axes = tuple(tuple(placed(x) for x in group) for group in groups)
    sizes = [column for x in lone for column in placed(x)]
    return np.stack(columns, 2), Blocks(axes, sizes)


def _rate(drive: Floats) -> Floats:
    """Rate in units of the channel's mean."""
    return np.asarray(np.maximum(np.logaddexp(0, drive), FLOOR))


def _fit(x: Floats, y: Floats, unit: Floats, blocks: Blocks) -> Floats:
    """Weights (C, F) likeliest of counts ``y`` (n, C), in units of their means, under the prior that they themselves suggest."""
    f, channels = x.shape[1], y.shape[1]
    mean, cov = np.zeros(f), np.eye(f)
    mean[0], cov[0, 0] = REST, 10.0
    for degree, axes in zip(HARMONICS, blocks.axes[1:], strict=False):
        for a in axes:
            cov[a, a] *= HARMONICS[degree]
    weights, spread = np.tile(mean, (channels, 1)), np.ones(channels)
    for _ in range(ROUNDS):
        weights, posterior = _likeliest(x, y, unit / spread, weights, mean, np.linalg.inv(cov).astype(np.float64))
        rate = _rate(x @ weights.T)
        spread = np.clip((unit * np.square(y - rate) / rate).mean(0), 0.5, 6.0)
        mean, cov = _prior(weights, posterior, mean, blocks)
    return weights


def _prior(weights: Floats, posterior: Floats, mean: Floats, blocks: Blocks) -> tuple[Floats, Floats]:
    """Mean (F,) and covariance (F, F) over channels of ``weights`` (C, F), each known up to ``posterior`` (C, F, F)."""
    free = [0, *blocks.sizes]
    new = np.zeros_like(mean)
    new[free] = weights[:, free].mean(0)
    left = weights - new
    both = posterior.mean(0) + left.T @ left / len(left)
    cov = LOOSE * np.eye(len(mean))
    cov[np.ix_(free, free)] += both[np.ix_(free, free)]
    first = np.mean([both[np.ix_(a, a)] for a in blocks.axes[0]], axis=0)
    for share, axes in zip((1.0, *HARMONICS.values()), blocks.axes, strict=False):
        for a in axes:
            cov[np.ix_(a, a)] += share * first
    return new, cov


def _likeliest(x: Floats, y: Floats, certainty: Floats, start: Floats, mean: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """Most probable weights (C, F) by Newton's method with Fisher's information, and covariances (C, F, F) around them."""

    def cost(w: Floats) -> Floats:
        rate = _rate(x @ w.T)
        left = w - mean
        return np.asarray(
            certainty * (rate - y * np.log(rate)).sum(0) + 0.5 * np.einsum("ci,ij,cj->c", left, precision, left), np.float64
        )

    weights, now = start, cost(start)
    for _ in range(STEPS):
        drive = x @ weights.T
        rate, slope = _rate(drive), expit(drive)
        gradient = (x.T @ ((y / rate - 1) * slope)).T * certainty[:, None] - (weights - mean) @ precision
        weight = certainty * np.square(slope) / rate
        information = np.stack([(x * weight[:, [c]]).T @ x for c in range(y.shape[1])]) + precision
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        length = np.ones(len(step))
        for _ in range(HALVINGS):
            worse = cost(weights + length[:, None] * step) > now
            if not worse.any():
                break
            length[worse] *= 0.4
        found = cost(weights + length[:, None] * step)
        weights = np.where((found <= now)[:, None], weights + length[:, None] * step, weights)
        before, now = now, np.minimum(found, now)
        if float((before - now).max()) < 0.05:  # of a nat: no channel gains any more
            break
    return weights, np.linalg.inv(information).astype(np.float64)
