"""Two generations on the same live bins: is the new one's output of the kind that may move a cursor or an arm?

Used twice: before a candidate leads (shadow: the new one follows) and after (probation: the old one follows). Nothing here knows
what the outputs should have been; only how wild, how dead and how often clamped they are, beside the old generation's and beside
the source day's standard deviation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bci_align.config import PromotionConfig
from bci_align.runtime.slots import Floats

Check = dict[str, Any]
"""``name``, ``value``, ``bound`` (a number: the most; two: the range) and ``passed``."""

_LITTLE = 1e-3
"""Spread, source-day standard deviations, below which an output counts as resting: resting outputs are not compared."""


class _Side:
    """One generation's outputs in source-day standard deviations."""

    def __init__(self, outputs: int) -> None:
        self._sum, self._squares = np.zeros(outputs), np.zeros(outputs)
        self._last: Floats | None = None
        self.bins = self.clamped = 0
        self.jump = 0.0

    def add(self, y: Floats, clamped: bool) -> None:
        self.bins += 1
        self.clamped += clamped
        self._sum += y
        self._squares += y * y
        if self._last is not None:
            self.jump = max(self.jump, float(np.abs(y - self._last).max()))
        self._last = y

    def cut(self) -> None:
        self._last = None

    def spread(self) -> Floats:
        mean = self._sum / self.bins
        return np.sqrt(np.maximum(self._squares / self.bins - mean * mean, 0.0))


class Comparison:
    """Running comparison of a new generation with the old one.

    Parameters
    ----------
    scale
        (K,) source-day standard deviation of the outputs, physical units.
    config
        The bounds.
    """

    def __init__(self, scale: Floats, config: PromotionConfig) -> None:
        self._scale, self._config = scale, config
        self._new, self._old = _Side(len(scale)), _Side(len(scale))

    @property
    def bins(self) -> int:
        """Bins compared so far."""
        return self._new.bins

    def add(self, new: Floats, new_clamped: bool, old: Floats, old_clamped: bool) -> None:
        """Take in both outputs (K,) of one bin, physical units."""
        self._new.add(new / self._scale, new_clamped)
        self._old.add(old / self._scale, old_clamped)

    def cut(self) -> None:
        """Between the last bin and the next one both states have started anew: no jump."""
        self._new.cut()
        self._old.cut()

    def wild(self) -> bool:
        """Whether the new generation has jumped as it must not, and as the old one has not."""
        return not self._jump()["passed"]

    def checks(self) -> list[Check]:
        """Every check of the bins so far.

        Bounds hold the new generation to no more than the old one does itself on the same bins: a flood of artefacts moves both.
        The spread may keep within range of the old one's or of the source day's: a generation that puts right an incumbent which
        drift has made wild or dead must differ from it.
        """
        if not self.bins:
            return []
        low, high = self._config.spread
        new, old = self._new.spread(), self._old.spread()
        share = self._new.clamped / self.bins
        most = max(self._config.most_clamped, self._old.clamped / self.bins)
        found = [self._jump(), _check("share of bins clamped", share, most, share <= most)]
        for k in range(len(new)):
            ratio = min(((new[k] + _LITTLE) / (ref + _LITTLE) for ref in (float(old[k]), 1.0)), key=lambda r: abs(math.log(r)))
            found.append(_check(f"spread of output {k}", float(ratio), [low, high], low <= ratio <= high))
        return found

    def _jump(self) -> Check:
        most = max(self._config.most_jump, self._old.jump)
        return _check("largest jump", self._new.jump, most, self._new.jump <= most)


def verdict(checks: list[Check]) -> str | None:
    """What failed as one clause, None if nothing did."""
    for c in checks:
        if not c["passed"]:
            bound = c["bound"]
            expected = f"{bound[0]:g} to {bound[1]:g}" if isinstance(bound, list) else f"at most {bound:.3g}"
            return f"{c['name']}: expected {expected}, found {c['value']:.3g}"
    return None


def _check(name: str, value: float, bound: float | list[float], passed: bool) -> Check:
    return {"name": name, "value": value, "bound": bound, "passed": bool(passed)}
