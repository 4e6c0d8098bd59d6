"""Trials of an earlier day brought to today's channels: what a code model may learn from a day on which every target was there.

For sessions of one array: channel i is the same electrode on both days. Per channel, square-root rates of today are the earlier
day's times a factor plus an offset, plus a linear change of the tuning with the target; all three are fitted on the condition
means of the targets that *both* days have, and are shrunk: the factor towards 1, the change towards none. A channel whose tuning
of then says nothing of today's is thus brought over flat, not wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation.trials import TrialSet, joined
from bci_align.errors import AugmentationError

Floats = NDArray[np.float64]
SAME = 0.3
"""Weight of the prior that a channel's tuning is what it was, in units of the mean channel's tuning."""
CHANGE = 3.0
"""Ridge of the linear change, in targets (of unit length) that would have to disagree with it."""


def with_earlier(today: TrialSet, earlier: TrialSet | None) -> TrialSet:
    """Give ``today``'s trials and, where there is an ``earlier`` day, its own carried over by these: a model learns from both.

    And it starts from both, so that a target which today has no trials of is reached from trials of its own.
    """
    return today if earlier is None else joined(today, carry(earlier, today))


def carry(earlier: TrialSet, today: TrialSet) -> TrialSet:
    """Give ``earlier`` trials as today's array would have recorded them; counts are scaled with the rates, not drawn anew.

    Kinematics and targets stay. :class:`AugmentationError` where the days share fewer than 3 targets or do not fit together.
    """
    if earlier.rates.shape[1:] != today.rates.shape[1:]:
        raise AugmentationError(
            f"earlier day: expected trials of {today.rates.shape[1]} bins and {today.rates.shape[2]} channels as today, "
            f"found {earlier.rates.shape[1]} and {earlier.rates.shape[2]}"
        )
    known, which = today.conditions()
    before, then = earlier.conditions()
    same = np.all(np.abs(known[:, None] - before[None]) < 1e-6, axis=2, keepdims=False)
    pairs = [(i, int(np.flatnonzero(row)[0])) for i, row in enumerate(same) if row.any()]
    if len(pairs) < 3:
        raise AugmentationError(f"earlier day: expected at least 3 targets that today's trials have, too, found {len(pairs)}")

    def mean(trials: TrialSet, rows: NDArray[np.bool_]) -> Floats:
        return np.sqrt(trials.rates[rows]).mean(0).astype(np.float64)

    a = np.stack([mean(earlier, then == j) for _, j in pairs])
    b = np.stack([mean(today, which == i) for i, _ in pairs])
    base_a, base_b = a.mean((0, 1)), b.mean((0, 1))
    da, db = a - base_a, b - base_b
    prior = SAME * np.square(da).mean()
    factor = np.clip(((da * db).mean((0, 1)) + prior) / (np.square(da).mean((0, 1)) + prior), 0, 2)
    size = float(np.linalg.norm(known, axis=1).max()) or 1.0
    design = np.c_[np.ones(len(pairs)), known[[i for i, _ in pairs]] / size]
    ridge = CHANGE * np.diag([1 / 3, *np.ones(known.shape[1])])
    left = np.einsum("kd,ktc->dtc", design, db - factor * da).reshape(design.shape[1], -1)
    change = np.linalg.solve(design.T @ design + ridge, left)
    moved = (np.c_[np.ones(len(earlier)), earlier.target / size] @ change).reshape(len(earlier), *a.shape[1:])
    root = base_b + factor * (np.sqrt(earlier.rates) - base_a) + moved
    rates = np.square(np.maximum(root, 0)).astype(np.float32)
    ratio = rates / np.maximum(earlier.rates, 1e-3)
    return TrialSet((earlier.counts * np.minimum(ratio, 4)).astype(np.float32), rates, earlier.kinematics, earlier.target)
