"""The page of one replay: what was decoded before and after the swap, and why the swap was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.report.day import Floats, StreamedDay, day_figures
from bci_align.report.figures import Bar
from bci_align.report.page import Decision, Table, write_report
from bci_align.session.types import Session


def report_replay(
    path: Path,
    source: Bundle,
    session: Session,
    outputs: Floats,
    calibration: int,
    swaps: list[dict[str, Any]],
    refusals: list[dict[str, Any]],
    found: dict[str, Any],
) -> None:
    """Write the page and its figures; an older page of the same name is replaced.

    ``outputs`` (T, K) live, physical units; ``swaps`` and ``refusals`` as the replay gave them, with the gate's verdicts;
    ``found`` is what ``bci-align replay --json`` prints. The session must have kinematics.
    """
    counts = session.counts.astype(np.float32)
    rewarded = session.rewarded()
    swap = swaps[0]["bin"] if swaps else None
    later = np.array([i for i in rewarded if swap is not None and session.trial_bins(int(i))[0] >= swap], np.intp)
    day = StreamedDay(
        None,
        source,
        session,
        outputs,
        source.pipeline().run(counts, source.read_in),
        rewarded[:calibration] if swaps or refusals else rewarded[:0],
        later,
        load_bundle(Path(swaps[0]["path"])) if swaps else None,
        swap,
    )
    rows = [
        ("before the swap, live", found["r2_before"], found["trials_before"]),
        ("after the swap, live", found["r2_after"], found["trials_after"]),
        ("the same later trials, not aligned (offline)", found["r2_after_unaligned"], found["trials_after"]),
    ]
    bars = []
    if found["r2_after"] is not None:
        bars.append(Bar("not aligned (offline)", found["r2_after_unaligned"], "before"))
        bars.append(Bar("after the swap, live", found["r2_after"], "after"))
    decisions = [
        Decision(
            f"Generation {s['generation']}, swapped in at bin {s['bin']}",
            True,
            s["verdict"]["reason"],
            tuple(s["verdict"]["checks"]),
        )
        for s in swaps
    ]
    decisions += [Decision(f"Generation {r['generation']}", False, r["reason"], tuple(r.get("checks") or ())) for r in refusals]
    m = source.manifest
    write_report(
        path,
        f"Replay of {session.name}",
        Table(("Decoding", "R² (%)", "Trials"), tuple(rows), "R² pools the outputs, each in source-day standard deviations."),
        decisions,
        day_figures(day, bars),
        {
            "Session": f"{session.name}, {session.bins} bins of {1e3 * session.bin_s:g} ms, {len(session.channels)} channels",
            "Stream": f"{found['over']} at speed {found['speed']}",
            "Lost bins": f"{found['lost']} of {found['bins_in']}",
            "Live and offline": f"largest difference on any bin {found['live_minus_offline']:.1g} source standard deviations",
            "Calibration": f"the first {calibration} rewarded trials, no labels",
            "Outputs": ", ".join(f"{n} ({u})" for n, u in zip(m.outputs, m.units, strict=True)),
            "Source bundle": source.identity,
            "Notes": "; ".join(found["notes"]) or "none",
        },
        lead=f"{len(swaps)} swap(s), {found['lost']} of {found['bins_in']} bins lost.",
        overwrite=True,
    )
