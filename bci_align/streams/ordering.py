"""Put trial events between the bins they belong to: markers and counts may come over separate connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bci_align.errors import ClockError
from bci_align.session.types import TIME_TOLERANCE_S
from bci_align.streams.contract import Bin, TrialEvent

HOLD_S = 30.0
"""Longest wait (wall time) of an event for its bin. Only a replay faster than the decoder makes an event wait for more
than one bin; half a minute can only mean that counts and events are stamped by different clocks."""

OLD_S = 60.0
"""Events are sent as they happen: one that arrives with a stamp this far before the bins is stamped by another clock."""

OLD_IN_A_ROW = 3
"""So many such events, fewer than a rig sends in two trials, are no slip of the rig, which must not stop the decoder."""

SET_BACK_S = 1.0
"""Bins that come earlier than the last one by more than this tell of a clock that was set back, not of two bins that changed
places."""


class EventOrder:
    """Merges bins of ``bin_s`` seconds and events by time stamp; an event ahead of the bins waits for the bin that holds it."""

    def __init__(self, stream: str, bin_s: float) -> None:
        self._stream, self._bin_s = stream, bin_s
        self._held: list[tuple[TrialEvent, float]] = []
        self._t: float | None = None  # end of the newest bin
        self._old = 0

    def add(self, events: Iterable[TrialEvent], now: float) -> None:
        """Take in events that arrived at ``now`` (seconds, monotonic clock); equal stamps keep their order of arrival.

        :class:`ClockError` when :data:`OLD_IN_A_ROW` of them were :data:`OLD_S` behind the bins that had been merged before.
        """
        new = [(e, now) for e in events]
        for event, _ in new:
            old = self._t is not None and event.t < self._t - OLD_S
            self._old = self._old + 1 if old else 0
            if self._old >= OLD_IN_A_ROW:
                raise self._two_clocks(event, f"when bins had come to {self._t:.3f} s")
        if new:
            self._held = sorted(self._held + new, key=lambda item: item[0].t)

    def merge(self, bins: Sequence[Bin], now: float) -> list[Bin | TrialEvent]:
        """``bins`` with every event that is due before its bin; without bins, what lies before the end of the next bin.

        Without bins because the next one may wait for those events: a replay at full speed holds it back until they are taken
        in. What lies further ahead stays, or two clocks would never be noticed between the empty reads of a stream in real time.

        An event belongs before the first bin that ends later than it (by more than the tolerance of
        :func:`~bci_align.session.types.bin_of`); a late one stands before the first bin. When the bins' own clock is set back,
        nothing is held any longer: what was ahead is by the clock of before.
        :class:`ClockError` when an event has waited for :data:`HOLD_S`.
        """
        if not bins:
            if self._t is None:
                return self.rest()
            next_end = self._t + self._bin_s + TIME_TOLERANCE_S
            n = sum(e.t <= next_end for e, _ in self._held)  # they are in order of time
            due, self._held = self._held[:n], self._held[n:]
            return [e for e, _ in due]
        out: list[Bin | TrialEvent] = []
        k = 0
        for b in bins:
            if self._t is not None and b.t < self._t - SET_BACK_S:
                out += [e for e, _ in self._held[k:]]
                k = len(self._held)
            self._t = b.t
            while k < len(self._held) and b.t > self._held[k][0].t + TIME_TOLERANCE_S:
                out.append(self._held[k][0])
                k += 1
            out.append(b)
        del self._held[:k]
        for event, arrived in self._held:
            if now - arrived > HOLD_S:
                raise self._two_clocks(event, f"which bins at {self._t:.3f} s have not reached in {HOLD_S:g} s")
        return out

    def rest(self) -> list[Bin | TrialEvent]:
        """Every event that is held, for the end of the stream: no bin will come for it any more."""
        held, self._held = self._held, []
        return [e for e, _ in held]

    def _two_clocks(self, event: TrialEvent, but: str) -> ClockError:
        return ClockError(
            f"{self._stream}: expected events and bins on one clock, found a {event.name!r} event at {event.t:.3f} s, {but}"
        )
