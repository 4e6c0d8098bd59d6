"""Where the promotion of a candidate stands, as the processes' reports tell it."""

from __future__ import annotations

from bci_align.runtime.promotion import Promotion
from bci_align.runtime.reports import Report

_OVER = {"committed": Promotion.COMMIT, "rolled_back": Promotion.ROLLBACK, "dropped": Promotion.REFUSE}


class Progress:
    """Follows the machine COLLECT, ALIGN, GATE, SHADOW, PROMOTE, PROBATION and how it ended: COMMIT, ROLLBACK or REFUSE.

    ``state`` is where it is now; an end is ``last`` (``state``, ``generation``, ``reason``) and the state is COLLECT again.
    ``candidate`` is the generation under way, ``paths`` where accepted generations lie.
    """

    def __init__(self) -> None:
        self.state = Promotion.COLLECT
        self.candidate: int | None = None
        self.last: Report | None = None
        self.paths: dict[int, str] = {}

    def hear(self, report: Report) -> None:
        """Take in one report; those that have nothing to do with it are left alone."""
        kind, generation = report["report"], report.get("generation")
        if kind == "aligning":
            self.state, self.candidate = Promotion.ALIGN, generation
        elif kind == "judging":
            self.state = Promotion.GATE
        elif kind == "verdict" and report["accepted"]:
            self.state = Promotion.SHADOW
            self.paths[report["generation"]] = report["path"]
        elif kind == "verdict":
            self._over(Promotion.REFUSE, report)
        elif kind == "shadow" and report["passed"]:
            self.state = Promotion.PROMOTE
        elif kind == "swapped":
            self.state = Promotion.PROBATION
        elif kind in _OVER:
            self._over(_OVER[kind], report)
        elif kind == "died" and report["who"] == "aligner" and self.state in (Promotion.ALIGN, Promotion.GATE):
            self._over(Promotion.REFUSE, {"generation": self.candidate, "reason": f"the aligner died: {report['reason']}"})

    def _over(self, state: Promotion, report: Report) -> None:
        self.last = {"state": str(state), "generation": report.get("generation"), "reason": report.get("reason", "")}
        self.state, self.candidate = Promotion.COLLECT, None
