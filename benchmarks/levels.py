"""Ten levels of simulated drift: how much of what labels would gain comes back without them, beside re-normalisation.

Five simulated subjects (48 channels, bins of 50 ms), 140 trials on day 0; on day K 100 rewarded trials calibrate and the later
ones are scored, R2 in per cent. The oracle is refitted on the same calibration trials with their labels. Recovered is
(R2 - none) / (oracle - none), means over subjects first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from bci_align.alignment.erdiff import align
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import load_bundle
from bci_align.cli.common import table
from bci_align.comparison.workers import workers
from bci_align.config import AlignConfig, TrainConfig
from bci_align.evaluation.score import evaluate
from bci_align.session.types import unlabelled
from bci_align.training import train_bundle
from bci_align.training.oracle import supervised
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift
from benchmarks.common import Row, finish, machine, say, spread

LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 11))
SUBJECTS = (520, 521, 522, 523, 524)
"""Seeds that no development has seen."""
DAYS = (140, 180)
CALIBRATION = 100
WHERE_RENORMALISATION_RECOVERS = 0.6
LEAST = 0.85
NAMES = ("none", "re-normalised", "ours", "oracle")


def one_subject(seed: int, levels: tuple[float, ...]) -> list[tuple[float, ...]]:
    """R2 of none, re-normalised, ours, oracle: one tuple per level."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        day0, _ = simulate_days(seed, DAYS, Drift.level(0), 0.05, 48)
        bundle = train_bundle(day0, TrainConfig(), seed, Path(folder) / "day0")
        for level in levels:
            _, day = simulate_days(seed, DAYS, Drift.level(level), 0.05, 48)
            trials = day.rewarded()
            calibration, later = trials[:CALIBRATION], trials[CALIBRATION:]
            block = unlabelled(day, calibration, bundle.manifest.run_in)
            oracle = load_bundle(supervised(bundle, day, calibration, seed, Path(folder) / f"oracle-{level}").path)
            again = replace(bundle, read_in=renormalise(bundle.read_in, block))
            ours = replace(bundle, read_in=align(bundle, block, AlignConfig(), seed).read_in)
            out.append(tuple(float(evaluate(b, day, later)["r2"]) for b in (bundle, again, ours, oracle)))
            say(f"subject {seed}, level {level}: " + ", ".join(f"{n} {v:.1f}" for n, v in zip(NAMES, out[-1], strict=True)))
    return out


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one subject, three levels: shows that it runs, proves less")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument(
        "--levels", type=float, nargs="+", choices=(0.0, *LEVELS), help="these levels alone; 0 is a second day without any drift"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args()
    subjects = SUBJECTS[:1] if args.quick else SUBJECTS
    levels = tuple(args.levels or (LEVELS[1::4] if args.quick else LEVELS))
    with workers(args.jobs) as pool:
        found = np.array(list(pool.map(one_subject, subjects, [levels] * len(subjects))))
    mean = found.mean(0)
    gain = mean[:, 3] - mean[:, 0]
    recovered = (mean[:, 1:3] - mean[:, :1]) / gain[:, None]
    if not args.json:
        rows: list[tuple[str, ...]] = [("level", *NAMES, "re-normalised recovers", "ours recovers")]
        for i, level in enumerate(levels):
            cells = (spread(found[:, i, j].tolist()) for j in range(4))
            rows.append((f"{level:g}", *cells, f"{recovered[i, 0]:.2f}", f"{recovered[i, 1]:.2f}"))
        print(f"{machine()}\n{table(rows)}")
    acceptance = [
        Row(f"level {level:g}: recovered (re-normalised {r[0]:.2f})", float(r[1]), f">= {LEAST}", bool(r[1] >= LEAST))
        for level, r in zip(levels, recovered, strict=True)
        if level in LEVELS and r[0] <= WHERE_RENORMALISATION_RECOVERS
    ]
    return finish({"machine": machine(), "quick": args.quick, "levels": levels, "r2": found.tolist()}, acceptance, args.json)


if __name__ == "__main__":
    sys.exit(main())
