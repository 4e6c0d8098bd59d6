"""A summary as rows of text, for whoever lays them out."""

from __future__ import annotations

import numpy as np

from bci_align.comparison.summary import Row, Summary

Cells = tuple[str, ...]


def title(s: Summary) -> str:
    """Say what was compared on what."""
    channels = (
        "other channels than the source day: rivals and supervised after unit matching" if s.registered else "same channels"
    )
    scored = (
        f"{s.scored} later trials scored" if s.labelled else f"no kinematics: label-free scores of the {s.scored} later trials"
    )
    return f"{s.pair}: {s.calibration} calibration trials, {scored}; {channels}"


def main(s: Summary) -> list[Cells]:
    """One row per method with all unlabelled trials, best first within its kind, and the supervised refits below."""
    top = max((r.trials for r in s.rows if r.kind == "ours"), default=s.calibration)
    shown = [r for r in s.rows if r.trials == top or r.kind == "supervised"]
    if not s.labelled:
        head: Cells = ("method", "prior loss", "KL to source (nats)", "CPU s", "seeds")
        return [
            head,
            *((r.method, _show(r.prior_loss, 4), _show(r.gaussian_kl, 3), _show(r.seconds, 2), _seeds(r)) for r in shown),
        ]
    shown.sort(
        key=lambda r: (r.kind == "supervised", r.kind != "ours", r.trials if r.kind == "supervised" else -(r.mean or -1e9))
    )
    head = (
        "method", "R2 % mean +- sd", "worst seed", "- renorm., worst", "R2/oracle", "recovered", "worth k trials", "prior loss",
        "KL (nats)", "CPU s", "seeds",
    )  # fmt: skip
    return [head, *(_cells(r) for r in shown)]


def curve(s: Summary) -> list[Cells]:
    """R2 (mean over seeds) of every label-free method for each number of unlabelled trials; empty if there is one number."""
    counts = sorted({r.trials for r in s.rows if r.kind != "supervised"})
    if len(counts) < 2 or not s.labelled:
        return []
    names = dict.fromkeys(r.method for r in s.rows if r.kind != "supervised")
    rows = [tuple(_show(r.mean if (r := s.row(name, n)) else None, 1) for n in counts) for name in names]
    return [
        ("R2 % with unlabelled trials", *map(str, counts)),
        *((name, *row) for name, row in zip(names, rows, strict=True)),
    ]


def headlines(s: Summary) -> list[Cells]:
    """The headline numbers with their 95 % intervals, beside the best rival's; empty without kinematics."""
    if not s.headlines:
        return []
    rows: list[Cells] = [("headline [95 %]", "ours", f"best rival: {s.best_rival}", "difference [95 %]")]
    for name, lines in s.headlines.items():
        for h in lines:
            low, high = h.difference_interval
            what = h.name if len(s.headlines) == 1 else f"{name}: {h.name}"
            difference = "-" if h.difference is None else f"{h.difference:+.3g} [{low:+.3g}, {high:+.3g}]"
            rows.append((what, *h.shown, difference))
    return rows


def _cells(r: Row) -> Cells:
    if not r.r2 or r.mean is None:
        spread = worst = "-"
    else:
        spread = f"{r.mean:.1f} +- {np.std(r.r2, ddof=1) if len(r.r2) > 1 else 0.0:.1f}"
        worst = f"{min(r.r2):.1f}"
    gain = "-" if r.worst_gain is None else f"{r.worst_gain:+.1f}"
    share = "-" if r.recovered is None else f"{100 * r.recovered:.0f} %"
    return (
        r.method, spread, worst, gain, _show(r.of_oracle, 3), share, r.worth, _show(r.prior_loss, 4), _show(r.gaussian_kl, 3),
        _show(r.seconds, 2), _seeds(r),
    )  # fmt: skip


def _seeds(r: Row) -> str:
    """How many seeds are in the row, and how many failed."""
    worked = len(r.seeds)
    return f"{worked}" if not r.failed else f"{worked} ({r.failed} failed)"


def _show(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
