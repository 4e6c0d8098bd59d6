"""What counts have beyond the rates of a code that is no neuron's own: sharper peaks, and gains that neurons share.

Without them an array's sum scatters less from trial to trial than a real one's. Source: a common fluctuating gain on Poisson-like
neurons (Goris, Movshon & Simoncelli 2014), of low rank and weighed neuron by neuron (Ecker et al. 2014). Fitted by moments: only
covariances of *different* neurons speak of it, since a neuron's variance is its own as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.trials import Array

Floats = NDArray[np.float64]
ROUNDS = 20
"""Of the principal-factor iteration."""
SHUFFLES, BEYOND_CHANCE = 8, 4.0
"""That say how large an eigenvalue chance makes, and the standard deviations of theirs above their mean that are no chance."""
SHRINK = 20.0
"""Trials' worth by which a latent's covariance over bins is shrunk towards one that depends on their distance alone."""
QUIET = 20.0
"""Expected spikes below which a neuron's share is not looked for."""
MOST_VARIANCE = 0.5
"""Of a neuron's log gain in a bin."""
SURE = 20.0
"""Spikes' worth by which what a bin of one neuron says of its sharpness is shrunk towards 1."""


@dataclass(frozen=True)
class Beyond:
    """Factors of rates, T bins a trial: ``sharpness`` (T, C), the same in every trial, and gains that are drawn for each.

    Rates that were smoothed are too low where activity peaks: ``sharpness`` is the mean count over the mean rate, bin by bin.
    Log gains are sums of k latents, each Gaussian over bins and independent of the others: ``loadings`` (k, C) are changes of log
    rate per unit of a latent, ``courses`` (k, T, T) a square root (rows times normal numbers) of its covariance over bins.
    """

    sharpness: Floats
    loadings: Floats
    courses: Floats

    @classmethod
    def fit(cls, counts: Array, rates: Floats, most: int) -> Beyond:
        """Fit to ``counts`` around ``rates`` (n, T, C), both of the same trials, with at most ``most`` latents.

        Latents are principal factors of the covariances between neurons in the same bin, of residuals in units of their neuron's
        Poisson noise; those count whose eigenvalue is beyond what residuals shuffled over trials, neuron by neuron, give. A
        latent's covariance over bins is that of the projection on its factor without each neuron's own part.
        """
        n, bins, channels = counts.shape
        sharpness = (counts.sum(0, dtype=np.float64) + SURE) / (rates.sum(0) + SURE)
        expected = rates * sharpness
        left = counts - expected
        mean = expected.mean((0, 1))
        awake = mean * n * bins >= QUIET
        unit = np.where(awake, 1 / np.sqrt(np.maximum(mean, 1e-9)), 0.0)
        u = left * unit
        values, vectors = _factors(u, most)
        rng = np.random.default_rng(0)
        chance = []
        for _ in range(SHUFFLES):
            order = rng.permuted(np.tile(np.arange(n)[:, None], (1, channels)), axis=0)
            mixed = np.take_along_axis(u, order[:, None, :], 0)
            chance.append(_factors(mixed, 1)[0][0])
        least = np.mean(chance) + BEYOND_CHANCE * np.std(chance)
        loadings, courses = [], []
        for v in vectors[:, values > least].T:
            course = _course(u * v, expected / np.maximum(mean, 1e-9) * np.square(v))
            loadings.append(v * unit)
            courses.append(course)
        k = len(loadings)
        return cls(sharpness, np.reshape(loadings, (k, channels)), np.reshape(courses, (k, bins, bins)))._bounded()

    def variance(self) -> Floats:
        """Variance (T, C) of every neuron's log gain."""
        return np.einsum("kc,kt->tc", np.square(self.loadings), np.square(self.courses).sum(2))

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Factors (n, T, C) of the rates of ``n`` trials; over trials their mean is the sharpness."""
        k, bins, _ = self.courses.shape
        latents = np.einsum("kts,nks->nkt", self.courses, rng.standard_normal((n, k, bins)))
        return self.sharpness * np.exp(np.einsum("nkt,kc->ntc", latents, self.loadings) - self.variance() / 2)

    def _bounded(self) -> Beyond:
        """The same with each neuron's variance bounded: of few spikes it is anybody's guess, and an exponential makes it many."""
        largest = self.variance().max(0)
        return replace(self, loadings=self.loadings * np.sqrt(np.minimum(1.0, MOST_VARIANCE / np.maximum(largest, 1e-12))))


def _factors(u: Floats, k: int) -> tuple[Floats, Floats]:
    """Largest ``k`` eigenvalues and vectors (C, k) of the covariance of residuals ``u`` (n, T, C), own variances taken out."""
    flat = u.reshape(-1, u.shape[2])
    cov = flat.T @ flat / len(flat)
    k = min(k, len(cov))
    own = np.zeros(len(cov))
    for _ in range(ROUNDS):
        np.fill_diagonal(cov, own)
        values, vectors = np.linalg.eigh(cov)
        values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
        own = np.square(vectors) @ np.maximum(values, 0)
    return values, vectors


def _course(parts: Floats, weights: Floats) -> Floats:
    """Square root (T, T) of a latent's covariance over bins; ``parts`` (n, T, C) add up to its projection, ``weights`` alike."""
    n, bins, _ = parts.shape
    found = []
    for x in (parts, weights):
        whole, each = x.sum(2), x.transpose(2, 0, 1)
        found.append((whole.T @ whole - np.matmul(each.transpose(0, 2, 1), each).sum(0)) / n)
    cov = found[0] / np.maximum(found[1], 1e-12)
    apart = np.abs(np.subtract.outer(np.arange(bins), np.arange(bins)))
    steady = np.bincount(apart.ravel(), cov.ravel(), bins) / (2 * bins)
    steady[0] *= 2
    cov = (n * cov + SHRINK * steady[apart]) / (n + SHRINK)
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0))
    return root
