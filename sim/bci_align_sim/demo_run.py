"""The work behind :mod:`bci_align_sim.demo`: simulate, train, stream, score, report."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bci_align.atomic import write_directory
from bci_align.cli.common import plain, staged_progress
from bci_align.config import LiveConfig
from bci_align.errors import ConfigError
from bci_align.evaluation.replayed import score_replay
from bci_align.report.day import StreamedDay, day_figures
from bci_align.report.figures import Bar
from bci_align.report.page import Decision, Table, write_report
from bci_align.runtime.replay import ReplayResult, replay
from bci_align.session.io import save
from bci_align.session.types import Session
from bci_align.training.train import train_bundle
from bci_align_sim.day import simulate_days
from bci_align_sim.demo_plan import MARKER, Sizes, decision
from bci_align_sim.demo_scores import Row, Trials, score_rows, split

Progress = Callable[[str, int, int], None]


def run(out: Path, seed: int, over: str, speed: float | None, sizes: Sizes) -> dict[str, Any]:
    """Do all of it and write ``out`` (see :func:`bci_align_sim.demo.claim`) whole, or leave it as it was.

    Gives what was found in plain values, ready for JSON.
    """
    started = time.monotonic()
    with write_directory(out, overwrite=True, error=ConfigError) as folder, staged_progress() as progress:
        day0, day_k = simulate_days(seed, sizes.trials, bin_s=sizes.bin_s, channels=sizes.channels)
        save(day0, folder / "day0.h5")
        save(day_k, folder / "dayK.h5")
        bundle = train_bundle(day0, sizes.train, seed, folder / "generation-0", progress)
        with tempfile.TemporaryDirectory(prefix="bci_align_demo_") as work:
            config = LiveConfig(
                bundle=str(bundle.path),
                out=work,
                seed=seed,
                calibration_trials=sizes.calibration,
                align=sizes.align,
                gate=sizes.gate,
                drift=sizes.drift,
            )
            replayed = replay(day_k, config, over, speed, _streaming(progress))
            progress("streaming day K", replayed.bins_in, day_k.bins)
            if replayed.swaps:
                shutil.copytree(replayed.swaps[0]["path"], folder / "generation-1")
            trials = split(day_k, sizes.calibration, replayed)
            rows, day = score_rows(folder, day0, day_k, replayed, trials, seed, Path(work), progress)
            same = score_replay(bundle, day_k, replayed.outputs, replayed.generation, replayed.swaps)["live_minus_offline"]
        result = _result(rows, replayed, day_k, trials) | {
            "seed": seed,
            "over": over,
            "speed": speed,
            "live_minus_offline_sd": same,
            "report": str(out / "report.html"),
        }
        progress("figures", 0, 1)
        _report(folder / "report.html", day0, rows, day, replayed, result)
        progress("figures", 1, 1)
        found: dict[str, Any] = plain(result | {"seconds": round(time.monotonic() - started, 1)})
        (folder / "result.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / MARKER).write_text("".join(f"{f.name}\n" for f in sorted(folder.iterdir())), encoding="utf-8")
    return found


def _streaming(progress: Progress) -> Callable[[dict[str, Any]], None]:
    """Show the replay's reports: one bar for the stream, one line for every decision."""

    def say(text: str) -> None:
        tqdm.write(f"  {text}", file=sys.stderr)

    def hear(report: dict[str, Any]) -> None:
        kind = report["report"]
        if kind == "playing":
            progress("streaming day K", report["done"], report["total"])
        elif kind == "aligning":
            say(f"aligning on {report['trials']} trials in a second process; decoding goes on")
        elif kind == "verdict":
            say(f"gate: {'accepted' if report['accepted'] else 'refused'}, {report['reason']} ({report['seconds']:.1f} s)")
        elif kind == "swapped":
            say(f"generation {report['generation']} swapped in at bin {report['bin']}")

    return hear


def _result(rows: list[Row], replayed: ReplayResult, day_k: Session, trials: Trials) -> dict[str, Any]:
    """Everything that was found, for ``--json``."""
    swap = replayed.swaps[0] if replayed.swaps else None
    verdict = swap["verdict"] if swap else next((r for r in replayed.refusals), None)
    return {
        "scores": [{"name": r.name, "r2": r.r2, "rmse": r.rmse, "trials": r.trials} for r in rows],
        "bins": day_k.bins,
        "bins_out": replayed.bins_out,
        "lost": len(replayed.lost),
        "swap_bin": swap["bin"] if swap else None,
        "verdict": {k: verdict.get(k) for k in ("accepted", "reason", "checks", "seconds")} if verdict else None,
        "notes": list(replayed.notes),
        "calibration_trials": len(trials.calibration),
        "later_trials": len(trials.later),
    }


def _report(path: Path, day0: Session, rows: list[Row], day: StreamedDay, replayed: ReplayResult, result: dict[str, Any]) -> None:
    """The page with its figures."""
    verdict = result["verdict"]
    decisions = []
    if verdict is not None:
        title = "Generation 1" + (f", swapped in at bin {result['swap_bin']}" if result["swap_bin"] is not None else "")
        decisions.append(Decision(title, bool(verdict["accepted"]), verdict["reason"], tuple(verdict["checks"] or ())))
    m = day.source.manifest
    facts = {
        "Subject": f"simulated, {len(m.channels)} channels, seed {result['seed']}",
        "Day 0": f"{len(day0.trials)} trials, {day0.bins} bins of {1e3 * m.bin_s:g} ms",
        "Day K": f"{len(day.session.trials)} trials, {day.session.bins} bins, drifted array",
        "Stream": f"{result['over']}, " + (f"{result['speed']:g} times real time" if result["speed"] else "as fast as it goes"),
        "Lost bins": f"{result['lost']} of {result['bins']}",
        "Live and offline": f"largest difference on any bin {result['live_minus_offline_sd']:.1g} source standard deviations",
        "Calibration": f"{result['calibration_trials']} rewarded trials, no labels",
        "Decoder": m.decoder,
        "Source bundle": day.source.identity,
        "Aligned bundle": day.aligned.identity if day.aligned else "none",
        "Notes": "; ".join(replayed.notes) or "none",
        "Versions": ", ".join(f"{k} {v}" for k, v in m.training["versions"].items()),
    }
    write_report(
        path,
        "Recalibration of a simulated subject, day 0 to day K",
        Table(
            ("Decoding of velocity", "R² (%)", "RMSE (cm/s)", "Trials"),
            tuple((r.name, r.r2, r.rmse, r.trials) for r in rows),
            f"The rows marked 'later' are scored on the same {len(day.later)} rewarded trials of day K. R² pools both outputs, "
            "each in units of its day-0 standard deviation.",
        ),
        decisions,
        day_figures(day, [Bar(r.short, r.r2, r.role) for r in rows if r.role is not None]),
        facts,
        lead=decision(result)[0].upper() + decision(result)[1:] + f". {result['lost']} of {result['bins']} bins were lost.",
    )
