"""The factor report as a page: the matrix, the factors over time, what two bundles carry of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.interpretation.bootstrap import LEVEL, Interval, own_intervals
from bci_align.interpretation.carried import Carried
from bci_align.interpretation.factors import read_factors
from bci_align.interpretation.measures import ENOUGH
from bci_align.interpretation.store import FactorModel
from bci_align.interpretation.train import measures
from bci_align.report.factors import Matrix, Span, intervals, matrices, over_time
from bci_align.report.page import Shown, Table, write_report

SHOWN_TRIALS = 6


def explain(model: FactorModel, carried: Carried | None = None, level: float = LEVEL) -> dict[str, Any]:
    """Everything that the report says, JSON-ready but for arrays: measures on the held-out trials, verdicts if there are any."""
    found = measures(model.network, model.day, model.manifest.seed)
    told = own_intervals(model.network, model.day, level)
    result: dict[str, Any] = {
        "model": str(model.path),
        "session": model.manifest.session,
        "factors": list(model.manifest.factors),
        "behaviours": list(model.day.names),
        "held_out_trials": int(model.day.held_out.sum()),
        **found,
        "intervals": {n: [t.value, t.low, t.high] for n, t in zip(model.day.names, told, strict=True)},
        "level": level,
    }
    if found["frames"] < ENOUGH:
        result["note"] = f"{found['frames']} held-out frames: the MIG, on 20 bins, needs {ENOUGH} and is mostly bias below"
    if carried is not None:
        result["verdicts"] = {j.factor: j.verdict for j in carried.judged}
        result["lines"] = [j.line() for j in carried.judged]
        result["trials"] = carried.trials
        result["source_bar"] = {"trials": carried.source_trials, "untouched": carried.untouched, "said": carried.bar()}
        result["carried"] = {"source": carried.source, "before": carried.before, "after": carried.after}
    return result


def lines(result: Mapping[str, Any]) -> list[str]:
    """The report's findings, one sentence each."""
    out = list(result.get("lines", ()))
    out += [result["source_bar"]["said"]] if "source_bar" in result else []
    out += [
        f"{name}: R2 {v:.2f} [{low:.2f}, {high:.2f}] by its own factor, {full:.2f} by all factors"
        for (name, (v, low, high)), full in zip(result["intervals"].items(), result["r2_full"], strict=True)
    ]
    oracle = result["oracle"]
    out.append(
        f"MIG {result['mig']:.2f} (oracle {oracle['mig']:.2f}), relative gap {result['relative_gap']:.2f} "
        f"({oracle['relative_gap']:.2f}), KSG gap {result['ksg_gap']:.2f} ({oracle['ksg_gap']:.2f})"
    )
    out.append(f"reconstruction R2 {result['reconstruction_r2']:.3f}, RMSE {result['reconstruction_rmse']:.3f} channel sd")
    return [*out, result["note"]] if "note" in result else out


def write_page(
    model: FactorModel, result: Mapping[str, Any], carried: Carried | None, path: Path, overwrite: bool = False
) -> list[Path]:
    """Write the HTML page to ``path`` with its figures beside it; gives all paths, the page first."""
    factors, behaviours = result["factors"], result["behaviours"]
    figures = []
    level = f"{100 * result['level']:.0f} % trial-bootstrap intervals"
    if carried is not None:
        rows = tuple((j.factor, j.verdict, str(j.after), str(j.before), str(j.change), str(j.source)) for j in carried.judged)
        columns = ("factor", "verdict", "R2 after", "R2 before", "change", "R2 on the source day")
        table = Table(columns, rows, f"{carried.trials} trials; {level}. {_HOW} {carried.bar()}.")
        figures.append(
            Shown("carried", _carried_intervals(carried, level), f"What each bundle carries of every factor; {level}.")
        )
        panels = [Matrix("source day", carried.source), Matrix("before", carried.before), Matrix("after", carried.after)]
        caption = (
            "R2 of every behaviour told by every factor, read out of the bundles' latents by lines fitted on the source day."
        )
        figures.append(Shown("carried-matrix", matrices(panels, factors, behaviours), caption))
    else:
        cells = [(n, f"{a:.2f}", f"{b:.2f}") for n, a, b in zip(behaviours, result["diagonal"], result["r2_full"], strict=True)]
        table = Table(
            ("behaviour", "R2 by its factor", "R2 by all factors"), tuple(cells), f"{result['held_out_trials']} held-out trials."
        )
    panels = [Matrix("factors", result["r2"]), Matrix("oracle: the behaviours themselves", result["oracle"]["r2"])]
    caption = (
        "Left: R2 of every behaviour told by every factor alone, on held-out trials. "
        "Right: the same by the behaviours themselves: what "
        "correlated behaviours leave no factor a way around."
    )
    left = matrices(panels[:1], factors, behaviours)
    figures.append(Shown("matrix", left, caption.split(" Right:")[0].removeprefix("Left: ")))
    figures.append(Shown("oracle", matrices(panels[1:], behaviours, behaviours), caption.split("Right: ")[1]))
    figures.append(Shown("over-time", _over_time(model), "Factors and behaviours in held-out trials, in standard deviations."))
    facts = {
        "session": result["session"],
        "behaviours": "; ".join(f"{n} = {c.how} of {', '.join(c.columns)}" for n, c in model.manifest.behaviours.items()),
        "MIG, relative gap, KSG gap": f"{result['mig']:.3f}, {result['relative_gap']:.3f}, {result['ksg_gap']:.3f}",
        "the same of the oracle z = u": ", ".join(f"{result['oracle'][k]:.3f}" for k in ("mig", "relative_gap", "ksg_gap")),
        "reconstruction R2, RMSE": f"{result['reconstruction_r2']:.3f}, {result['reconstruction_rmse']:.3f}",
        "held-out frames": result["frames"],
        "factor model": model.identity,
    } | ({"note": result["note"]} if "note" in result else {})
    word = re.sub(r"[^0-9A-Za-z_-]+", "-", path.stem)
    figures = [replace(f, name=f"{word}_{f.name}") for f in figures]  # two pages in one folder keep their own
    title = f"Factors of {model.manifest.session}"
    lead = " ".join(f"{line}." for line in result.get("lines", ()))
    return write_report(path, title, table, (), figures, facts, lead=lead, overwrite=overwrite)


_HOW = (
    "Readouts are fitted on the source day and frozen. Lost: surely below half of the source day's R2. Weakened: surely less "
    "than before the alignment, by more than 0.05. Free factors have no behaviour to be judged by."
)


def _span(i: Interval) -> Span:
    return Span(i.value, i.low, i.high)


def _carried_intervals(carried: Carried, note: str) -> Any:
    j = carried.judged
    return intervals(
        [f"{x.factor}: {x.verdict}" for x in j],
        [
            ("source day", "day 0", [_span(x.source) for x in j]),
            ("before the alignment", "before", [_span(x.before) for x in j]),
            ("after it", "after", [_span(x.after) for x in j]),
        ],
        note,
    )


def _over_time(model: FactorModel) -> Any:
    trials = model.day.cut(True)
    z, _ = read_factors(model.network, trials.counts[:SHOWN_TRIALS])
    u = [b.astype(np.float64) for b in trials.behaviours[:SHOWN_TRIALS]]
    names = model.day.names
    return over_time(z, u, names, model.manifest.factors[len(names) :], model.manifest.bin_s)
