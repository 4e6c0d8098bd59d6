"""Faults counted, and told once per episode: a fault that comes back within a second has not been away.

News of the connection, which has a sentence of its own, always begins an episode: it is heard of once per change.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.signal.checks import Mask
from bci_align.streams.contract import Flags

EPISODE_S = 1.0
"""Seconds without a fault that end its episode."""

_MOST_NAMED = 8
"""Channels that a sentence names."""

_SAYS = {
    Flags.GAP: "bins before it never arrived",
    Flags.BAD_COUNTS: "the network gave nothing finite; its state stays as it was and the output is zero",
    Flags.DUPLICATE: "it came twice and was left out",
    Flags.OUT_OF_ORDER: "it came after a later one and was left out",
    Flags.TIME_JUMP: "the time stamps moved otherwise than the bins' numbers",
    Flags.NON_FINITE: "counts are NaN or infinite",
    Flags.NEGATIVE: "counts are below zero",
    Flags.IMPLAUSIBLE: "counts are beyond any neuron's rate",
    Flags.SILENT: "channels that spoke on the source day say nothing",
    Flags.SATURATED: "channels sit at one count above zero",
    Flags.LATE: "it arrived late",
    Flags.STALE: "no further bin has come in time",
    Flags.LOST: "the stream is gone and is being looked for",
    Flags.MISMATCH: "another stream came in its place; the output is zero",
    Flags.RESTARTED: "the sender began to count anew; the encoder's state is new",
    Flags.MALFORMED: "a message could not be understood and was left out",
}
FAULTS = int(np.bitwise_or.reduce([int(f) for f in _SAYS]))
"""Every flag that is a fault."""

_MOST = 2**32
"""A number that a sender made up must not overflow the count."""

_GAP, _BAD_COUNTS = int(Flags.GAP), int(Flags.BAD_COUNTS)
_TOLD = FAULTS & ~_BAD_COUNTS
_COUNTED = FAULTS | int(Flags.CLAMPED | Flags.FROZEN)
_WHY_BAD = int(Flags.NON_FINITE | Flags.NEGATIVE | Flags.IMPLAUSIBLE | Flags.MALFORMED)


class FaultLog:
    """Counts by flag bit: ``faults`` (32,) faulty bins, of GAP the bins that are missing; ``episodes`` (32,) times it began."""

    def __init__(self, bin_s: float) -> None:
        self.faults: NDArray[np.int64] = np.zeros(32, np.int64)
        self.episodes: NDArray[np.int64] = np.zeros(32, np.int64)
        self._apart = max(math.ceil(EPISODE_S / bin_s), 1)
        self._last: dict[int, int] = {}
        self._channels: dict[int, Mask] = {}
        self._news: list[dict[str, Any]] = []

    def add(
        self,
        flags: int,
        now: int,
        seq: int,
        culprits: dict[int, Mask] | None = None,
        sentence: str | None = None,
        missing: int = 0,
        times: int = 1,
    ) -> None:
        """Take in the flags of bin ``seq`` at ``now`` (bins and samples so far); other bits than :data:`FAULTS` do not matter.

        ``culprits`` are channels by flag: one that was not in the episode yet begins another. ``sentence`` begins one and is what
        is told of it. ``missing`` counts GAP, ``times`` the other bits.
        """
        bits = flags & _COUNTED
        told = _TOLD if flags & _WHY_BAD else FAULTS
        while bits:
            bit = bits & -bits
            bits ^= bit
            index = bit.bit_length() - 1
            self.faults[index] += min(missing, _MOST) if bit == _GAP else times
            if not bit & told:
                continue
            new = sentence is not None or now - self._last.get(bit, -self._apart) >= self._apart
            self._last[bit] = now
            mask = None if culprits is None else culprits.get(bit)
            if mask is not None:
                known = None if new else self._channels.get(bit)
                new = new or known is None or bool((mask & ~known).any())
                if new:
                    self._channels[bit] = mask if known is None else mask | known
            if new:
                self.episodes[index] += 1
                self._tell(Flags(bit), seq, mask, sentence)

    def news(self) -> list[dict[str, Any]]:
        """The ``fault_episode`` reports since the last call."""
        news, self._news = self._news, []
        return news

    def _tell(self, flag: Flags, seq: int, mask: Mask | None, sentence: str | None) -> None:
        channels = [] if mask is None else [int(c) for c in np.flatnonzero(mask)]
        if sentence is None:
            named = ", ".join(map(str, channels[:_MOST_NAMED])) + (", ..." if len(channels) > _MOST_NAMED else "")
            where = f" ({len(channels)} channels: {named})" if channels else ""
            sentence = f"bin {seq}: {_SAYS[flag]}{where}"
        name = (flag.name or "").lower()
        self._news.append({"report": "fault_episode", "fault": name, "bin": seq, "channels": channels, "sentence": sentence})
