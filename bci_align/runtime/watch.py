"""Says how the collecting of trials goes, so that a run in which no trial can ever count does not pass in silence."""

from __future__ import annotations

from collections.abc import Mapping

from bci_align.runtime.shared import ALL_HANDLED, LEFT_OUT, Cell

EVERY_S = 30.0
"""Shortest time between two sentences, and from the first bin to the first; longer than any trial should take."""

_FAULTS = {
    Cell.BAD: "bins with unusable counts",
    Cell.GAPS: "bins that never arrived",
    Cell.MALFORMED: "markers that could not be understood",
}


class Watch:
    """Looks at the counters and has a sentence at times.

    Parameters
    ----------
    wanted
        Calibration trials that an alignment takes.
    success
        What the rig calls its success marker, or None where failed trials count too.
    """

    def __init__(self, wanted: int, success: str | None) -> None:
        self._wanted, self._success = wanted, success
        self._at: float | None = None
        self._last: Mapping[Cell, int] = {}
        self._said = ""

    def look(self, counters: Mapping[Cell, int], collecting: bool, now: float) -> str | None:
        """A sentence if there is something to say at ``now`` (seconds, monotonic); ``collecting``: whether trials are wanted.

        Silent before the first bin, while the stream rests, and where the same has been said already.
        """
        if self._at is None or not counters[Cell.BINS]:
            self._at = now
        if now - self._at < EVERY_S:
            return None
        last, self._last, self._at = self._last, counters, now
        grown = {cell: counters[cell] - last.get(cell, 0) for cell in counters}
        if not grown[Cell.BINS]:
            return None
        parts = []
        # A buffer that is full is being aligned on.
        if collecting and counters[Cell.HANDLED] < ALL_HANDLED and counters[Cell.HELD] < self._wanted:
            parts = self._collecting(counters, grown)
        parts += [f"so far {counters[cell]} {what}" for cell, what in _FAULTS.items() if grown[cell]]
        sentence = "; ".join(parts)
        if not sentence or sentence == self._said:
            return None
        self._said = sentence
        return sentence

    def _collecting(self, counters: Mapping[Cell, int], grown: Mapping[Cell, int]) -> list[str]:
        """How far the calibration is, unless it only goes forward, and what may be wrong with it."""
        if not counters[Cell.MARKS]:
            return [f"{counters[Cell.BINS]} bins and no trial event yet: is the marker stream right?"]
        if grown[Cell.TRIALS] and not any(grown[cell] for cell in LEFT_OUT.values()):
            return []
        parts = [f"{counters[Cell.HELD]} of {self._wanted} calibration trials"]
        left_out = [f"{reason} {counters[cell]}" for reason, cell in LEFT_OUT.items() if counters[cell]]
        if left_out:
            parts.append(f"left out: {', '.join(left_out)}")
        ends = counters[Cell.ENDS]
        if not ends:
            parts.append("trials have begun and none has ended: does the rig send ends?")
        elif self._success is not None and not counters[Cell.SUCCESSES]:
            parts.append(f"no trial so far was marked as successful: send {self._success} or set source.events.assume_success")
        elif not counters[Cell.TRIALS] and not left_out:
            parts.append(f"{ends} trial ends and no whole trial: does the rig send starts, and on the clock of the bins?")
        return parts
