"""The log of decisions: one JSON object per line, only ever appended to."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from bci_align.errors import RuntimeFault
from bci_align.runtime.reports import Report, dumps

NAME = "decisions.jsonl"


def append(out: Path, decision: str, content: Report) -> None:
    """Append one ``decision`` to ``out/decisions.jsonl`` and have it on the disk before returning.

    One write of a whole line in append mode: processes that log at the same time do not mix their lines.
    """
    line = dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "decision": decision} | content) + b"\n"
    path = out / NAME
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        raise RuntimeFault(f"{path}: cannot be written ({e.strerror})") from None
