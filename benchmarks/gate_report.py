"""What came of the gate's scenarios: the table and the acceptance rows of :mod:`benchmarks.gate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bci_align_sim.scenario_days import Plan
from bci_align_sim.scenarios import MAKERS, Kind
from benchmarks.common import Row

Cells = tuple[str, ...]

POINT = 1.0
"""R2 points by which an accepted candidate may be worse."""


@dataclass(frozen=True)
class Outcome:
    """One scenario's end.

    ``incumbent``, ``candidate``: R2 (%) on the later trials, None without a candidate; ``seconds``: CPU of alignment and gate;
    ``fault``: what escaped that is not of our exception family, a defect.
    """

    plan: Plan
    kind: Kind
    accepted: bool
    reason: str
    incumbent: float
    candidate: float | None
    seconds: float
    fault: str | None = None

    @property
    def gain(self) -> float | None:
        """Points of R2 by which the candidate is better than the incumbent."""
        return None if self.candidate is None else self.candidate - self.incumbent


def per_scenario(outcomes: Sequence[Outcome]) -> list[Cells]:
    """The table: one row per maker, and one for all of each kind."""
    head: Cells = (
        "scenario", "kind", "n", "no candidate", "accepted", "accepted, worse by > 1", "worst accepted", "refused, better by > 1",
        "worse by > 1 without a gate", "incumbent R2, median", "candidate - incumbent, median",
    )  # fmt: skip
    rows: list[Cells] = [head]
    for name, maker in MAKERS.items():
        rows += _row(name, maker.kind, [o for o in outcomes if o.plan.maker == name])
    for kind in ("bad", "no drift", "good"):
        rows += _row(f"all: {kind}", kind, [o for o in outcomes if o.kind == kind])
    return rows


def _row(name: str, kind: Kind, of: Sequence[Outcome]) -> list[Cells]:
    if not of:
        return []
    gains = [o.gain for o in of if o.gain is not None]
    accepted = [o.gain for o in of if o.accepted and o.gain is not None]
    missed = sum(not o.accepted and o.gain is not None and o.gain > POINT for o in of)
    return [
        (
            name, kind, str(len(of)), str(len(of) - len(gains)), str(len(accepted)), str(len(harmful(of))),
            f"{min(accepted):+.2f}" if accepted else "-", str(missed), str(sum(g < -POINT for g in gains)),
            f"{np.median([o.incumbent for o in of]):.1f}", f"{np.median(gains):+.2f}" if gains else "-",
        )
    ]  # fmt: skip


def harmful(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Accepted, and worse than the incumbent by more than ``POINT``."""
    return [o for o in outcomes if o.accepted and o.gain is not None and o.gain < -POINT]


def acceptance(outcomes: Sequence[Outcome], uncounted: bool = False) -> list[Row]:
    """Acceptance rows; without those that count scenarios where there are too few by design."""
    good = [o for o in outcomes if o.kind == "good"]
    bad = [o for o in outcomes if o.kind != "good"]
    really = [o for o in good if o.gain is None or o.gain > 0]
    share = 100 * sum(o.accepted for o in really) / len(really) if really else float("nan")
    worse, worse_good = len(harmful(bad)), len(harmful(good))
    counted = [
        Row("bad or trivial scenarios", str(len(bad)), ">= 200", len(bad) >= 200),
        Row("good scenarios", str(len(good)), ">= 60", len(good) >= 60),
    ]
    return [
        *([] if uncounted else counted),
        Row("bad or trivial: accepted and worse by > 1 point", str(worse), "0", bool(bad) and worse == 0),
        Row("nominally good: accepted and worse by > 1 point", str(worse_good), "0", worse_good == 0),
        Row(f"good accepted (%), of {len(really)} truly good among {len(good)}", share, ">= 90", share >= 90),
        *(Row(f"{o.plan.maker} {o.plan.subject}/{o.plan.seed}", o.fault, "no fault", False) for o in outcomes if o.fault),
    ]
