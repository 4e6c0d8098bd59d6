"""Navigation: directions of code space along which one variable of behaviour changes and the others stay.

The directions are the rows of one joint ridge regression of codes on all variables (each in its own standard deviations), so that
each is the change of the mean code per unit of its variable *with the others held*. The linear continuation beyond the trials
that were seen is what makes trials for a target that has none.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.trials import Array, Index, TrialSet
from bci_align.errors import AugmentationError

Floats = NDArray[np.float64]
AXES = ("x", "y", "z")
RIDGE = 1e-2
"""Of the regression, in units of the number of trials."""
REACH = 1.25
"""Targets may lie this much farther from the middle of the workspace than the farthest that was trained on."""

FOLLOWS, EVEN = 0.5, 1.5
"""Share of the variance of trials' mean kinematics that their targets tell, and the most by which one direction of targets moves
them more than another, where movements to one target can be turned to another."""

FREE = 3.0
"""Standard deviations of a variable within which codes are in support, and by which it may be moved."""


def variables(trials: TrialSet, before: int) -> dict[str, Floats]:
    """Behavioural variables of every trial, (n,) each: ``target x`` ..., ``start x`` ..., ``speed``.

    ``start`` is the mean kinematics of the window's ``before`` bins ahead of the go cue, ``speed`` the largest change of the
    kinematics between two bins (Euclidean, physical units per bin).
    """
    k = trials.kinematics.astype(np.float64)
    start = k[:, : max(before, 1)].mean(1)
    moved = np.linalg.norm(np.diff(k, axis=1), axis=2)
    out = {f"target {axis}": trials.target[:, i] for i, axis in zip(range(trials.target.shape[1]), AXES, strict=False)}
    out |= {f"start {axis}": start[:, i] for i, axis in zip(range(k.shape[2]), AXES, strict=False)}
    # the mean over the quickest fifth: one noisy bin is no speed
    top = max(moved.shape[1] // 5, 1)
    out["speed"] = np.sort(moved, 1)[:, -top:].mean(1)
    return out


@dataclass(frozen=True)
class Navigator:
    """Where variables lie in code space.

    ``names`` (V,), ``mean`` and ``sd`` (V,) of the variables over the training trials, ``centre`` (L,) the mean code and
    ``directions`` (V, L) the change of code per standard deviation; ``precision`` (L, L) of what codes are beyond that, ``limit``
    the largest Mahalanobis distance of it that counts as in support; ``targets`` (k, D) trained on.
    """

    names: tuple[str, ...]
    mean: Floats
    sd: Floats
    centre: Floats
    directions: Floats
    precision: Floats
    limit: float
    targets: Floats

    @classmethod
    def fit(cls, codes: Array, trials: TrialSet, before: int, support: float = 0.99) -> Navigator:
        """Fit on the ``codes`` (n, L) of training trials; ``support`` is the share of them that is to count as in support."""
        values = variables(trials, before)
        v = np.stack(list(values.values()), 1)
        mean, sd = v.mean(0), v.std(0)
        sd = np.where(sd > 1e-9 * max(float(sd.max()), 1e-300), sd, np.inf)  # a constant has no direction
        z = (v - mean) / sd
        c = codes.astype(np.float64)
        centre = c.mean(0)
        penalty = RIDGE * len(z) * np.eye(z.shape[1])
        directions = np.linalg.solve(z.T @ z + penalty, z.T @ (c - centre))
        left = c - centre - z @ directions
        cov = left.T @ left / len(left)
        # shrunk, since there may be fewer trials than code numbers
        cov = 0.9 * cov + 0.1 * np.trace(cov) / len(cov) * np.eye(len(cov))
        precision = np.linalg.inv(cov)
        distance = np.sqrt(np.einsum("ni,ij,nj->n", left, precision, left))
        limit = float(np.quantile(distance, support))
        return cls(tuple(values), mean, sd, centre, directions, precision, limit, trials.conditions()[0])

    def direction(self, name: str) -> Floats:
        """Change of code (L,) per unit of variable ``name``; :class:`AugmentationError` for one that is not known or constant."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AugmentationError(f"variable: expected one of {', '.join(self.names)}, found {name!r}{hint}")
        i = self.names.index(name)
        if not np.isfinite(self.sd[i]):
            raise AugmentationError(f"variable {name!r}: expected one that varies over the training trials, found a constant")
        along: Floats = self.directions[i] / self.sd[i]
        return along

    def move(self, codes: Array, name: str, by: Floats | float) -> Array:
        """Move ``codes`` (n, L) by ``by`` (n,) or a number, in the variable's own units; every other variable stays."""
        step = np.broadcast_to(np.asarray(by, np.float64), len(codes))[:, None] * self.direction(name)
        moved: Array = (codes + step).astype(np.float32)
        return moved

    def check_move(self, name: str, by: float) -> None:
        """Refuse to move ``name`` by more than :data:`FREE` of its standard deviations, naming the most that is supported."""
        self.direction(name)
        most = FREE * float(self.sd[self.names.index(name)])
        if not abs(by) <= most:  # NaN, too
            raise AugmentationError(
                f"move of {name!r} by {by:.4g}: outside the support; largest supported {np.copysign(most, by):.4g} "
                f"({FREE:g} standard deviations of the training trials)"
            )

    def to_target(self, codes: Array, now: Floats, to: Floats) -> Array:
        """Move ``codes`` (n, L) of trials with targets ``now`` (n, D) to the targets ``to`` (n, D)."""
        for i, axis in zip(range(to.shape[1]), AXES, strict=False):
            name = f"target {axis}"
            if np.isfinite(self.sd[self.names.index(name)]):
                codes = self.move(codes, name, to[:, i] - now[:, i])
        return codes

    def check(self, targets: Floats) -> None:
        """Refuse ``targets`` (m, D) outside the support, naming the nearest that is inside it.

        The support is the ball around the mean of the extreme targets, ``REACH`` times as wide as they are: directions that have
        no trials are inside, distances that were never reached are not.
        """
        dims = self.targets.shape[1]
        for t in np.atleast_2d(targets):
            if len(t) != dims:
                raise AugmentationError(
                    f"target {_point(t)}: expected {dims} coordinates as in the training session, found {len(t)}"
                )
            middle, radius = self.ball()
            # no farther than arithmetic goes; a direction stays one
            far = np.clip(np.nan_to_num(t), middle - 1e6 * (radius or 1.0), middle + 1e6 * (radius or 1.0))
            distance = float(np.linalg.norm(far - middle))
            if np.isnan(t).any() or distance > radius:
                near = middle + (far - middle) * radius / distance if distance > radius else middle
                trained = self.targets[np.argmin(np.linalg.norm(self.targets - far, axis=1))]
                raise AugmentationError(
                    f"target {_point(t)}: outside the support (at most {radius:.4g} from {_point(middle)}); nearest supported "
                    f"{_point(near)}, nearest trained {_point(trained)}"
                )

    def ball(self) -> tuple[Floats, float]:
        """Middle (D,) and radius of the targets that are supported.

        The middle is the centre of the smallest circle around what was trained on, or the origin if that explains the trained
        targets as well (all at one distance): a centre-out task with directions missing keeps its centre.
        """
        if self.centre_out():
            return np.zeros(self.targets.shape[1]), REACH * float(np.linalg.norm(self.targets, axis=1).max())
        middle = (self.targets.max(0) + self.targets.min(0)) / 2
        return middle, REACH * float(np.linalg.norm(self.targets - middle, axis=1).max())

    def centre_out(self) -> bool:
        """Whether all targets lie at one distance from the origin, in whatever directions.

        Judged by their own extent: targets in screen coordinates are far from the origin, all about as far.
        """
        distances = np.linalg.norm(self.targets, axis=1)
        extent = np.linalg.norm(self.targets - self.targets.mean(0), axis=1).max()
        return len(self.targets) > 1 and bool(distances.std() < 0.05 * extent)

    def distance(self, codes: Array, target: Floats) -> Floats:
        """Mahalanobis distance (n,) of what ``codes`` (n, L) are beyond their ``target`` (n, D), other variables as they like."""
        left = codes.astype(np.float64) - self.centre
        others = []
        for i, name in enumerate(self.names):
            if name.startswith("target ") and np.isfinite(self.sd[i]):
                value = target[:, AXES.index(name[-1])]
                left = left - ((value - self.mean[i]) / self.sd[i])[:, None] * self.directions[i]
            elif np.isfinite(self.sd[i]):
                others.append(self.directions[i])
        # within three standard deviations of the other variables is no fault of a code
        basis = np.array(others).reshape(-1, left.shape[1])
        if len(basis):
            gram = basis @ self.precision @ basis.T + 1e-9 * np.eye(len(basis))
            amount = np.clip(left @ self.precision @ basis.T @ np.linalg.pinv(gram), -FREE, FREE)
            left = left - amount @ basis
        return np.sqrt(np.einsum("ni,ij,nj->n", left, self.precision, left))


