"""Plays a recorded day to a decoder: every bin with its events, on time or as fast as the answers come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bci_align.errors import StreamError
from bci_align.session.types import Session, bin_of
from bci_align.streams.contract import END, GO, START, Bin, RigOutlet, TrialEvent

if TYPE_CHECKING:  # a rig plays without it, and must not wait for torch
    from bci_align.runtime.live import LiveSystem

WINDOW = 64
"""Most bins on their way at full speed."""

PATIENCE_S = 5.0
"""Longest wait at full speed for an answer to a bin or an event; what has not come by then counts as lost."""

_LOOK_S = 0.001


def script(session: Session) -> list[list[TrialEvent]]:
    """Events to send before each bin, and as the last entry those after the last bin; times from the start of bin 0.

    Of events at the same time an end comes before a start.
    """
    events = []
    t = session.trials
    for i in range(len(t)):
        events.append(TrialEvent(float(t.end_s[i]), END, bool(t.success[i])))
        events.append(TrialEvent(float(t.start_s[i]), START))
        if np.isfinite(t.go_s[i]):
            events.append(TrialEvent(float(t.go_s[i]), GO))
    per_bin: list[list[TrialEvent]] = [[] for _ in range(session.bins + 1)]
    for e in sorted(events, key=lambda e: (e.t, (END, START, GO).index(e.name))):
        per_bin[min(max(bin_of(e.t, session.bin_s), 0), session.bins)].append(e)
    return per_bin


class Player(threading.Thread):
    """Sends a session in a thread of its own.

    ``speed`` is stream seconds per second: events and bins go out at their times, by deadlines on a monotonic clock that do
    not add up errors. With ``speed`` None no more than :data:`WINDOW` bins are on their way, and the player waits for every
    trial start and end to be taken in before it sends the bin that holds it, and after each trial for the aligner and for its
    candidate: every replay then gives the same result.
    """

    def __init__(self, session: Session, outlet: RigOutlet, live: LiveSystem, speed: float | None) -> None:
        super().__init__(name="bci-align player", daemon=True)
        self._session, self._outlet, self._live, self._speed = session, outlet, live, speed
        self._news = threading.Condition()
        self._heard = -1
        self._stopping = False
        self.sent = 0
        """Bins sent so far."""
        self.error: Exception | None = None
        """What stopped it before the end, if anything."""

    def heard(self, seq: int) -> None:
        """Tell the player that bin ``seq`` was answered."""
        with self._news:
            self._heard = max(self._heard, seq)
            self._news.notify_all()

    def stop(self) -> None:
        """Stop sending and wait for the thread; harmless when called twice."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Send everything; whatever goes wrong is kept in :attr:`error`, for the thread that waits to raise."""
        try:
            self._play()
        except Exception as e:
            self.error = e

    def _play(self) -> None:
        s, t0, marks = self._session, time.monotonic(), 0
        counts = s.counts.astype(np.float32)
        for k, events in enumerate(script(s)):
            for e in events:
                self._until(t0, e.t)
                if self._stopping:
                    return
                self._outlet.push(TrialEvent(t0 + e.t, e.name, e.value))
                marks += e.name != GO
            if k == s.bins:
                return
            if self._speed is None:
                self._room()
                if events and not self._wait(self._live.marks, marks):
                    raise StreamError(f"replay: the events before bin {k} were not taken in within {PATIENCE_S:g} s")
            else:
                self._until(t0, (k + 1) * s.bin_s)
            if self._stopping:
                return
            self._outlet.push(Bin(k, t0 + (k + 1) * s.bin_s, counts[k]))
            self.sent = k + 1
            if self._speed is None and any(e.name == END for e in events):
                self._wait(self._live.decoded, k + 1)
                while not (self._stopping or self._live.aligned()):
                    time.sleep(_LOOK_S)

    def _until(self, t0: float, stream_s: float) -> None:
        """Sleep until ``stream_s`` seconds of the stream have gone by, or until told to stop."""
        if self._speed is None:
            return
        with self._news:
            while not self._stopping and (left := t0 + stream_s / self._speed - time.monotonic()) > 0:
                self._news.wait(left)

    def _room(self) -> None:
        """Wait until another bin may be on its way; a lost answer costs patience once, not for ever."""
        with self._news:
            if not self._news.wait_for(lambda: self._stopping or self.sent - self._heard - 1 < WINDOW, PATIENCE_S):
                self._heard = self.sent - 1

    def _wait(self, counter: Callable[[], int], least: int) -> bool:
        """Wait until ``counter`` has come to ``least`` (or until told to stop); false when that takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._stopping and counter() < least:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        return True
