"""How the decoder waits for a bin: asleep until shortly before it is due, then awake, with all in the caches that it needs."""

from __future__ import annotations

READ_S = 0.005
"""Longest sleep: after it come the mailbox, orders and the heartbeat."""

AHEAD_S, BEHIND_S = 0.0015, 0.001
"""The decoder wakes so long before a bin is due and rehearses a step, because what others computed since the last bin has emptied
the caches. Then it stays awake until so long after: asleep, its core would be another's, and the caches too. Long enough for a
rehearsal in cold caches and a rig's jitter, so that hardly a bin comes while it is at it."""

MOST = 0.1
"""Neither is more than this share of a bin. With a rig that is on time this is the share of a core that is spent waiting."""

STILL = 2.0
"""Bin widths without a bin after which the stream stands still, and nothing is rehearsed."""


class Vigil:
    """The wait for bins of ``bin_s`` seconds, each due one width after the last. It has no clock of its own."""

    def __init__(self, bin_s: float) -> None:
        self._bin_s = bin_s
        self._wake, self._sleep = bin_s - min(AHEAD_S, MOST * bin_s), bin_s + min(BEHIND_S, MOST * bin_s)
        self._ready = False

    def bin(self) -> None:
        """Note a bin."""
        self._ready = False

    def patience(self, since_s: float) -> float:
        """Longest sleep, seconds, ``since_s`` after the last bin."""
        if since_s < self._wake:
            return min(self._wake - since_s, READ_S)
        return 0.0 if since_s < self._sleep else READ_S

    def rehearse(self, since_s: float) -> bool:
        """Whether to rehearse a step now: once before a bin is due, and after each sleep in which it did not come."""
        if not self._wake <= since_s < STILL * self._bin_s or (self._ready and since_s < self._sleep):
            return False
        self._ready = True
        return True
