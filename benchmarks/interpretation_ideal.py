"""The most that any reader of a simulated day's counts can tell: the posterior of an observer who knows how the day was made.

Not a method: it is given the true loadings, rates and smoothness, all that training has to find. What factors lack of it could be
learnt; what it lacks of the behaviours themselves is not in the counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.interpretation.data import FactorDay
from bci_align.interpretation.measures import Frames, gaps, r2_matrix
from bci_align_sim.mixed import NAMES, Mixed, loadings

Floats = NDArray[np.float64]

JITTER = 1e-4
"""Added to the diagonal of the smooth processes' covariances, which are all but singular."""
NEWTON, CLOSE = 20, 1e-4
"""Steps at most, and the change of a process, in its standard deviations, at which they end."""


def covariances(bins: int, array: Mixed) -> list[Floats]:
    """Covariance (bins, bins) over time of every process: the velocities' first, of variance 1 each."""
    at = np.arange(bins + 1)
    smooth = np.exp(-0.25 * ((at[:, None] - at) / array.length) ** 2)
    step = np.diff(np.eye(bins + 1), axis=0)
    velocity = step @ smooth @ step.T
    return [velocity / velocity[0, 0]] * 2 + [smooth[:bins, :bins]] * (len(NAMES) - 2 + array.hidden)


def prior(bins: int, array: Mixed) -> Floats:
    """Inverse covariance (D bins, D bins) of all processes of a trial, process by process."""
    each = [np.linalg.inv(c + JITTER * np.eye(bins)) for c in covariances(bins, array)]
    out = np.zeros((bins * len(each),) * 2)
    for i, block in enumerate(each):
        out[i * bins : (i + 1) * bins, i * bins : (i + 1) * bins] = block
    return out


def most_likely(counts: Floats, loading: Floats, base: Floats, precision: Floats) -> Floats:
    """Mode (T, D) of the posterior of all processes given a trial's ``counts`` (T, C), by Newton's method.

    ``loading`` (D, C) of the log rates, ``base`` (C,) at rest, ``precision`` (D T, D T) of the prior, process by process. The
    posterior is log-concave: there is one mode.
    """
    t, d = len(counts), len(loading)
    x = np.zeros((t, d))
    for _ in range(NEWTON):
        rate = np.exp(base + x @ loading)
        curvature = np.einsum("tc,ic,jc->tij", rate, loading, loading)
        hessian = precision.copy()
        for i in range(d):
            for j in range(d):
                hessian[i * t : (i + 1) * t, j * t : (j + 1) * t] += np.diag(curvature[:, i, j])
        slope = ((counts - rate) @ loading.T).T.ravel() - precision @ x.T.ravel()
        step = np.linalg.solve(hessian, slope)
        x += step.reshape(d, t).T
        if np.abs(step).max() < CLOSE:
            break
    return x


def ideal(day: FactorDay, seed: int, array: Mixed | None = None) -> dict[str, Any]:
    """Gaps, and the R2 (B, B), of the ideal observer's estimates on the held-out trials of ``mixed_day(seed)``.

    It sees a trial at a time, as the factors do. R2 of lines fitted on these same trials: a ceiling may be generous.
    """
    array = array or Mixed()
    loading, base = loadings(seed, array)
    loading = array.depth * loading / np.sqrt(len(loading))
    trials = day.cut(True)
    before = {t: prior(t, array) for t in set(trials.lengths())}
    every = [most_likely(c.astype(np.float64), loading, base, before[len(c)]) for c in trials.counts]
    z = [x[:, : len(NAMES)] for x in every]
    frames = Frames(np.concatenate(z), np.concatenate(trials.behaviours).astype(np.float64))
    return {**gaps(frames, seed), "r2": r2_matrix(frames, frames)}
