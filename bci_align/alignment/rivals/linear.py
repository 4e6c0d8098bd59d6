"""Rivals in closed form on normalised counts: a linear map of today's counts onto the source day's, folded into a read-in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import FactorAnalysis

from bci_align.alignment.rivals.protocol import Normalised, checked, normalised
from bci_align.bundle.store import Bundle
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

Floats = NDArray[np.float64]

FACTORS = 10
"""Factors of a day, as in Degenhart et al. (2020)."""
STABLE = 0.6
"""Share of the common channels that the two days' loadings are aligned on."""
EIGENVALUE_FLOOR = 1e-4
"""Of the largest: a direction without variance must not be blown up into noise (as in the source model's whitening)."""


@checked
def coral(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Whiten today's normalised counts with today's covariance and colour them with the source day's.

    The original colours the source and trains on it; a frozen decoder asks for the same map the other way.
    """
    n = normalised(bundle, source, trials)
    (m_s, s), (m_t, t) = moments(n.source), moments(n.target)
    return _fold(bundle.read_in, n, coral_map(t, s), m_s, m_t)


@checked
def gaussian_transport(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Of all linear maps that take today's covariance to the source day's, the one that moves the counts least."""
    n = normalised(bundle, source, trials)
    (m_s, s), (m_t, t) = moments(n.source), moments(n.target)
    return _fold(bundle.read_in, n, monge_map(t, s), m_s, m_t)


@checked
def factor_procrustes(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Today's factors, turned into the source day's by their loadings on stable channels, then back to source counts.

    The published decoder reads the factors; ours was trained on counts, so the way back from factors to counts is the source
    day's own regression of its counts on its factors. It undoes the shrinkage of the factors' posterior mean, without which
    the frozen core would see less movement than there is.
    """
    n = normalised(bundle, source, trials)
    here, there = n.target.std(0) > 0, n.source.std(0) > 0
    common = here & there
    q = max(1, min(FACTORS, int(common.sum()) // 2))
    (loadings_s, scores_s), (loadings_t, scores_t) = _factors(n.source, there, q), _factors(n.target, here, q)
    turn = stable_rotation(loadings_t[common], loadings_s[common], max(round(STABLE * int(common.sum())), q))
    m_s, m_t = n.source.mean(0), n.target.mean(0)
    back = np.linalg.lstsq((n.source - m_s) @ scores_s, n.source - m_s, rcond=1e-3)[0]
    return _fold(bundle.read_in, n, scores_t @ turn @ back, m_s, m_t)


def moments(x: Floats) -> tuple[Floats, Floats]:
    """Mean (C,) and covariance (C, C) of bins ``x`` (n, C), shrunk towards a multiple of the identity (Ledoit and Wolf 2004)."""
    return x.mean(0), ledoit_wolf(x)[0]


def coral_map(target: Floats, source: Floats) -> Floats:
    """Take rows of covariance ``target`` (C, C) to covariance ``source`` (C, C): ``T^-1/2 S^1/2``."""
    return power(target, -0.5) @ power(source, 0.5)


def monge_map(target: Floats, source: Floats) -> Floats:
    """Take them there by the optimal transport between Gaussians: ``T^-1/2 (T^1/2 S T^1/2)^1/2 T^-1/2``."""
    root, inverse = power(target, 0.5), power(target, -0.5)
    return inverse @ power(root @ source @ root, 0.5) @ inverse


def power(matrix: Floats, exponent: float) -> Floats:
    """A symmetric positive ``matrix`` (n, n) to a real power, its smallest eigenvalues raised to ``EIGENVALUE_FLOOR``."""
    value, vector = np.linalg.eigh((matrix + matrix.T) / 2)
    value = np.maximum(value, EIGENVALUE_FLOOR * value.max())
    return (vector * value**exponent) @ vector.T


def rotation(a: Floats, b: Floats) -> Floats:
    """The orthogonal (q, q) matrix that takes ``a`` (n, q) nearest to ``b`` (n, q) (Schoenemann 1966)."""
    u, _, v = np.linalg.svd(a.T @ b)
    return u @ v


def stable_rotation(target: Floats, source: Floats, keep: int) -> Floats:
    """Align loadings (C, q) on the ``keep`` channels that agree best: drop the worst one and align again, one by one."""
    kept = np.arange(len(target))
    while len(kept) > keep:
        off = np.linalg.norm(target[kept] @ rotation(target[kept], source[kept]) - source[kept], axis=1)
        kept = np.delete(kept, off.argmax())
    return rotation(target[kept], source[kept])


def _factors(x: Floats, live: NDArray[np.bool_], q: int) -> tuple[Floats, Floats]:
    """Factor analysis of bins ``x`` (n, C): loadings (C, q) and the weights (C, q) of the factors' posterior mean.

    Channels that are not ``live`` load on nothing.
    """
    fitted = FactorAnalysis(q, svd_method="lapack", max_iter=5000).fit(x[:, live])
    loadings, scores = np.zeros((2, x.shape[1], q))
    loadings[live] = fitted.components_.T
    scores[live] = np.linalg.solve(fitted.get_covariance(), fitted.components_.T)
    return loadings, scores


def _fold(read_in: ReadIn, n: Normalised, matrix: Floats, source_mean: Floats, target_mean: Floats) -> ReadIn:
    """Put ``(x - target_mean) @ matrix + source_mean`` of normalised counts (C,) between normaliser and source weights."""
    # A source-silent channel has gain 0 in the bundle and untrained weights: behind a full matrix it would wake up.
    weight = read_in.weight * (read_in.gain > 0)[:, None]
    bias = read_in.bias + (source_mean - target_mean @ matrix) @ weight
    return ReadIn(n.start.mean, n.start.gain, (matrix @ weight).astype(np.float32), bias.astype(np.float32))
