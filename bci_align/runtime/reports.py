"""What the processes tell their parent: small dictionaries, as lines of JSON over a socket of their own.

A parent that is stuck must not stop the decoder, and a child that is stuck in the middle of a line must not stop the parent: so
the decoder's :class:`Writer` keeps what does not fit, up to a bound, and :class:`Reader` takes what is there and never waits.
"""

from __future__ import annotations

import json
import socket
import traceback
from typing import Any

import bci_align.errors as errors
from bci_align.errors import BciAlignError, RuntimeFault

Report = dict[str, Any]
"""``report`` says which kind; :mod:`bci_align.runtime.live` lists them."""

Pipe = socket.socket
"""One end of a connected pair of stream sockets."""

MOST_WAITING = 2**20
"""Bytes of reports that :class:`Writer` keeps for a parent that does not read; further ones are left out and counted."""

MOST_LINE = 2**24
"""Longest line that :class:`Reader` believes, bytes."""


def send(pipe: Pipe, report: Report) -> None:
    """Send one report, waiting for room. A parent that is gone is noticed elsewhere and no reason to fail here."""
    try:
        pipe.sendall(dumps(report) + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        return


class Writer:
    """Sends reports without ever waiting; :meth:`push` sends what an earlier call had no room for."""

    def __init__(self, pipe: Pipe) -> None:
        pipe.setblocking(False)
        self._pipe = pipe
        self._waiting = bytearray()
        self.unsent = 0
        """Reports that were left out, because too many waited already."""

    def send(self, report: Report) -> None:
        """Send one report, now or later."""
        line = dumps(report) + b"\n"
        if len(self._waiting) + len(line) > MOST_WAITING:
            self.unsent += 1
        else:
            self._waiting += line
        self.push()

    def push(self) -> None:
        """Send what waits, as far as there is room. To a parent that is gone nothing is sent any more."""
        while self._waiting:
            try:
                done = self._pipe.send(self._waiting)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._waiting.clear()
                return
            del self._waiting[:done]

    def finish(self, timeout_s: float) -> None:
        """Before the process ends: wait up to ``timeout_s`` for the rest to go."""
        self._pipe.settimeout(timeout_s)
        try:
            self._pipe.sendall(self._waiting)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return


class Reader:
    """Takes reports as they come in; a line is given once it is whole."""

    def __init__(self, pipe: Pipe) -> None:
        pipe.setblocking(False)
        self._pipe = pipe
        self._rest = b""
        self.ended = False
        """Whether the other end is closed and all of it has been read."""

    def read(self) -> list[Report]:
        """Whole reports that have arrived; never waits."""
        parts = [self._rest]
        while not self.ended:
            try:
                part = self._pipe.recv(2**16)
            except BlockingIOError:
                break
            except ConnectionResetError:
                part = b""
            self.ended = not part
            parts.append(part)
        *lines, self._rest = b"".join(parts).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise RuntimeFault(f"a report of a process: expected at most {MOST_LINE} bytes, found more")
        return [json.loads(line) for line in lines]


def dumps(report: Report) -> bytes:
    """``report`` as one line of JSON; NumPy numbers and paths are fine."""
    return json.dumps(report, default=_plain).encode()


def fault(error: BaseException) -> Report:
    """The report of what ended a process. A defect of ours brings its traceback along."""
    report: Report = {"report": "fault", "error": type(error).__name__, "message": str(error)}
    if not isinstance(error, BciAlignError):
        report["traceback"] = "".join(traceback.format_exception(error))
    return report


def as_error(report: Report, who: str) -> BciAlignError:
    """The exception of the same class that a ``fault`` report tells of; :class:`RuntimeFault` for a defect in ``who``."""
    kind = getattr(errors, report["error"], None)
    if isinstance(kind, type) and issubclass(kind, BciAlignError):
        return kind(report["message"])
    found = RuntimeFault(f"the {who} failed: {report['error']}: {report['message']}")
    found.add_note(report.get("traceback", ""))
    return found


def _plain(value: object) -> object:
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
