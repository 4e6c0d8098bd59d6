"""A generation in the decode loop, and one that follows the leader a few bins behind, whose steps no live bin waits for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bci_align.models.read_in import ReadIn
from bci_align.signal.checks import Checks, CheckState
from bci_align.signal.safety import finite
from bci_align.signal.stuck import Counts
from bci_align.streams.contract import Bin

HISTORY = 400
"""Bins from which a follower's recurrent state is warmed."""

MOST_BEHIND = 2 * HISTORY
"""A follower that nobody stepped for so many bins begins again :data:`HISTORY` bins back: that is the shorter way."""

Floats = NDArray[np.float64]


class Stepper(Protocol):
    """What the loop needs of :class:`~bci_align.bundle.pipeline.Pipeline`; states are never changed in place."""

    def state0(self) -> Any:
        """Give the state before the first bin."""
        ...

    def step(self, state: Any, counts: Counts, read_in: ReadIn) -> tuple[Any, Floats, bool]:
        """Decode one bin: ``(state, output (K,), whether it was clamped)``."""
        ...


@dataclass
class Slot:
    """One generation: its read-in and the checks that go with it, its recurrent state, and the first bin that state has seen."""

    read_in: ReadIn
    generation: int
    state: Any
    checks: Checks
    from_seq: int | None = None


class Seen(NamedTuple):
    """One bin as the leader's encoder saw it. ``values`` (K,) are its output, None for a bin that was filled in."""

    seq: int
    counts: Counts
    values: Floats | None = None
    clamped: bool = False


class Follower:
    """A generation that sees what the leader saw: ``behind`` are the bins that its state has yet to see.

    ``warm`` from when it has caught up for the first time.
    """

    def __init__(self, pipeline: Stepper, slot: Slot, warm: bool = False) -> None:
        self._pipeline = pipeline
        self.slot = slot
        self.warm = warm
        self.behind: deque[Seen] = deque()

    @property
    def level(self) -> bool:
        """Whether it has seen all that the leader has."""
        return self.warm and not self.behind

    def start(self, history: deque[Seen]) -> None:
        """Begin from the first state, as far back as ``history`` goes."""
        self.slot.state = self._pipeline.state0()
        # What lies back is there to warm the state; it is compared with nothing.
        self.behind = deque(Seen(s.seq, s.counts) for s in history)
        self.slot.from_seq = self.behind[0].seq if self.behind else None
        self.warm = False

    def anew(self) -> None:
        """Begin from the first state with the next bin, as the leader does."""
        self.slot.state, self.slot.from_seq = self._pipeline.state0(), None
        self.behind.clear()

    def add(self, seen: Seen, history: deque[Seen]) -> None:
        """Note what the leader saw; ``history`` holds it already."""
        if len(self.behind) >= MOST_BEHIND:
            self.start(history)
            return
        if self.slot.from_seq is None:
            self.slot.from_seq = seen.seq
        self.behind.append(seen)

    def step(self) -> tuple[Seen, Floats, bool] | None:
        """Step over the next bin: what was seen, the output, whether it was clamped. None: output or state is not finite."""
        seen = self.behind.popleft()
        slot = self.slot
        slot.state, values, clamped = self._pipeline.step(slot.state, seen.counts, slot.read_in)
        return (seen, values, clamped) if finite_all(values) and finite_all(slot.state) else None


def rehearse(pipeline: Stepper, slot: Slot, checked: CheckState, item: Bin) -> None:
    """Check and decode ``item`` as ``slot`` would, and throw away what comes of it."""
    slot.checks.step(checked, item)
    state, _, _ = pipeline.step(slot.state, item.counts, slot.read_in)
    finite_all(state)


def finite_all(state: Any) -> bool:
    """Whether an array, or all arrays of a (nested) tuple of them, are free of NaN and infinities."""
    if isinstance(state, tuple):
        return all(map(finite_all, state))
    return finite(state)
