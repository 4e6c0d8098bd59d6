"""Writes down what was decided: the log, receipts, and which generation is committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bci_align.bundle.store import Bundle
from bci_align.errors import BundleError, RuntimeFault
from bci_align.runtime import committed, receipts
from bci_align.runtime.progress import Progress
from bci_align.runtime.reports import Report

_LOGGED = (
    "shadow", "swapped", "committed", "rolled_back", "dropped", "died", "failed_closed", "frozen", "resumed", "link", "ordered",
)  # fmt: skip
"""Reports that are decisions too, and not written down where they are made: the decoder must not wait for a disk."""


class Scribe:
    """Hears every report and keeps the books of ``out``; a full disk must not end the decoding, but not go unseen either.

    ``say`` takes a report of its own.
    """

    def __init__(self, out: Path, bundle: Bundle, say: Callable[[Report], None]) -> None:
        self._out, self._bundle, self._say = out, bundle, say
        self.progress = Progress()
        self._committed = bundle.manifest.generation
        self._failed = False

    def hear(self, report: Report) -> bool:
        """Take in one report; whether another generation is committed now, and ``out/committed.json`` says so."""
        self.progress.hear(report)
        kind = report["report"]
        if kind in _LOGGED:
            content = {k: v for k, v in report.items() if k not in ("from", "report")}
            self._try(lambda: receipts.record(self._out, kind, content))
        if kind == "committed":
            return self._commit(int(report["generation"]))
        if kind == "rolled_back" and int(report["to"]) != self._committed:
            return self._commit(int(report["to"]))
        return False

    def _commit(self, generation: int) -> bool:
        if generation == self._bundle.manifest.generation:
            path = self._bundle.path
        elif generation in self.progress.paths:
            path = Path(self.progress.paths[generation])
        else:
            self._complain(f"generation {generation} was committed, and nobody has said where it lies")
            return False
        if not self._try(lambda: committed.write(self._out, self._bundle.path, path)):
            return False
        self._committed = generation
        return True

    def _try(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except (RuntimeFault, BundleError) as e:
            self._complain(str(e))
            return False
        self._failed = False
        return True

    def _complain(self, reason: str) -> None:
        """Say that something could not be written, once until it works again."""
        if not self._failed:
            self._failed = True
            self._say({"report": "log_failed", "reason": reason})
