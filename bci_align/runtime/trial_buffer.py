"""Finished trials out of a stream of bins and events: the very bins that :meth:`Session.trial_bins` gives offline."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from bci_align.runtime.marks import Marks
from bci_align.session.types import TIME_TOLERANCE_S, UnlabelledTrials
from bci_align.streams.contract import START, Bin, TrialEvent

LONGEST_S = 120.0
"""Longest trial that is remembered, run-in included, in seconds; a longer one is dropped and counted."""


@dataclass(frozen=True)
class _Open:
    """A trial under way: ``first`` is the arrival number of the bin that holds its start, None where that bin is missing."""

    t: float
    first: int | None


class TrialBuffer:
    """Collects trials from items in order of arrival; events may come some bins late.

    Parameters
    ----------
    channels, bin_s, run_in
        Of the bundle; ``run_in`` bins are kept before each trial.
    keep
        Most trials held; the oldest go first.
    successful_only
        Leave out trials whose end does not say success.

    ``dropped`` counts trials by why they were left out: ``failed`` (not rewarded), ``abandoned`` (a start after a start),
    ``gap`` (a bin of it, or of its run-in, never arrived), ``no run-in`` (the stream began too late), ``too long``.
    """

    def __init__(self, channels: tuple[str, ...], bin_s: float, run_in: int, keep: int, *, successful_only: bool = True) -> None:
        self._channels, self._bin_s, self._run_in, self._successful_only = channels, bin_s, run_in, successful_only
        self._room = int(np.ceil(LONGEST_S / bin_s)) + run_in
        self._counts = np.zeros((self._room, len(channels)), np.float32)
        self._t = np.zeros(self._room)
        self._seq = np.zeros(self._room, np.int64)
        self._arrived = 0
        self._marks = Marks()
        self._open: _Open | None = None
        self._trials: deque[np.ndarray[tuple[int, int], np.dtype[np.float32]]] = deque(maxlen=keep)
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._trials)

    def add(self, item: Bin | TrialEvent) -> int:
        """Take in one item; gives how many trials it completed."""
        if isinstance(item, Bin):
            i = self._arrived % self._room
            self._counts[i], self._t[i], self._seq[i] = item.counts, item.t, item.seq
            self._arrived += 1
        elif not self._marks.add(item):
            return 0
        if not self._arrived:
            return 0
        return sum(self._mark(m) for m in self._marks.due(float(self._t[(self._arrived - 1) % self._room])))

    def missed(self) -> None:
        """Items were lost before they came here: a trial under way may have lost its end, so it is dropped."""
        if self._open is not None:
            self.dropped["gap"] += 1
        self._open = None

    def trials(self) -> UnlabelledTrials:
        """The trials held, in order of time."""
        return UnlabelledTrials(tuple(self._trials), self._run_in, self._bin_s, self._channels)

    def clear(self) -> None:
        """Forget the trials held, not the bins: the next trial may already be under way."""
        self._trials.clear()

    def _mark(self, mark: TrialEvent) -> int:
        """Apply a start or an end whose bin has come."""
        index = self._bin_holding(mark.t)
        if mark.name == START:
            if self._open is not None:
                self.dropped["abandoned"] += 1
            if index is None and self._arrived <= self._room and mark.t < self._t[0] - self._bin_s:
                index = 0  # before the stream began: as offline, the trial is cut to what there is
            self._open = _Open(mark.t, index)
            return 0
        trial, self._open = self._open, None
        if trial is None or mark.t <= trial.t:
            return 0  # we joined in the middle of it, or its start was lost
        why = "failed" if self._successful_only and not mark.value else self._keep(trial.first, index)
        if why is not None:
            self.dropped[why] += 1
        return int(why is None)

    def _keep(self, first: int | None, last: int | None) -> str | None:
        """Cut a trial out and hold it, or say why not."""
        if first is None or last is None:
            return "gap"
        begin = first - self._run_in
        if begin < 0:
            return "no run-in"
        if begin < self._arrived - self._room:
            return "too long"
        rows = np.arange(begin, last + 1) % self._room
        if self._seq[rows[-1]] - self._seq[rows[0]] != last - begin:
            return "gap"
        self._trials.append(self._counts[rows])
        return None

    def _bin_holding(self, t: float) -> int | None:
        """Arrival number of the bin that holds ``t``: the first that ends later; None where that one never arrived.

        By the bins' own stamps, so that a rig's jitter moves events and bins alike; a bin's width matters next to a gap only.
        """
        t += TIME_TOLERANCE_S
        oldest = max(self._arrived - self._room, 0)
        i = self._arrived - 1
        while i > oldest and self._t[(i - 1) % self._room] > t:
            i -= 1
        row = i % self._room
        follows = i > oldest and self._seq[row] == self._seq[(i - 1) % self._room] + 1
        return i if follows or t >= self._t[row] - self._bin_s else None
