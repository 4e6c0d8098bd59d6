"""Per-bin checks: is this the next bin, did it come when it should, can its counts be believed.

A step object: ``state0()``, ``step(state, bin) -> (state, result)``, pure and without a clock of its own, so that a recording
checks to the same result as the live stream. What every fault means and what is done about it is
:class:`~bci_align.config.ChecksConfig`.

What moves a bin's place in the stream:

* the next number: taken; a later number: taken, the bins between are a ``GAP``;
* a number that was taken already: ``DUPLICATE``; an earlier one that was not: ``OUT_OF_ORDER``; both are left out;
* :data:`NEW_COUNT` bins left out that follow each other, and are far behind or newer in time: the sender has begun to count anew
  without a word; the last of them is taken as its first (``RESTARTED``).
"""

from __future__ import annotations

import math
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bci_align.config import ChecksConfig
from bci_align.models.read_in import ReadIn
from bci_align.signal.stuck import Counts, Trail, silence, unchanged_since
from bci_align.streams.contract import Bin, Flags

Mask = NDArray[np.bool_]

WINDOW = 64
"""Bins back in which a duplicate is told from a bin out of order; what is further behind is another count."""

NEW_COUNT = 5
"""Bins left out in a row that, following each other, are a sender's new count."""

FORGET = 2e-4
"""Seconds per second by which the earliest arrival is forgotten: two clocks drift apart by a tenth of it."""

_GAP, _BAD, _DUPLICATE, _ORDER = int(Flags.GAP), int(Flags.BAD_COUNTS), int(Flags.DUPLICATE), int(Flags.OUT_OF_ORDER)
_JUMP, _LATE, _RESTARTED, _MALFORMED = int(Flags.TIME_JUMP), int(Flags.LATE), int(Flags.RESTARTED), int(Flags.MALFORMED)
_NON_FINITE, _NEGATIVE, _IMPLAUSIBLE = int(Flags.NON_FINITE), int(Flags.NEGATIVE), int(Flags.IMPLAUSIBLE)
_SILENT, _SATURATED = int(Flags.SILENT), int(Flags.SATURATED)
_UNUSABLE = _NON_FINITE | _NEGATIVE | _IMPLAUSIBLE | _MALFORMED
_NEVER = 2**62
_FLOAT32 = np.dtype(np.float32)
_UINT32 = np.dtype(np.uint32)
_SEEN = 2**WINDOW - 1
_NONE_OUT = (0, 0)
_INFINITE = np.float32(np.inf).view(np.uint32)
_NOBODY: dict[int, Mask] = {}
_MOST_TRAIL = 64
"""Bins after which channels are looked at even if none can have sat at its count for too long: what is kept stays short."""


class CheckState(NamedTuple):
    """What the checks remember of the stream; never changed in place."""

    seq: int | None
    """Number of the last bin that was taken, None before the first."""
    t: float
    """Its time, seconds on the sender's clock."""
    seen: int
    """Bit k: bin ``seq - k`` was taken."""
    early: float
    """Smallest ``arrived - t`` of late, seconds."""
    trail: Trail
    """Counts as they came, this bin's first, back to those of the last look."""
    n: int
    """Bins taken."""
    since: NDArray[np.int64]
    """Value of ``n`` at which each channel came to its count (C,), as of the last look."""
    look: int
    """Value of ``n`` before which no channel can have sat at its count for too long."""
    good: Counts
    """What the encoder saw last (C,)."""
    other: tuple[int, int]
    """Of bins left out: the number that would follow, and how many have followed each other."""


class Checked(NamedTuple):
    """What the checks say of one bin."""

    flags: int
    """Bits of :class:`~bci_align.streams.contract.Flags`."""
    counts: Counts | None
    """What the encoder shall see (C,) float32; None: nothing."""
    t: float = math.nan
    """The bin's time; where that is no number, what the bin's number says, seconds."""
    left_out: bool = False
    """The bin is no news: no sample for it, and no step."""
    zero: bool = False
    """Where the encoder sees nothing: the output is zero at once instead of decaying."""
    missing: int = 0
    """Bins before this one that never arrived."""
    fill: int = 0
    """Steps of :attr:`Checks.mean` that the encoder shall take first, in their place."""
    anew: bool = False
    """The encoder's state shall start anew with this bin."""
    culprits: dict[int, Mask] = _NOBODY
    """Channels (C,) at fault, by flag; never filled in place."""


