"""Whether the sender of a silent LSL stream is still there: neither TCP nor liblsl tells of a machine that lost its power."""

from __future__ import annotations

import threading
import time

import pylsl

SILENT_S = 0.25
"""Silence after which the network is asked, at least; and a few bins, for wide ones."""

SILENT_BINS = 4

ANSWER_S = 0.6
"""Longest wait for an answer; liblsl asks twice in it."""


class Presence:
    """Asks the network for the very outlet ``uid`` while no bin of ``bin_s`` seconds comes, in a thread of its own.

    An outlet answers as long as its process runs, whether it sends or not: a rig that pauses is not lost.
    """

    def __init__(self, uid: str, bin_s: float) -> None:
        self._uid = uid
        self._silent_s = max(SILENT_S, SILENT_BINS * bin_s)
        self._heard = time.monotonic()
        self._thread: threading.Thread | None = None
        self._answered = True

    def heard(self, now: float) -> None:
        """Note a sign of life at ``now``, seconds of ``time.monotonic``."""
        self._heard = now

    def gone(self, now: float) -> bool:
        """Whether the outlet was silent and did not answer; never waits."""
        if now - self._heard < self._silent_s:
            return False
        if self._thread is None:
            self._asked = now
            self._thread = threading.Thread(target=self._ask, name="LSL presence", daemon=True)
            self._thread.start()
        elif not self._thread.is_alive():
            self._thread = None
            if not self._answered and self._asked > self._heard:
                return True
            self._heard = max(self._heard, self._asked) if self._answered else self._heard
        return False

    def close(self) -> None:
        """Wait for a question that is under way."""
        if self._thread is not None:
            self._thread.join()

    def _ask(self) -> None:
        self._answered = bool(pylsl.resolve_byprop("uid", self._uid, 1, ANSWER_S))
