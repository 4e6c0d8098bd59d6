"""How well factors are told apart: R2 matrix, mutual information gap, relative gap, and the same for an oracle.

Everything is measured on frames (n, ...) of trials that trained nothing. MIG: Chen et al. 2018, "Isolating sources of
disentanglement in VAEs", Eq. 7; Kraskov et al. 2004, "Estimating mutual information", for KSG.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_selection import mutual_info_regression

from bci_align.errors import InterpretationError

Floats = NDArray[np.float64]

BINS = 20
"""Equal-width bins per axis of the mutual information."""
ENOUGH = 10_000
"""Frames below which the binned mutual information, and the MIG with it, is mostly bias."""
KSG_FRAMES = 3000
"""Frames that KSG is estimated on: neighbours of more say the same, for longer."""


class Frames(NamedTuple):
    """Factors ``z`` (n, D) and behaviours ``u`` (n, B) of the same frames, end to end; NaN in ``u`` where not labelled."""

    z: Floats
    u: Floats


def _fit(x: Floats, y: Floats) -> Floats:
    """Least squares with an offset: coefficients (P + 1,) of ``y`` (n,) on ``x`` (n, P)."""
    w, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    return np.asarray(w)


def _r2(y: Floats, told: Floats) -> float:
    return float(1 - np.square(y - told).sum() / np.square(y - y.mean()).sum())


def r2_matrix(train: Frames, test: Frames) -> Floats:
    """R2 (D, B) of behaviour b told by factor d alone: a line fitted on ``train``, scored on ``test``."""
    out = np.empty((train.z.shape[1], train.u.shape[1]))
    for b in range(out.shape[1]):
        for d in range(out.shape[0]):
            out[d, b] = _one(train, test, [d], b)
    return out


def r2_full(train: Frames, test: Frames) -> Floats:
    """R2 (B,) of each behaviour told by all factors together, linearly; fitted on ``train``, scored on ``test``."""
    return np.array([_one(train, test, list(range(train.z.shape[1])), b) for b in range(train.u.shape[1])])


def _one(train: Frames, test: Frames, columns: list[int], b: int) -> float:
    known, asked = np.isfinite(train.u[:, b]), np.isfinite(test.u[:, b])
    if asked.sum() < 2 or np.ptp(test.u[asked, b]) == 0:
        raise InterpretationError(f"behaviour {b}: expected values that vary in the held-out trials, found none")
    w = _fit(train.z[known][:, columns], train.u[known, b])
    return _r2(test.u[asked, b], test.z[asked][:, columns] @ w[:-1] + w[-1])


def binned_information(a: Floats, b: Floats, bins: int = BINS) -> tuple[float, float]:
    """Mutual information of ``a`` (n,) and ``b`` (n,) on ``bins`` equal-width bins each, and the entropy of ``b``; nats.

    Biased upwards by about ``(bins - 1)^2 / 2n``: see :data:`ENOUGH`.
    """
    joint, _, _ = np.histogram2d(a, b, bins=bins)
    p = joint / joint.sum()
    pa, pb = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    seen = p > 0
    information = float((p[seen] * np.log(p[seen] / (pa @ pb)[seen])).sum())
    return information, float(-(pb[pb > 0] * np.log(pb[pb > 0])).sum())


def gaps(frames: Frames, seed: int = 0) -> dict[str, Any]:
    """Disentanglement of ``frames``.

    ``mig``: mean over behaviours of (I1 - I2) / H, I1 and I2 the largest and second largest information of a factor about it;
    ``relative_gap``: mean of (I1 - I2) / I1; ``ksg_gap``: the same with KSG's estimate instead of bins; ``information`` (D, B)
    nats; ``frames``.
    """
    d, b = frames.z.shape[1], frames.u.shape[1]
    information, entropy, nearest = np.zeros((d, b)), np.zeros(b), np.zeros((d, b))
    rng = np.random.default_rng(seed)
    for j in range(b):
        known = np.flatnonzero(np.isfinite(frames.u[:, j]))
        u, z = frames.u[known, j], frames.z[known]
        for i in range(d):
            information[i, j], entropy[j] = binned_information(z[:, i], u)
        some = rng.choice(len(u), min(len(u), KSG_FRAMES), replace=False)
        nearest[:, j] = mutual_info_regression(z[some], u[some], random_state=seed)
    return {
        "mig": float(np.mean(_gap(information) / entropy)),
        "relative_gap": _relative(information),
        "ksg_gap": _relative(nearest),
        "information": information,
        "frames": len(frames.u),
    }


def _gap(information: Floats) -> Floats:
    ordered = np.sort(information, axis=0)
    return np.asarray(ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0.0))


def _relative(information: Floats) -> float:
    """Mean of (I1 - I2) / I1; 0 for a behaviour that no factor knows anything of."""
    best = information.max(0)
    return float(np.mean(np.where(best > 0, _gap(information) / np.maximum(best, 1e-12), 0.0)))


def reconstruction(activity: Floats, told: Floats) -> tuple[float, float]:
    """R2 over all channels, and root-mean-square error, of ``told`` (n, C) about normalised counts ``activity`` (n, C)."""
    error = np.square(activity - told)
    return float(1 - error.sum() / np.square(activity - activity.mean(0)).sum()), float(np.sqrt(error.mean()))


def measure(train: Frames, test: Frames, activity: Floats, told: Floats, seed: int = 0) -> dict[str, Any]:
    """Everything about factors on held-out frames, JSON-ready but for arrays.

    ``r2`` (D, B), ``r2_full`` (B,), ``diagonal`` (B,) = r2[b, b], ``off_diagonal`` the largest r2[d, b] with d != b,
    ``reconstruction_r2``, ``reconstruction_rmse`` (channel standard deviations), :func:`gaps`, and ``oracle``: the gaps and
    the R2 (B, B) of factors that *are* the behaviours, the most that any method could give on these frames.
    """
    r2 = r2_matrix(train, test)
    b = r2.shape[1]
    off = r2.copy()
    off[np.arange(b), np.arange(b)] = -np.inf
    score, rmse = reconstruction(activity, told)
    known = np.isfinite(test.u).all(1)
    sure = np.isfinite(train.u).all(1)
    same, fitted = Frames(test.u[known], test.u[known]), Frames(train.u[sure], train.u[sure])
    return {
        "r2": r2,
        "r2_full": r2_full(train, test),
        "diagonal": r2[np.arange(b), np.arange(b)],
        "off_diagonal": float(off.max()),
        "reconstruction_r2": score,
        "reconstruction_rmse": rmse,
        **gaps(test, seed),
        "oracle": {**gaps(same, seed), "r2": r2_matrix(fitted, same)},
    }