class Checks:
    """The checks of one read-in's channels.

    Parameters
    ----------
    read_in
        Its mean is what ``fill`` puts in and, with its gain, what tells a silent channel from one that seldom speaks. A channel
        of gain 0 is not listened to and never silent.
    bin_s
        Bin width, seconds.
    config
        Faults and policies.
    """

    def __init__(self, read_in: ReadIn, bin_s: float, config: ChecksConfig) -> None:
        self._config, self._bin_s = config, bin_s
        self.mean: Counts = np.asarray(read_in.mean, np.float32)
        self.channels, self._shape = len(self.mean), self.mean.shape
        self._most = config.most_hz * bin_s
        self._jump, self._late = config.time_jump_bins * bin_s, config.late_bins * bin_s
        with np.errstate(all="ignore"):  # a read-in that is not finite is refused elsewhere
            sd = 1.0 / np.asarray(read_in.gain, np.float64)
            flood = np.minimum(self.mean + config.flood_sd * sd, self._most)
            self._flood = np.where(np.isfinite(flood), flood, self._most).astype(np.float32)
            # Read as integers, floats from 0 up keep their order, and negative numbers, infinity and NaN lie above them all: one
            # comparison tells whether a bin needs a closer look.
            beyond = np.minimum(np.abs(self._flood).view(np.uint32) + 1, _INFINITE)
            self._beyond = np.where(self._flood >= 0, beyond, 0).astype(np.uint32)
            self._none = bytes(self.channels)
            self._flooded = config.flooded * self.channels
            improbable = silence(self.mean.astype(np.float64), sd)
            limit = np.maximum(np.ceil(config.silent_s / bin_s), np.ceil(improbable)) - 1
            self._silent = np.where(limit < _NEVER, limit, _NEVER).astype(np.int64)
        self._saturated = config.saturated_bins - 1
        self._shortest = min(self._saturated, int(self._silent.min()))
        self._policy = {
            _GAP: config.gap,
            _JUMP: config.time_jump,
            _NON_FINITE: config.non_finite,
            _NEGATIVE: config.negative,
            _IMPLAUSIBLE: config.implausible,
            _SILENT: config.silent,
            _SATURATED: config.saturated,
            _LATE: config.late,
            _MALFORMED: "hold",
        }

    def state0(self) -> CheckState:
        """Give the state before the first bin."""
        c = self.channels
        nothing = np.full(c, np.nan, np.float32)
        return CheckState(None, math.nan, 0, math.inf, (nothing, ()), 0, np.zeros(c, np.int64), 0, self.mean, _NONE_OUT)

    def reconnected(self, state: CheckState) -> CheckState:
        """``state`` after a break in the connection: the way here may have another length."""
        return state._replace(early=math.inf)

    def renumbered(self, state: CheckState) -> CheckState:
        """``state`` for a sender whose numbers and times begin anew."""
        return state._replace(seq=None, t=math.nan, seen=0, early=math.inf, other=_NONE_OUT)

    def step(self, state: CheckState, item: Bin) -> tuple[CheckState, Checked]:
        """Check one bin."""
        seq, t, raw, flags, missing = item.seq, item.t, item.counts, 0, 0
        last, before, seen, early, trail, n, since, look, good, _ = state  # at once: by name, each is a call
        if last is None:
            seen, early = 1, math.inf
            t = t if isfinite(t) else 0.0
        else:
            ahead = seq - last
            if ahead <= 0:
                return self._behind(state, item, -ahead)
            seen = (seen << ahead | 1) & _SEEN if ahead < WINDOW else 1
            if ahead > 1:
                flags, missing = _GAP, ahead - 1
            expected = before + ahead * self._bin_s
            if not abs(t - expected) <= self._jump:
                flags |= _JUMP
                t, early = (t if isfinite(t) else expected), math.inf
            early += FORGET * ahead * self._bin_s
        lag = item.arrived - t
        if isfinite(lag):
            if lag - early > self._late:
                flags |= _LATE
            early = min(early, lag)
        culprits = _NOBODY
        if not (
            raw.dtype is _FLOAT32
            and raw.shape == self._shape
            and (raw.view(_UINT32) >= self._beyond).tobytes() == self._none  # quicker than to count them
        ):
            raw, found, culprits = self._channels(raw)
            flags |= found
        n += 1
        trail = raw, trail
        if n >= look:
            since, trail = unchanged_since(trail, n, since), (raw, ())
            look, stuck = self._stuck(n, raw, since)
            if stuck:
                culprits = culprits | stuck
                flags |= sum(stuck)
        if not flags:
            return CheckState(seq, t, seen, early, trail, n, since, look, raw, _NONE_OUT), Checked(0, raw, t)
        counts, zero = self._stand_in(flags, raw, good, culprits)
        good = good if counts is None else counts
        fills = missing > 0 and self._config.gap == "fill"
        fill = missing if fills and missing <= self._config.fill_most else 0
        if flags & _UNUSABLE:
            flags |= _BAD
        result = Checked(flags, counts, t, False, zero, missing, fill, fills and not fill, culprits)
        return CheckState(seq, t, seen, early, trail, n, since, look, good, _NONE_OUT), result

    def _behind(self, state: CheckState, item: Bin, behind: int) -> tuple[CheckState, Checked]:
        """Leave out a bin that is ``behind`` bins before the last one, or find that its sender counts anew."""
        known = behind < WINDOW and state.seen >> behind & 1
        follows, row = state.other
        row = row + 1 if row and item.seq == follows else 1
        if row >= NEW_COUNT and (behind >= WINDOW or item.t > state.t):
            state, checked = self.step(self.renumbered(state), item)
            return state, checked._replace(flags=checked.flags | _ORDER | _RESTARTED, anew=True)
        flag = _DUPLICATE if known else _ORDER
        return state._replace(other=(item.seq + 1, row)), Checked(flag, None, item.t, left_out=True)

    def _stuck(self, n: int, raw: Counts, since: NDArray[np.int64]) -> tuple[int, dict[int, Mask]]:
        """When to look again, and which channels (C,) have sat at their count for too long."""
        speaks = raw > 0
        end = since + np.where(speaks, self._saturated, self._silent)
        over = end <= n
        if not over.any():
            # What changes its count from here on has at least the shortest of all limits before it.
            return min(int(end.min()), n + 1 + self._shortest, n + _MOST_TRAIL), {}
        return n + 1, {bit: m for bit, m in ((_SILENT, over & (raw == 0)), (_SATURATED, over & speaks)) if m.any()}

    def _channels(self, counts: Counts) -> tuple[Counts, int, dict[int, Mask]]:
        """Counts (C,) as float32, what is wrong with them, and where."""
        if counts.dtype is not _FLOAT32:
            with np.errstate(over="ignore"):  # what does not fit is infinite, and found below
                counts = counts.astype(np.float32)
        if counts.shape != self._shape:
            return np.full(self.channels, np.nan, np.float32), _MALFORMED, {}
        over = counts > self._flood
        flooded = np.count_nonzero(over)
        usual = np.minimum.reduce(counts) >= 0  # NaN passes neither comparison
        if usual and not flooded:
            return counts, 0, {}
        if not (usual and np.maximum.reduce(counts) <= self._most):
            found: dict[int, Mask] = {}
            finite = np.isfinite(counts)
            masks = ((_NON_FINITE, ~finite), (_NEGATIVE, finite & (counts < 0)), (_IMPLAUSIBLE, finite & (counts > self._most)))
            for bit, mask in masks:
                if mask.any():
                    found[bit] = mask
            return counts, sum(found), found
        if flooded > self._flooded:
            return counts, _IMPLAUSIBLE, {_IMPLAUSIBLE: over}
        return counts, 0, {}

    def _stand_in(self, flags: int, raw: Counts, good: Counts, culprits: dict[int, Mask]) -> tuple[Counts | None, bool]:
        """What the encoder sees of a faulty bin, and whether the output is zero if that is nothing: the strictest policy wins."""
        said = {self._policy[bit] for bit in self._policy if flags & bit}
        if "zero" in said or "decay" in said:
            return None, "zero" in said
        if any(flags & bit and self._policy[bit] == "hold" for bit in (_NON_FINITE, _NEGATIVE, _IMPLAUSIBLE, _MALFORMED)):
            return good, False
        masks = [mask for bit, mask in culprits.items() if self._policy[bit] == "fill"]
        if masks:
            raw = np.where(np.logical_or.reduce(masks), self.mean, raw)
        return raw, False
