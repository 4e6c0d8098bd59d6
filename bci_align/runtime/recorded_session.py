"""A recording of the live system as a session: the bins that were decoded and the trials that lie in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import SessionError
from bci_align.runtime.calls import Call, Hole
from bci_align.runtime.recording import Recording
from bci_align.runtime.tape import Op
from bci_align.session.counts import whole_counts
from bci_align.session.types import TIME_TOLERANCE_S, Session, Trials, validate
from bci_align.streams.contract import END, GO, START, Bin, Flags, Link, TrialEvent


def as_session(path: Path, name: str | None = None) -> Session:
    """Read the recording in ``path`` as a session without kinematics, which a live system does not hear of.

    Bins that came twice, late or with unusable counts are left out; where a bin is missing, a stretch ends. Trials with a bin
    missing are left out. Times are counted in bins from the first one, as a session's are. :class:`SessionError` if no whole
    trial is in it.
    """
    found = _Found()
    with Recording(path) as recording:
        about = recording.about
        for call in recording.calls():
            found.take(call)
    if not found.bins:
        raise SessionError(f"{path}: expected decoded bins, found none")
    counts = whole_counts(np.stack([b.counts for b in found.bins]), f"{path}: counts")
    seq = np.array([b.seq for b in found.bins])
    breaks = tuple(int(k) + 1 for k in np.flatnonzero((np.diff(seq) != 1) | (np.diff(found.part) != 0)))
    meta = {"origin": f"recording of the live system, begun {about.started}", "bundle": about.identity}
    trials = _trials(found, about.bin_s, breaks)
    session = Session(counts, about.bin_s, about.channels, trials, name=name or path.stem, meta=meta, breaks=breaks)
    return validate(session, str(path))


class _Found:
    """Bins and events; ``part`` and ``event_part`` count the senders and clocks that they come from."""

    def __init__(self) -> None:
        self.bins: list[Bin] = []
        self.part: list[int] = []
        self.events: list[TrialEvent] = []
        self.event_part: list[int] = []
        self._now = 0

    def take(self, call: Call | Hole) -> None:
        """Take in what counts of one call."""
        if isinstance(call, Hole) or (isinstance(call.argument, Link) and call.argument.restarted):
            self._now += 1
        elif isinstance(call.argument, TrialEvent):
            self.events.append(call.argument)
            self.event_part.append(self._now)
        elif call.op == Op.BIN and call.gave is not None and not call.gave.flags & Flags.BAD_COUNTS:
            if self.bins and self.part[-1] == self._now and call.argument.t <= self.bins[-1].t:
                self._now += 1  # the clock was set back
            self.bins.append(call.argument)
            self.part.append(self._now)


def _trials(found: _Found, bin_s: float, breaks: tuple[int, ...]) -> Trials:
    """Pair starts and ends that lie in one stretch."""
    stretch = np.searchsorted(breaks, np.arange(len(found.bins)), "right")
    stamps, part = np.array([b.t for b in found.bins]), np.array(found.part)
    rows: list[tuple[float, float, float, bool]] = []
    start, go, where = np.nan, np.nan, -1
    order = sorted(range(len(found.events)), key=lambda i: (found.event_part[i], found.events[i].t, found.events[i].name != END))
    for i in order:
        event = found.events[i]
        k = _bin_holding(event.t, np.flatnonzero(part == found.event_part[i]), stamps, bin_s)
        t = np.nan if k is None else min((k + 1) * bin_s - (stamps[k] - event.t), (k + 1) * bin_s - 2 * TIME_TOLERANCE_S)
        t = max(t, (k or 0) * bin_s)
        if event.name == START:
            start, go, where = t, np.nan, -1 if k is None else int(stretch[k])
        elif event.name == GO:
            go = t
        elif k is not None and where == stretch[k] and t > start:
            rows.append((start, go, t, bool(event.value)))
            where = -1
        else:
            where = -1
    columns = np.array(rows, float).reshape(-1, 4).T
    return Trials(columns[0], columns[1], columns[2], columns[3].astype(bool))


def _bin_holding(t: float, rows: NDArray[np.intp], stamps: NDArray[np.float64], bin_s: float) -> int | None:
    """Which of the bins ``rows`` holds ``t``: the first that ends later; None where that one is not there."""
    at = int(np.searchsorted(stamps[rows], t + TIME_TOLERANCE_S, "right"))
    if at == len(rows) or t + TIME_TOLERANCE_S < stamps[rows[at]] - 1.5 * bin_s:
        return None
    return int(rows[at])
