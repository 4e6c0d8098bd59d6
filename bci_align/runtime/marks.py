"""Trial starts and ends between arriving and taking effect: each waits for the bin that holds it."""

from __future__ import annotations

import math
from bisect import insort
from operator import attrgetter

from bci_align.session.types import TIME_TOLERANCE_S
from bci_align.streams.contract import END, START, Bin, TrialEvent

MOST = 4096
"""Marks that can wait. Only a rig whose events run on another clock than its bins gets there; the oldest is dropped then."""


class Marks:
    """START and END events in order of time; other events are none of its business."""

    def __init__(self) -> None:
        self.waiting: list[TrialEvent] = []

    def add(self, event: TrialEvent) -> bool:
        """Take in one event; whether it was a mark."""
        if event.name not in (START, END):
            return False
        insort(self.waiting, event, key=attrgetter("t"))  # equal times keep their order of arrival
        del self.waiting[:-MOST]
        return True

    def due(self, t: float) -> list[TrialEvent]:
        """Take out, in order, what lies inside or before a bin that ends at ``t`` seconds."""
        n = 0
        while n < len(self.waiting) and self.waiting[n].t + TIME_TOLERANCE_S < t:
            n += 1
        taken, self.waiting = self.waiting[:n], self.waiting[n:]
        return taken


class TrialClock:
    """Tells for every bin whether a trial was running in it; the bins that hold a start or an end count as inside.

    Where trials follow each other without a pause no bin is outside: every end shares its bin with the next start. The boundary
    behind that bin is then the only place between two trials, and :attr:`between` tells of it.
    """

    def __init__(self, bin_s: float) -> None:
        self._bin_s = bin_s
        self._marks = Marks()
        self._running = False
        self._end, self._begin = -math.inf, math.inf  # of the last trial, and of the last bin
        self.between = False
        """Whether the last bin asked for follows on a bin that holds a trial's end: it may itself be the next trial's."""

    def add(self, event: TrialEvent) -> bool:
        """Take in one event; whether it was a mark."""
        return self._marks.add(event)

    def inside(self, item: Bin) -> bool:
        """Whether a trial runs in ``item``; call once for every bin, in order."""
        inside = self._running
        before, self._begin, ended = self._begin, item.t - self._bin_s, self._end
        for mark in self._marks.due(item.t) if self._marks.waiting else ():
            self._running = mark.name == START
            if self._running:
                inside = True
                continue
            t = mark.t + TIME_TOLERANCE_S
            self._end = max(self._end, t)
            if t < self._begin:  # the trial was over before this bin began
                inside, ended = False, max(ended, t)
        self.between = ended >= before
        return inside
