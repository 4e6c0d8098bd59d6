"""The decode loop without any input or output: bins and candidates in, decoded samples out, swaps between two bins."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import StreamError
from bci_align.models.encoder import ReadIn
from bci_align.runtime.marks import TrialClock
from bci_align.streams.contract import Bin, Decoded, Flags, TrialEvent

HISTORY = 400
"""Bins from which a candidate's recurrent state is warmed, before it may decode."""

MOST_COUNTS = 1e6
"""Most spikes of one channel in one bin that are believed. No array counts a thousandth of it: beyond are only a sender's faults,
and numbers of their size, finite as they are, overflow in the network and stay in its recurrent state."""

Counts = NDArray[np.float32]


class Stepper(Protocol):
    """What the loop needs of :class:`~bci_align.bundle.pipeline.Pipeline`; states are never changed in place."""

    def state0(self) -> Any:
        """Give the state before the first bin."""
        ...

    def step(self, state: Any, counts: Counts, read_in: ReadIn) -> tuple[Any, NDArray[np.float64], bool]:
        """Decode one bin: ``(state, output (K,), whether it was clamped)``."""
        ...


@dataclass
class Slot:
    """One generation in the loop: its read-in, its recurrent state, and the first bin that state has seen."""

    read_in: ReadIn
    generation: int
    state: Any
    from_seq: int | None = None


@dataclass
class _Candidate:
    """A slot on its way in: ``behind`` are the bins its state has yet to see; ``warm`` once it has caught up."""

    slot: Slot
    behind: deque[tuple[int, Counts]] = field(default_factory=deque)
    warm: bool = False


