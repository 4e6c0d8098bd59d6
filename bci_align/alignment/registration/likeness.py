"""How much more likely two channels of two days are one unit than two, in nats.

Each feature is a Gaussian over units. For one unit seen on two days the true values correlate by ``SAME``; for two units they
do not. The logarithm of the ratio of the two densities of the pair, summed over features, is the score of the pair: positive
speaks for one unit. (The likelihood ratio of record linkage: Fellegi & Sunter 1969, J Am Stat Assoc 64:1183, with Gaussian
fields.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bci_align.alignment.registration.features import FOLDS, Described
from bci_align.alignment.registration.types import Float, Index

SAME = 0.9
"""Correlation of a feature's true value between the two days, for one unit."""

CHANGED = 0.05
"""Chance that a feature of one unit changed altogether: no single feature may veto a pair."""

MOST_SAME = 0.97
"""No feature is taken for more constant than this: pairs were chosen for their likeness, so their likeness flatters them."""

PRIOR_PAIRS = 10.0
"""Pairs that ``SAME`` counts for."""

LEAST_SIGNAL = 0.05
"""Share of a feature's spread that is never taken for sampling noise."""


def describe(x: Float, features: Callable[[Float], Float]) -> Described:
    """Features of ``x`` (n, P, C), with the jackknife's variance averaged with that of all units (few folds are few)."""
    folds = min(FOLDS, len(x))
    group = np.arange(len(x)) % folds
    left_out = np.stack([features(x[group != k]) for k in range(folds)])
    variance = (folds - 1) * left_out.var(0)
    return Described(features(x), 0.5 * (variance + variance.mean(0)))


def components(a: Described, b: Described, count: int) -> tuple[Described, Described]:
    """Both days' features on their common ``count`` principal components over units: naive Bayes wants uncorrelated features."""
    both = np.concatenate([a.value - a.value.mean(0), b.value - b.value.mean(0)])
    _, _, axes = np.linalg.svd(both, full_matrices=False)
    v = axes[:count].T
    return tuple(Described((d.value - d.value.mean(0)) @ v, d.variance @ (v * v)) for d in (a, b))  # type: ignore[return-value]


def constancy(a: Described, b: Described, of_a: Index, of_b: Index) -> Float:
    """Correlation of each feature's true value between the days (F,), over pairs taken for one unit, drawn towards ``SAME``.

    Without it a feature that one day has and the other has not would count as much as one that both share.
    """
    same = np.full(a.value.shape[1], SAME)
    for f in range(len(same)):
        x, y = (a.value[:, f] - a.value[:, f].mean())[of_a], (b.value[:, f] - b.value[:, f].mean())[of_b]
        signal = _signal(a, b, f)
        seen = 0.5 * (x @ x + y @ y) - 0.5 * (a.variance[of_a, f].sum() + b.variance[of_b, f].sum())
        prior = PRIOR_PAIRS * signal
        same[f] = (x @ y + SAME * prior) / (max(seen, 0) + prior) if signal > 0 else 0.0
    return np.asarray(np.clip(same, 0.0, MOST_SAME))


def _signal(a: Described, b: Described, f: int) -> float:
    """Variance over units of feature ``f``'s true value."""
    spread = 0.5 * (a.value[:, f].var() + b.value[:, f].var())
    noise = 0.5 * (a.variance[:, f].mean() + b.variance[:, f].mean())
    return float(max(spread - noise, LEAST_SIGNAL * spread))


def score(a: Described, b: Described, same: Float | None = None) -> Float:
    """Score (C_a, C_b) of every pair, nats, summed over features; ``same`` (F,) as :func:`constancy` gives it."""
    total = np.zeros((len(a.value), len(b.value)))
    for f in range(a.value.shape[1]):
        x, y = a.value[:, f] - a.value[:, f].mean(), b.value[:, f] - b.value[:, f].mean()
        signal = _signal(a, b, f)
        if signal <= 0:
            continue
        va, vb = (signal + a.variance[:, f])[:, None], (signal + b.variance[:, f])[None, :]
        c = signal * (SAME if same is None else same[f])
        det = va * vb - c * c
        xx, yy, xy = (x * x)[:, None], (y * y)[None, :], np.outer(x, y)
        ratio = 0.5 * (np.log(va * vb / det) + xx / va + yy / vb - (vb * xx + va * yy - 2 * c * xy) / det)
        total += np.logaddexp(np.log1p(-CHANGED) + ratio, np.log(CHANGED))
    return total
