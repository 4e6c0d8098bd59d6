"""What a fault did to the output: pure functions from what was sent and heard to one row of the matrix."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bci_align.streams.contract import Decoded, Flags
from benchmarks.rigged import Sent

HARMLESS = Flags.IN_TRIAL | Flags.CLAMPED | Flags.SWAPPED | Flags.BLENDING | Flags.FROZEN
"""Flags that are no fault's."""

STEADY = 5
"""Samples in a row without a fault's flag that count as recovered."""

Heard = Sequence[tuple[float, Decoded]]


@dataclass
class Found:
    """One row of the matrix; times in seconds, NaN where it never happened."""

    name: str
    over: str
    injected: str
    seen_s: float = math.nan
    how: str = ""
    """By what it was seen: a flag, a report, a sentence."""
    output: str = ""
    recovered_s: float = math.nan
    lost: int = 0
    """Usable bins that were sent and never answered."""
    repeated: int = 0
    """Bins that were answered more than once."""
    wrong: list[str] = field(default_factory=list)
    """Expectations that were not met, a sentence each."""

    @property
    def met(self) -> bool:
        """Whether all was as expected."""
        return not self.wrong

    def expect(self, condition: bool, otherwise: str) -> None:
        """Note ``otherwise`` unless ``condition``."""
        if not condition:
            self.wrong.append(otherwise)


def seen(heard: Heard, flag: Flags, since: float) -> float:
    """Seconds from ``since`` to the first sample with ``flag``; NaN without one."""
    return next((t - since for t, s in heard if t >= since and s.flags & flag), math.nan)


def recovered(heard: Heard, since: float) -> float:
    """Seconds from ``since`` to the first of :data:`STEADY` samples in a row without any fault's flag; NaN without them."""
    after = [(t, bool(s.flags & ~HARMLESS)) for t, s in heard if t >= since]
    for i in range(len(after) - STEADY + 1):
        if not any(bad for _, bad in after[i : i + STEADY]):
            return after[i][0] - since
    return math.nan


def flags_of(heard: Heard, since: float) -> str:
    """The names of the faults' flags on samples after ``since``, with how many carried each."""
    counted = Counter(f.name for t, s in heard if t >= since for f in s.flags & ~HARMLESS)
    return ", ".join(f"{name} {n}" for name, n in counted.items()) or "no flags"


def behaviour(samples: Sequence[Decoded]) -> str:
    """What the output did over ``samples``: ``zero``, ``held``, ``decayed`` (to a tenth or less), ``went on``, or ``none``."""
    if not samples:
        return "none"
    values = np.array([s.values for s in samples])
    if not np.isfinite(values).all():
        return "NOT FINITE"
    size = np.linalg.norm(values, axis=1)
    if not size.any():
        return "zero"
    if len(samples) > 2 and (np.diff(size) <= 1e-12).all() and size[-1] <= 0.1 * size[0]:
        return "decayed"
    if len(samples) > 1 and (values == values[0]).all():
        return "held"
    return "went on"


def answers(heard: Heard) -> Counter[int]:
    """How often each bin was answered; samples of a stale stream answer none."""
    return Counter(s.seq_in for _, s in heard if not s.flags & Flags.STALE)


def account(found: Found, sent: Sequence[Sent], heard: Heard) -> None:
    """Fill in bins lost and repeated: of ``sent``, by what was ``heard`` from then on."""
    counted = answers(heard)
    wanted = {b.seq for b in sent}
    found.lost = sum(seq not in counted for seq in wanted)
    found.repeated = sum(counted[seq] > 1 for seq in wanted)