class DecodeLoop:
    """Decodes with one generation while the next one warms up.

    A candidate starts :data:`HISTORY` bins back (or at the start of the stream), catches up in :meth:`idle`, a few bins per
    call, and then follows bin by bin. Once it has caught up, it decodes from the first bin in which no trial runs, or which
    follows on a trial's last bin. All its steps happen in :meth:`idle`, after the live bin has been answered. ``slots`` are two,
    ``live`` says which one decodes; the other one keeps the generation before until the next swap.

    Parameters
    ----------
    pipeline
        Steps both generations: only the read-in differs.
    read_in, generation
        What decodes from the first bin.
    bin_s
        Bin width in seconds.
    """

    def __init__(self, pipeline: Stepper, read_in: ReadIn, generation: int, bin_s: float) -> None:
        self._pipeline = pipeline
        self.slots: list[Slot | None] = [Slot(read_in, generation, pipeline.state0()), None]
        self.live = 0
        self._candidate: _Candidate | None = None
        self._trial = TrialClock(bin_s)
        self._history: deque[tuple[int, Counts]] = deque(maxlen=HISTORY)
        self._seq: int | None = None
        # Until the first good bin: what the source day's normaliser takes for nothing unusual.
        self._good: Counts = np.asarray(read_in.mean, np.float32)
        self._news: list[dict[str, object]] = []
        self.gaps = 0
        """Bins that never arrived."""
        self.bad = 0
        """Bins whose counts were not usable, or for which the network gave nothing finite."""

    @property
    def incumbent(self) -> Slot:
        """The generation that decodes."""
        slot = self.slots[self.live]
        assert slot is not None
        return slot

    @property
    def warming(self) -> bool:
        """Whether a candidate has still to catch up."""
        return self._candidate is not None and not self._candidate.warm

    def on_event(self, event: TrialEvent) -> bool:
        """Take in a trial event, before the bin that holds it where possible; whether it starts or ends a trial."""
        return self._trial.add(event)

    def on_bin(self, item: Bin) -> Decoded:
        """Decode one bin; :class:`StreamError` for one that does not come after the last."""
        if self._seq is not None and item.seq <= self._seq:
            raise StreamError(
                f"counts stream: expected a bin after number {self._seq}, found {item.seq}; "
                "the sender repeated or restarted its count"
            )
        flags = Flags.NONE
        if self._seq is not None and item.seq != self._seq + 1:
            self.gaps += item.seq - self._seq - 1
            flags |= Flags.GAP
        self._seq = item.seq
        before = self._good
        if usable(item.counts, len(self._good)):
            self._good = np.asarray(item.counts, np.float32)
        else:
            self.bad += 1
            flags |= Flags.BAD_COUNTS
        if self._trial.inside(item):
            flags |= Flags.IN_TRIAL
        if (self._trial.between or not flags & Flags.IN_TRIAL) and self._swap(item.seq):
            flags |= Flags.SWAPPED
        slot = self.incumbent
        if slot.from_seq is None:
            slot.from_seq = item.seq
        state, values, clamped = self._pipeline.step(slot.state, self._good, slot.read_in)
        if finite(values) and finite(state):
            slot.state = state
            flags |= Flags.CLAMPED if clamped else Flags.NONE
        else:
            # A state that is not finite would never become so again: forget this bin, and let nothing move for its duration.
            self.bad += not flags & Flags.BAD_COUNTS
            flags |= Flags.BAD_COUNTS
            values, self._good = np.zeros_like(values), before
        self._history.append((item.seq, self._good))
        if self._candidate is not None:
            self._candidate.behind.append((item.seq, self._good))
        return Decoded(item.seq, item.t, values, slot.generation, flags)

    def offer(self, read_in: ReadIn, generation: int) -> None:
        """Take in a candidate; it replaces one that was not swapped in yet."""
        if self._candidate is not None:
            self._drop(f"generation {generation} came before it was swapped in")
        candidate = _Candidate(Slot(read_in, generation, self._pipeline.state0()), deque(self._history))
        if candidate.behind:
            candidate.slot.from_seq = candidate.behind[0][0]
        self._candidate = candidate
        if not read_in.finite():
            self._drop("its read-in holds NaN or infinite numbers")

    def idle(self, steps: int) -> None:
        """Step the candidate by at most ``steps`` bins."""
        for _ in range(steps):
            candidate = self._candidate
            if candidate is None or not candidate.behind:
                break
            seq, counts = candidate.behind.popleft()
            slot = candidate.slot
            slot.state, values, _ = self._pipeline.step(slot.state, counts, slot.read_in)
            if not (finite(values) and finite(slot.state)):
                self._drop(f"its output for bin {seq} is not finite")
        candidate = self._candidate
        if candidate is not None and not candidate.warm and not candidate.behind:
            candidate.warm = True
            self._news.append({"report": "warm", "generation": candidate.slot.generation})

    def news(self) -> list[dict[str, object]]:
        """What happened to candidates since the last call: ``warm``, ``swapped`` or ``dropped``, as reports."""
        news, self._news = self._news, []
        return news

    def _swap(self, seq: int) -> bool:
        """Let the candidate decode from bin ``seq`` on, if there is one that has seen every bin before it."""
        candidate = self._candidate
        if candidate is None or not candidate.warm or candidate.behind:
            return False
        self.slots[1 - self.live] = candidate.slot
        self.live = 1 - self.live
        self._candidate = None
        warm_from = seq if candidate.slot.from_seq is None else candidate.slot.from_seq
        self._news.append({"report": "swapped", "generation": candidate.slot.generation, "bin": seq, "warm_from_seq": warm_from})
        return True

    def _drop(self, reason: str) -> None:
        assert self._candidate is not None
        self._news.append({"report": "dropped", "generation": self._candidate.slot.generation, "reason": reason})
        self._candidate = None


def usable(counts: Counts, channels: int) -> bool:
    """Whether ``counts`` are ``channels`` numbers from 0 to :data:`MOST_COUNTS`."""
    return counts.shape == (channels,) and bool(((counts >= 0) & (counts <= MOST_COUNTS)).all())  # no NaN passes either


def finite(state: Any) -> bool:
    """Whether an array, or all arrays of a (nested) tuple of them, are free of NaN and infinities."""
    return all(map(finite, state)) if isinstance(state, tuple) else bool(np.isfinite(state).all())
