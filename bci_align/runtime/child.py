"""One process of the live system as its parent sees it: started with a socket of its own, heard, and in the end surely gone."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import socket
import time
from collections.abc import Callable
from typing import Any

from bci_align.runtime.process import as_child
from bci_align.runtime.reports import Reader, Report

_CONTEXT = multiprocessing.get_context("spawn")
_TERM_S = 1.0


class Child:
    """A spawned process that runs ``target(*args, pipe, *more)`` and reports through ``pipe``."""

    def __init__(self, who: str, target: Callable[..., None], args: tuple[Any, ...], more: tuple[Any, ...] = ()) -> None:
        self.who = who
        self.ready = False
        """Whether it has reported ``ready``."""
        self.done = False
        """Whether its last report has been read and the process has ended."""
        self.last: Report = {"report": ""}
        """The last report."""
        self.exitcode: int | None = None
        self.pipe, theirs = socket.socketpair()
        self._reader = Reader(self.pipe)
        self._process = _CONTEXT.Process(target=target, args=(*args, theirs, *more), name=f"bci-align {who}", daemon=True)
        try:
            with as_child():
                self._process.start()
        finally:
            theirs.close()  # the child's copy must be the only one, or its death would not close the connection

    @property
    def pid(self) -> int:
        """Process number."""
        assert self._process.pid is not None
        return self._process.pid

    def read(self) -> list[Report]:
        """Reports that have arrived; sets :attr:`done` at the end of the connection."""
        reports: list[Report] = []
        if self.done:
            return reports
        while new := self._reader.read():
            reports += [{"from": self.who} | report for report in new]
            self.last = new[-1]
            if self.last["report"] == "fault":
                self.kill()  # it has nothing more to say, and may take its time over going
        self.ready = self.ready or any(r["report"] == "ready" for r in reports)
        if self._reader.ended:
            self.done = True
            # A connection that is closed means a process that is going; if it is stuck on its way, see to it.
            self.end(_TERM_S)
        return reports

    def kill(self) -> None:
        """End it now, whatever it is doing: SIGKILL also ends a process that is stopped. What it said can still be read."""
        if self.exitcode is None:
            self._process.kill()
            self._process.join()
            self.exitcode = self._process.exitcode

    def end(self, grace_s: float) -> None:
        """See the process off: wait ``grace_s`` seconds, then terminate it, then kill it."""
        if self.exitcode is not None:
            return
        try:
            self._process.join(grace_s)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join(_TERM_S)
        finally:  # a second Ctrl-C must not leave it behind
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self.exitcode = self._process.exitcode

    def drain(self, grace_s: float) -> list[Report]:
        """Read until the connection ends, for at most ``grace_s`` seconds, so that a last report is not lost."""
        reports = []
        deadline = time.monotonic() + grace_s
        while not self.done and (left := deadline - time.monotonic()) > 0:
            multiprocessing.connection.wait([self.pipe], left)
            reports += self.read()
        return reports

    def close(self) -> None:
        """Give the connection and the process's handle back; only after :meth:`end`."""
        self.pipe.close()
        self._process.close()
