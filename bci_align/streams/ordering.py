"""Put trial events between the bins they belong to: markers and counts may come over separate connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bci_align.errors import StreamError
from bci_align.session.types import TIME_TOLERANCE_S
from bci_align.streams.contract import Bin, TrialEvent

HOLD_S = 30.0
"""Longest wait (wall time) of an event for its bin. Only a replay faster than the decoder makes an event wait for more
than one bin; half a minute can only mean that counts and events are stamped by different clocks."""


class EventOrder:
    """Merges bins and events by time stamp; an event ahead of the bins waits for the bin that holds it."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._held: list[tuple[TrialEvent, float]] = []

    def add(self, events: Iterable[TrialEvent], now: float) -> None:
        """Take in events that arrived at ``now`` (seconds, monotonic clock); equal stamps keep their order of arrival."""
        new = [(e, now) for e in events]
        if new:
            self._held = sorted(self._held + new, key=lambda item: item[0].t)

    def merge(self, bins: Sequence[Bin], now: float) -> list[Bin | TrialEvent]:
        """``bins`` with every event that is due before its bin; without bins, every event there is.

        An event belongs before the first bin that ends later than it (by more than the tolerance of
        :func:`~bci_align.session.types.bin_of`); a late one stands before the first bin.
        :class:`StreamError` when an event has waited for :data:`HOLD_S`.
        """
        if not bins:
            due = [e for e, _ in self._held]
            self._held.clear()
            return list(due)
        out: list[Bin | TrialEvent] = []
        k = 0
        for b in bins:
            while k < len(self._held) and b.t > self._held[k][0].t + TIME_TOLERANCE_S:
                out.append(self._held[k][0])
                k += 1
            out.append(b)
        del self._held[:k]
        for event, arrived in self._held:
            if now - arrived > HOLD_S:
                raise StreamError(
                    f"{self._stream}: expected events and bins on one clock, found a {event.name!r} event at {event.t:.3f} s, "
                    f"which bins at {bins[-1].t:.3f} s have not reached in {HOLD_S:g} s"
                )
        return out
