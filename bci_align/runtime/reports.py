"""What the processes tell their parent: small dictionaries, as JSON over a pipe of their own."""

from __future__ import annotations

import json
import traceback
from multiprocessing.connection import Connection
from typing import Any

import bci_align.errors as errors
from bci_align.errors import BciAlignError, RuntimeFault

Report = dict[str, Any]
"""``report`` says which kind; :mod:`bci_align.runtime.live` lists them."""


def send(pipe: Connection[Any, Any], report: Report) -> None:
    """Send one report. A parent that is gone is noticed elsewhere and no reason to fail here."""
    try:
        pipe.send_bytes(dumps(report))
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(pipe: Connection[Any, Any]) -> Report:
    """The next report; EOFError when the sender has closed the pipe or died."""
    report: Report = json.loads(pipe.recv_bytes())
    return report


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
