"""When a process counts as hung, when it is started again, and when no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bci_align.config import SupervisorConfig
from bci_align.runtime.child import Child


class Pulse:
    """Notices that a heartbeat has stopped.

    The silence that counts is what the watcher itself has looked on, in steps: where the whole machine was held up, a suspended
    laptop or a virtual machine that is moved, nobody is hung for that.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._beat: int | None = None
        self._looked = 0.0
        self._silent = 0.0

    def look(self, beat: int, now: float) -> bool:
        """Whether the heartbeat has read ``beat`` for longer than the limit as of ``now`` (seconds, monotonic)."""
        step, self._looked = now - self._looked, now
        if beat != self._beat:
            self._beat, self._silent = beat, 0.0
        else:
            self._silent += min(step, self.limit_s / 4)
        return self._silent > self.limit_s


class BackOff:
    """How long to wait before a process is started again: not at all at first, then longer and longer, in the end for ever."""

    def __init__(self, config: SupervisorConfig) -> None:
        self._config = config
        self._at: deque[float] = deque()

    def wait_s(self, now: float) -> float | None:
        """Seconds from ``now`` (monotonic) until the next start, which is counted; None where it has died too often."""
        c = self._config
        while self._at and now - self._at[0] > c.restart_window_s:
            self._at.popleft()
        if len(self._at) >= c.restarts:
            return None
        self._at.append(now)
        n = len(self._at)
        return 0.0 if n == 1 else float(c.back_off_s * 2 ** (n - 2))


class Seat:
    """One role of the live system: the process that has it, what becomes of it when that ends, and what it said last.

    ``make`` starts a process. ``limit_s`` is its heartbeat's; ``start_s`` what it gets to become ready. ``beat`` gives its
    heartbeat.
    """

    def __init__(
        self,
        who: str,
        make: Callable[[], Child],
        beat: Callable[[], int],
        config: SupervisorConfig,
        limit_s: float,
        start_s: float,
    ) -> None:
        self.who, self._make, self._beat, self._config = who, make, beat, config
        self._limit_s, self._start_s = limit_s, start_s
        self._back_off = BackOff(config)
        self.child: Child | None = None
        self.starts = 0
        """Processes that had the seat so far."""
        self.down = ""
        """Why nobody will have it any more; empty while that is not so."""
        self.reason = ""
        """Why its process was killed, until its end has been seen; empty where it was not."""
        self._again_at: float | None = None
        self._pulse = Pulse(start_s)
        self._alive = False

    @property
    def pid(self) -> int | None:
        """Process number, or None while there is none."""
        return None if self.child is None or self.child.done else self.child.pid

    @property
    def state(self) -> str:
        """In a word: ``up``, ``starting``, ``waiting`` (to be started again), ``down`` or ``ended``."""
        if self.down:
            return "down"
        if self.child is not None and not self.child.done:
            return "up" if self.child.ready or self._alive else "starting"
        return "waiting" if self._again_at is not None else "ended"

    def start(self) -> None:
        """Start a process."""
        self.take(self._make())

    def take(self, child: Child, start_s: float | None = None) -> None:
        """Give the seat to a process that is there already, and that becomes ready within ``start_s`` if that is known."""
        self.child, self._again_at = child, None
        self._pulse, self._alive = Pulse(self._start_s if start_s is None else start_s), False
        self.starts += 1

    def give(self) -> Child:
        """Take the process out of the seat; another may be started at once."""
        child, self.child = self.child, None
        assert child is not None
        return child

    def look(self, now: float, settled: bool) -> str | None:
        """Kill the process if it is hung, and say so. ``settled``: it has become what it should be, and only its beat counts."""
        if self.child is None or self.child.done:
            return None
        if settled and not self._alive:
            self._alive, self._pulse = True, Pulse(self._limit_s)
        if not self._pulse.look(self._beat(), now):
            return None
        self.child.kill()
        return f"it gave no sign of life for {self._pulse.limit_s:g} s and was killed"

    def lost(self, reason: str, now: float) -> float | None:
        """Its process is gone: seconds until the next may start, or None where none will."""
        wait = self._back_off.wait_s(now)
        if wait is None:
            c = self._config
            times = "once" if c.restarts == 0 else f"{c.restarts + 1} times within {c.restart_window_s:g} s"
            self.down = f"the {self.who} died {times}; the last time, {reason}"
            return None
        self._again_at = now + wait
        return wait

    def later(self, at: float) -> None:
        """Start a process no earlier than ``at`` (monotonic)."""
        self._again_at = max(at, self._again_at or at)

    def due(self, now: float) -> bool:
        """Whether it is time to start the next process."""
        return not self.down and self._again_at is not None and now >= self._again_at
