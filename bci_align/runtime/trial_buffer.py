"""Finished trials out of a stream of bins and events: the very bins that :meth:`Session.trial_bins` gives offline."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.runtime.marks import Marks
from bci_align.session.types import TIME_TOLERANCE_S, UnlabelledTrials
from bci_align.streams.contract import START, Bin, TrialEvent

LONGEST_S = 120.0
"""Longest trial that is remembered, run-in included, in seconds; a longer one is dropped and counted."""


@dataclass(frozen=True)
class _Open:
    """A trial under way.

    ``first`` is the arrival number of the bin that holds its start, None where that bin is missing; ``early`` where it is
    missing because the stream began later.
    """

    t: float
    first: int | None
    early: bool


class TrialBuffer:
    """Collects trials from items in order of arrival; events may come some bins late.

    Parameters
    ----------
    channels, bin_s, run_in
        Of the bundle; ``run_in`` bins are kept before each trial, fewer where the stream began so shortly before it: the
        decoder's state was zero there.
    keep
        Most trials held; the oldest go first.
    successful_only
        Leave out trials whose end does not say success.

    ``dropped`` counts trials by why they were left out: ``failed`` (not rewarded), ``abandoned`` (a start after a start),
    ``gap`` (a bin of it, or of its run-in, never arrived), ``no start`` (the stream began after it did), ``too long``.
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
        self._trials: deque[tuple[NDArray[np.float32], int]] = deque(maxlen=keep)
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
        counts, run_in = tuple(c for c, _ in self._trials), tuple(r for _, r in self._trials)
        return UnlabelledTrials(counts, run_in, self._bin_s, self._channels)

    def clear(self) -> None:
        """Forget the trials held, not the bins: the next trial may already be under way."""
        self._trials.clear()

    def _mark(self, mark: TrialEvent) -> int:
        """Apply a start or an end whose bin has come."""
        index = self._bin_holding(mark.t)
        if mark.name == START:
            if self._open is not None:
                self.dropped["abandoned"] += 1
            early = index is None and self._arrived <= self._room and mark.t < self._t[0] - self._bin_s
            self._open = _Open(mark.t, index, early)
            return 0
        trial, self._open = self._open, None
        if trial is None or mark.t <= trial.t:
            return 0  # we joined in the middle of it, or its start was lost
        why = "failed" if self._successful_only and not mark.value else self._keep(trial, index)
        if why is not None:
            self.dropped[why] += 1
        return int(why is None)

    def _keep(self, trial: _Open, last: int | None) -> str | None:
        """Cut a trial out and hold it, or say why not."""
        first = trial.first
        if trial.early:
            return "no start"
        if first is None or last is None:
            return "gap"
        begin = max(first - self._run_in, 0)
        if begin < self._arrived - self._room:
            return "too long"
        rows = np.arange(begin, last + 1) % self._room
        if self._seq[rows[-1]] - self._seq[rows[0]] != last - begin:
            return "gap"
        self._trials.append((self._counts[rows], first - begin))
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
