"""The silence of a stream: when a sample is due although no bin has come. A pure step object; time is what it is told."""

from __future__ import annotations

import math
from typing import NamedTuple


class Silence(NamedTuple):
    """Since when nothing was heard and when the next sample is due, seconds of ``time.monotonic``; NaN: not known yet."""

    since: float = math.nan
    due: float = math.nan


def tick(state: Silence, now: float, wait_s: float, bin_s: float) -> tuple[Silence, float | None]:
    """``(state, seconds of silence)`` if a sample is due at ``now``, else ``(state, None)``.

    The first is due after ``wait_s`` seconds of silence, the others every ``bin_s`` after it; one that was missed is not made
    up for. A silence whose beginning nobody knows begins with the first look.
    """
    if not math.isfinite(now):
        return state, None
    if not math.isfinite(state.since):
        state = Silence(now)
    if now - state.since < wait_s or now < state.due:
        return state, None
    due = state.due + bin_s if now < state.due + bin_s else now + bin_s  # NaN: the first one
    return Silence(state.since, due), now - state.since
