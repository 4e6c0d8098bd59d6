"""The spine on the real isometric days: train on day 0, recalibrate to day 16 without labels, replay day 16 live.

Protocol: rewarded trials of day 0 split 80/20 by seed; the first 120 rewarded trials of day 16 calibrate, unlabelled; the other
104 are scored once. R2 in per cent, variance-weighted, outputs in source-day standard deviations. Everything goes through the
installed command line, as a user would run it; the controls are computed beside it on the same trials.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.alignment.start import renormalise
from bci_align.bundle.store import load_bundle
from bci_align.cli.common import table
from bci_align.evaluation.score import evaluate
from bci_align.session import io
from bci_align.session.types import Session, unlabelled
from bci_align.training.oracle import supervised
from benchmarks.common import Row, arguments, data, finish, machine, say, spread

CALIBRATION = 120
SPEED = "10"
MAP = Path(__file__).resolve().parents[1] / "configs" / "import" / "isometric.yaml"


class Failed(Exception):
    """A command that did not end well: its row of the acceptance is not met."""


def bci_align(*words: str | Path) -> dict[str, Any]:
    """Run one command of the installed command line with --json; raises :class:`Failed`."""
    done = subprocess.run(
        [sys.executable, "-m", "bci_align.cli.main", *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"bci-align {words[0]} left with {done.returncode}: {done.stdout.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def one_seed(seed: int, work: Path, day16: Session) -> dict[str, float]:
    """Train, recalibrate and score one seed, with the controls beside it."""
    bundle, aligned = work / f"day0-{seed}", work / f"day16-{seed}"
    started = time.monotonic()
    trained = bci_align("train", work / "day0.h5", "--out", bundle, "--seed", str(seed))
    train_s = time.monotonic() - started
    before = bci_align("evaluate", bundle, work / "day16.h5", "--trials", f"{CALIBRATION}:")["r2"]
    started = time.monotonic()
    bci_align("recalibrate", bundle, work / "day16.h5", "--trials", f":{CALIBRATION}", "--out", aligned, "--seed", str(seed))
    align_s = time.monotonic() - started
    after = bci_align("evaluate", aligned, work / "day16.h5", "--trials", f"{CALIBRATION}:")["r2"]
    source = load_bundle(bundle)
    rewarded = day16.rewarded()
    calibration = unlabelled(day16, rewarded[:CALIBRATION], source.manifest.run_in)
    again = evaluate(replace(source, read_in=renormalise(source.read_in, calibration)), day16, rewarded[CALIBRATION:])["r2"]
    oracle = supervised(source, day16, rewarded[:CALIBRATION], seed, work / f"oracle-{seed}")
    return {
        "seed": seed,
        "validation": trained["validation"]["r2"],
        "none": before,
        "renormalised": again,
        "aligned": after,
        "oracle": evaluate(oracle, day16, rewarded[CALIBRATION:])["r2"],
        "train_s": train_s,
        "recalibrate_s": align_s,
    }


def of_seeds(rows: list[dict[str, float]]) -> list[Row]:
    """Acceptance rows of training and recalibration; without a single seed nothing is met."""

    def mean(column: str) -> float:
        return float(np.mean([r[column] for r in rows])) if rows else float("nan")

    slowest = max((r["train_s"] for r in rows), default=float("nan"))
    worst = min((r["aligned"] - r["renormalised"] for r in rows), default=float("nan"))
    return [
        Row("training time, slowest seed (s)", slowest, "<= 180", slowest <= 180),
        Row("source validation R2, mean of seeds (%)", mean("validation"), ">= 97.0", mean("validation") >= 97.0),
        Row("day 16 after recalibrate, mean of seeds (%)", mean("aligned"), ">= 95.8", mean("aligned") >= 95.8),
        Row("worst seed, aligned minus re-normalised (points)", worst, ">= -0.3", worst >= -0.3),
    ]


def main() -> int:
    """Run the benchmark."""
    args = arguments(__doc__)
    seeds = range(1 if args.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for day in (0, 16):
            bci_align("import", data(f"isometric_day{day}.npz"), "--map", MAP, "--out", work / f"day{day}.h5")
        day16 = io.load(work / "day16.h5")
        rows, replays, failed = [], [], []
        for seed in seeds:
            try:
                rows.append(one_seed(seed, work, day16))
                say(", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()))
            except Failed as e:
                failed.append(Row(f"seed {seed}", str(e), "every command succeeds", False))
        for over in ("lsl", "zmq"):
            words = ("--bundle", work / "day0-0", "--over", over, "--speed", SPEED, "--calibration", str(CALIBRATION))
            try:
                replays.append(bci_align("replay", work / "day16.h5", *words, "--out", work / f"replay-{over}"))
                shown = ("bins_in", "lost", "r2_before", "r2_after")
                say(f"replay over {over}: {', '.join(f'{k} {replays[-1][k]}' for k in shown)}")
            except Failed as e:
                failed.append(Row(f"replay over {over}", str(e), "the command succeeds", False))
    columns = ("validation", "none", "renormalised", "aligned", "oracle", "train_s", "recalibrate_s")
    if not args.json and rows:
        head = ("seed", "day 0 validation", "day 16 none", "re-normalised", "aligned", "oracle", "train s", "recalibrate s")
        lines = [head, *((str(r["seed"]), *(f"{r[c]:.1f}" for c in columns)) for r in rows)]
        print(f"{machine()}\n" + table([*lines, ("mean +- sd", *(spread([r[c] for r in rows]) for c in columns))]))
        keys = (
            "over",
            "speed",
            "bins_in",
            "bins_out",
            "lost",
            "r2_before",
            "r2_after",
            "r2_after_unaligned",
            "live_minus_offline",
        )
        print(
            "\n" + table([keys, *(tuple(f"{r[k]:.3g}" if isinstance(r[k], float) else str(r[k]) for k in keys) for r in replays)])
        )
    acceptance = [*failed, *of_seeds(rows)]
    for r in replays:
        name = f"replay over {r['over']} at speed {SPEED}"
        difference = float("inf") if r["live_minus_offline"] is None else r["live_minus_offline"]  # JSON has no infinity
        acceptance += [
            Row(f"{name}: bins lost", str(r["lost"]), "0", r["lost"] == 0 and r["bins_in"] == day16.bins),
            Row(f"{name}: swaps", str(len(r["swaps"])), "1", len(r["swaps"]) == 1),
            Row(f"{name}: |live - offline| (source SD)", difference, "<= 1e-4", difference <= 1e-4),
        ]
    result = {"machine": machine(), "seeds": rows, "replays": replays, "quick": args.quick}
    return finish(result, acceptance, args.json)


if __name__ == "__main__":
    sys.exit(main())