def sense(trials: TrialSet) -> float | None:
    """Whether kinematics turn as the targets do: 1, or -1 where they are their mirror image; None where neither.

    Both are in a plane, and trials' mean kinematics are a similar map of the targets: one that tells most of both
    (:data:`FOLLOWS`) and stretches no direction by more than :data:`EVEN` times another. A force beside a speed is none.
    """
    t, k = trials.target - trials.target.mean(0), trials.kinematics.mean(1, dtype=np.float64)
    if not t.shape[1] == k.shape[1] == 2 or np.linalg.matrix_rank(t) < 2:
        return None
    k = k - k.mean(0)
    by = np.linalg.lstsq(t, k, rcond=None)[0]
    long, short = np.linalg.svd(by, compute_uv=False)
    if not short * EVEN > long or (np.square(k - t @ by).sum(0) > (1 - FOLLOWS) * np.square(k).sum(0)).any():
        return None
    return float(np.sign(np.linalg.det(by)))


def turned(trials: TrialSet, rows: Index, to: Floats, sense: float = 1.0, origin: Floats | float = 0.0) -> Array:
    """Kinematics (n, T, 2) of the trials ``rows``, turned about their ``origin`` (2,) and stretched to the targets ``to`` (n, 2).

    What a centre-out task in a plane looks like in another direction; nothing is continued along a line. ``sense`` as
    :func:`sense` says.
    """
    some = trials.of(rows)
    turn = np.arctan2(to[:, 1], to[:, 0]) - np.arctan2(some.target[:, 1], some.target[:, 0])
    longer = np.linalg.norm(to, axis=1) / np.maximum(np.linalg.norm(some.target, axis=1), 1e-12)
    moved = (some.kinematics - origin) @ np.array([1, 1j])
    moved = moved * (longer * np.exp(1j * sense * turn))[:, None]
    found: Array = (np.stack([moved.real, moved.imag], 2) + origin).astype(np.float32)
    return found


def start_from(trials: TrialSet, targets: Floats, count: int, rng: np.random.Generator, nearest: int = 3) -> tuple[Index, Floats]:
    """Choose trials to start from, for ``count`` new trials per row of ``targets`` (m, D): indices and targets of all of them.

    Each is drawn among the target's own trials, and where it has none among those of the ``nearest`` targets: the shorter the
    way, the less is continued.
    """
    known, which = trials.conditions()
    rows, to = [], []
    for t in targets:
        away = np.linalg.norm(known - t, axis=1)
        order = np.argsort(away)[: 1 if away.min() < 1e-6 else nearest]
        pool = np.flatnonzero(np.isin(which, order))
        rows.append(rng.choice(pool, count, replace=count > len(pool)))
        to.append(np.repeat(t[None], count, 0))
    return np.concatenate(rows), np.concatenate(to)


def _point(t: Sequence[float] | Floats) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in t) + ")"
