"""R2 of frozen lines from factors to behaviours, and its trial-bootstrap interval.

Bins of one trial are not independent, trials nearly are: trials are resampled (Efron and Tibshirani 1993), whole, by weights on
sums that are taken once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import InterpretationError
from bci_align.interpretation.data import FactorDay, FactorTrials
from bci_align.interpretation.factors import read_factors
from bci_align.models.factor_vae import FactorVAE

Floats = NDArray[np.float64]

DRAWS = 2000
"""Resamplings of the trials."""
ROUNDING = 1e-12
"""Share of a behaviour's sum of squares below which its spread is the rounding of its sums."""
LEVEL = 0.99
"""Share of the resamplings inside an interval. An accusation should be wrong once in a hundred, not once in twenty."""


@dataclass(frozen=True)
class Interval:
    """A finite R2, or a difference of two, with its trial-bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def lines(z: Floats, u: Floats) -> Floats:
    """Slope and offset (2, D, B) of every behaviour on every factor, over labelled frames."""
    out = np.empty((2, z.shape[1], u.shape[1]))
    for b in range(u.shape[1]):
        known = np.isfinite(u[:, b])
        centred = z[known] - z[known].mean(0)
        out[0, :, b] = centred.T @ (u[known, b] - u[known, b].mean()) / np.maximum(np.square(centred).sum(0), 1e-12)
        out[1, :, b] = u[known, b].mean() - out[0, :, b] * z[known].mean(0)
    return out


def sums(z: Sequence[Floats], u: Sequence[Floats], lines: Floats) -> Floats:
    """Per trial (n, 4, D, B): labelled frames, sum and sum of squares of the behaviour, squared error of each factor's line."""
    out = np.empty((len(z), 4, *lines.shape[1:]))
    for i, (f, v) in enumerate(zip(z, u, strict=True)):
        known = np.isfinite(v)[:, None]
        v0 = np.where(np.isfinite(v), v, 0.0)[:, None]
        error = np.where(known, v0 - (lines[0] * f[:, :, None] + lines[1]), 0.0)
        shape = error.shape
        out[i] = [np.broadcast_to(a, shape).sum(0) for a in (known, v0, v0**2, error**2)]
    return out


def r2(total: Floats) -> Floats:
    """R2 (..., D, B) of sums (..., 4, D, B); NaN where the behaviour is constant, but for rounding, or nowhere labelled."""
    n, s, ss, error = np.moveaxis(total, -3, 0)
    spread = ss - s**2 / np.maximum(n, 1)
    varies = spread > ROUNDING * ss
    return np.where(varies, 1 - error / np.where(varies, spread, 1.0), np.nan)


def check_resamples(trials: FactorTrials, where: str, which: str, seed: int = 0) -> None:
    """Refuse a behaviour that is constant in a resampling of ``trials``: no interval of its R2 can be told.

    These are the resamplings of :func:`own_intervals` with the same seed.
    """
    none = [np.zeros((len(b), 1)) for b in trials.behaviours]
    lines = np.zeros((2, 1, len(trials.names)))
    drawn = bootstrap(sums(none, [b.astype(np.float64) for b in trials.behaviours], lines), np.random.default_rng(seed))
    for k, name in enumerate(trials.names):
        _check_finite(drawn[:, 0, k], f"{where}: behaviour {name!r}", which)


def _check_finite(draws: Floats, what: str, which: str) -> None:
    wrong = int((~np.isfinite(draws)).sum())
    if wrong:
        raise InterpretationError(
            f"{what}: expected values that vary in every resampling of the {which} trials, found none, or no finite R2, "
            f"in {wrong} of {draws.size}"
        )


def _draw(n: int, rng: np.random.Generator) -> Floats:
    return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)


def bootstrap(sums: Floats, rng: np.random.Generator) -> Floats:
    """R2 (DRAWS, D, B) of resampled trials, from :func:`sums`."""
    return r2(np.tensordot(_draw(len(sums), rng), sums, 1))


def paired(before: Floats, after: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """R2 of both in the same resamplings."""
    weights = _draw(len(before), rng)
    return r2(np.tensordot(weights, before, 1)), r2(np.tensordot(weights, after, 1))


def interval(value: float, draws: Floats, level: float = LEVEL, what: str = "R2", which: str = "held-out") -> Interval:
    """``value`` with the central ``level`` of its ``draws``; :class:`InterpretationError` names ``what`` if any is not finite."""
    _check_finite(np.append(draws, value), what, which)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def own_intervals(network: FactorVAE, day: FactorDay, level: float = LEVEL, seed: int = 0) -> list[Interval]:
    """R2 of every behaviour told by its own factor on the held-out trials, by a line fitted on the others."""
    parts = []
    for held_out in (False, True):
        trials = day.cut(held_out)
        z, _ = read_factors(network, trials.counts)
        parts.append((z, [b.astype(np.float64) for b in trials.behaviours]))
    fitted = lines(np.concatenate(parts[0][0]), np.concatenate(parts[0][1]))
    each = sums(*parts[1], fitted)
    point, drawn = r2(each.sum(0)), bootstrap(each, np.random.default_rng(seed))
    return [interval(point[k, k], drawn[:, k, k], level, f"behaviour {name!r}") for k, name in enumerate(day.names)]
