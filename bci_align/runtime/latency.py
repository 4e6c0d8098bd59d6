"""How long the stages of a bin take: histograms in shared memory, of a size that does not grow with the hours.

Buckets are 3 % wide, from 1 us to 10 s, so a quantile is known to 3 %; the largest value and the sum are kept as they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAGES = ("receive", "step", "publish", "total")
"""Arrived to start of the step (behind other bins, or not yet read); checks and decoding; handing it to the sink; all of it."""

FIRST_S, RATIO = 1e-6, 1.03
_INNER = math.ceil(math.log(10.0 / FIRST_S) / math.log(RATIO))
BUCKETS = _INNER + 2
"""One below :data:`FIRST_S`, those between, one beyond 10 s."""

_SCALE = 1.0 / math.log(RATIO)
_SUM, _MAX = BUCKETS, BUCKETS + 1
_ROW = BUCKETS + 2

Counts = NDArray[np.int64]


class Latency:
    """Histograms of all :data:`STAGES`; one writer. ``buffer`` must hold :meth:`nbytes` of zeroed bytes."""

    def __init__(self, buffer: Any) -> None:
        self._rows: Counts = np.frombuffer(buffer, np.int64, len(STAGES) * _ROW).reshape(len(STAGES), _ROW)

    @staticmethod
    def nbytes() -> int:
        """Bytes of memory that the histograms take."""
        return 8 * len(STAGES) * _ROW

    def add(self, stage: int, seconds: float) -> None:
        """Count one duration of ``STAGES[stage]``; NaN (a time of arrival that nobody knows) is left out."""
        if seconds != seconds:
            return
        row = self._rows[stage]
        row[bucket(seconds)] += 1
        ns = int(seconds * 1e9)
        row[_SUM] += ns
        if ns > row[_MAX]:
            row[_MAX] = ns

    def counts(self, stage: int) -> Counts:
        """A copy of one stage's buckets (BUCKETS,)."""
        return self._rows[stage, :BUCKETS].copy()

    def sum_s(self, stage: int) -> float:
        """All durations of one stage together, seconds."""
        return float(self._rows[stage, _SUM]) / 1e9

    def max_s(self, stage: int) -> float:
        """The longest duration of one stage, seconds."""
        return float(self._rows[stage, _MAX]) / 1e9

    def summary(self) -> dict[str, dict[str, float]]:
        """Per stage ``count`` and, in seconds, ``p50``, ``p99``, ``p99.9`` and ``max``; zeros before the first bin."""
        found = {}
        for i, stage in enumerate(STAGES):
            counts, most = self.counts(i), self.max_s(i)
            quantiles = {f"p{100 * q:g}": min(quantile(counts, q), most) for q in (0.5, 0.99, 0.999)}
            found[stage] = {"count": float(counts.sum())} | quantiles | {"max": most}
        return found

    def release(self) -> None:
        """Let go of the memory, without which a shared segment cannot be closed."""
        del self._rows


def bucket(seconds: float) -> int:
    """Which bucket a duration falls into."""
    if seconds < FIRST_S:
        return 0
    return min(1 + int(math.log(seconds / FIRST_S) * _SCALE), BUCKETS - 1)


def edge(index: int) -> float:
    """Upper edge of a bucket, seconds; infinity for the last."""
    return math.inf if index >= BUCKETS - 1 else FIRST_S * RATIO**index


def quantile(counts: Counts, q: float) -> float:
    """The duration that a share ``q`` of all does not exceed: its bucket's upper edge, seconds; 0 where nothing was counted."""
    total = int(counts.sum())
    if not total:
        return 0.0
    return edge(int(np.searchsorted(np.cumsum(counts), math.ceil(q * total))))
