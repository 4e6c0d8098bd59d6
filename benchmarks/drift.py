"""The drift score beside the true loss of R2: does it know, without labels, when a day is worth aligning?

The gate's subjects, which no development has seen: four simulated ones, eleven levels of drift and two days of each; every day
is scored under the source day's read-in and under one re-normalised on 30 trials of a day half as worn. The true loss is the
R2 (%) of days without drift minus that of 40 later trials. The recorded days are the isometric pair: blocks of trials of day 0
that training left out, and of day 16, whose own R2 is taken. Spearman's correlation is of all days; Pearson's of losses up to 100
points, beyond which a decoder can be no more useless.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bci_align.alignment.drift_score import score
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.cli.common import table
from bci_align.comparison.workers import workers
from bci_align.config import TrainConfig
from bci_align.session.types import Session, unlabelled
from bci_align_sim.scenario_days import RecordedSubject, SimulatedSubject, Subject
from bci_align_sim.scenarios import MAKERS
from benchmarks.common import Row, finish, machine, say, spread
from benchmarks.gate import QUICK, decode, scenarios, train

LEVELS = tuple(round(0.1 * i, 1) for i in range(11))
DAYS = 2
"""Days of each level."""
FIRST = 7000
"""Number of the first of them: no scenario of the gate has it."""
STILL = "isometric, day 0, held out"
BLOCK = 20
"""Rewarded trials of a recorded block, which are scored without labels and whose R2 is taken."""
MOST_LOSS = 100.0
NOTICED = 5.0
"""Points of R2 that a day must have lost to count as one that should be aligned."""
LEAST_CORRELATION, LEAST_SHARE = 0.8, 90.0


@dataclass(frozen=True)
class Found:
    """One day: whose, its ``level`` of drift (None: recorded), which read-in decoded it, its score and true R2 ``loss``."""

    subject: str
    day: str
    level: float | None
    read_in: str
    value: float
    verdict: str
    r2: float
    loss: float = np.nan


def simulated(name: str, subject: SimulatedSubject, bundle: Bundle, quick: bool) -> list[Found]:
    """Every day of one simulated subject."""
    out = []
    levels, days = (LEVELS[::5], 1) if quick else (LEVELS, DAYS)
    for level in levels:
        for k in range(days):
            m = subject.material(MAKERS["drift"], FIRST + k, level, True)
            assert m.earlier is not None
            trials = unlabelled(m.target, m.calibration, m.run_in)
            for which, read_in in (("source day's", bundle.read_in), ("earlier", renormalise(bundle.read_in, m.earlier))):
                found = score(bundle, read_in, trials)
                r2 = decode(bundle, read_in, m.target, m.later)
                out.append(Found(name, f"{level:g}/{k}", level, which, found.value, found.verdict, r2))
        say(f"subject {name}, level {level:g}: " + ", ".join(f"{f.value:.2f} ({f.r2:.1f})" for f in out[-2 * days :]))
    still = np.mean([f.r2 for f in out if f.level == 0])
    return [replace(f, loss=float(still - f.r2)) for f in out]


def recorded(name: str, subject: RecordedSubject, bundle: Bundle) -> list[Found]:
    """Blocks of the recorded pair, each decoded by the source day's read-in and by one re-normalised on the block before."""
    out = _blocks(name, bundle, subject.source, subject.held_out, STILL)
    out += _blocks(name, bundle, subject.target, subject.target.rewarded(), "isometric, day 16")
    still = np.mean([f.r2 for f in out if f.day == STILL])
    return [replace(f, loss=float(still - f.r2)) for f in out]


def _blocks(name: str, bundle: Bundle, session: Session, trials: NDArray[np.intp], day: str) -> list[Found]:
    out, before = [], None
    for i in range(0, len(trials) - BLOCK + 1, BLOCK):
        block = trials[i : i + BLOCK]
        today = unlabelled(session, block, bundle.manifest.run_in)
        for which, read_in in (("source day's", bundle.read_in), ("block before", before)):
            if read_in is not None:
                found, r2 = score(bundle, read_in, today), decode(bundle, read_in, session, block)
                out.append(Found(name, day, None, which, found.value, found.verdict, r2))
        before = renormalise(bundle.read_in, today)
    say(f"{day}: " + ", ".join(f"{f.value:.2f} ({f.r2:.1f})" for f in out))
    return out


def _days(name: str, subject: Subject, bundle: Bundle, quick: bool) -> list[Found]:
    if isinstance(subject, SimulatedSubject):
        return simulated(name, subject, bundle, quick)
    assert isinstance(subject, RecordedSubject)
    return recorded(name, subject, bundle)


def correlations(of: Sequence[Found]) -> tuple[float, float]:
    """Spearman's and Pearson's correlation of score and true loss."""
    value, loss = np.array([f.value for f in of]), np.array([f.loss for f in of])
    return float(stats.spearmanr(value, loss)[0]), float(stats.pearsonr(value, np.minimum(loss, MOST_LOSS))[0])


def rows(of: Sequence[Found]) -> list[tuple[str, ...]]:
    """The table: one row for every level and read-in."""
    out: list[tuple[str, ...]] = [("days", "read-in", "n", "R2 lost", "drift score", "'align'")]
    for day, read_in in dict.fromkeys((_kind(f), f.read_in) for f in of):
        these = [f for f in of if (_kind(f), f.read_in) == (day, read_in)]
        share = f"{sum(f.verdict == 'align' for f in these)} of {len(these)}"
        out.append((day, read_in, str(len(these)), spread([f.loss for f in these]), spread([f.value for f in these]), share))
    return out


def _kind(f: Found) -> str:
    return f.day if f.level is None else f"simulated, level {f.level:g}"


def acceptance(of: Sequence[Found]) -> list[Row]:
    """What the score is asked for: it follows the loss, leaves days without drift alone, and notices the others."""
    simulated = [f for f in of if f.level is not None]
    per_subject = [correlations([f for f in simulated if f.subject == s])[0] for s in dict.fromkeys(f.subject for f in simulated)]
    spearman, pearson = correlations(simulated)
    out = [
        Row(
            "simulated days: Spearman's correlation of score and R2 lost",
            spearman,
            f">= {LEAST_CORRELATION}",
            spearman >= LEAST_CORRELATION,
        ),
        Row(
            "the same, subject by subject, least",
            min(per_subject),
            f">= {LEAST_CORRELATION}",
            min(per_subject) >= LEAST_CORRELATION,
        ),
        Row("simulated days: Pearson's, of losses up to 100 points", pearson, "reported", True),
    ]
    pair = [f for f in of if f.level is None]
    if pair:
        spearman, pearson = correlations(pair)
        out.append(Row("isometric blocks: Spearman's", spearman, f">= {LEAST_CORRELATION}", spearman >= LEAST_CORRELATION))
        out.append(Row("isometric blocks: Pearson's", pearson, "reported", True))
    still = [f for f in of if f.level == 0 or f.day == STILL]
    moved = [f for f in of if f.loss > NOTICED]
    for name, these, verdict in (
        ("days without drift: 'do not align' (%)", still, "do not align"),
        (f"days that lost more than {NOTICED:g} points: 'align' (%)", moved, "align"),
    ):
        share = 100 * sum(f.verdict == verdict for f in these) / len(these) if these else np.nan
        out.append(Row(f"{name}, of {len(these)}", share, f">= {LEAST_SHARE:g}", share >= LEAST_SHARE))
    return out


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one subject, three levels: shows that it runs, proves less")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--bundles", type=Path, help="keep the bundles in this directory and take them from there")
    args = parser.parse_args()
    subjects, _ = scenarios(development=False, quick=args.quick)
    with tempfile.TemporaryDirectory() as folder:
        bundles = train(subjects, QUICK if args.quick else TrainConfig(), args.bundles or Path(folder), args.jobs)
        with workers(args.jobs) as pool:
            of = [pool.submit(_days, name, s, bundles[name], args.quick) for name, s in subjects.items()]
            found = [f for future in of for f in future.result()]
    if not args.json:
        print(f"{machine()}\n{table(rows(found))}")
    return finish({"machine": machine(), "quick": args.quick, "days": [asdict(f) for f in found]}, acceptance(found), args.json)


if __name__ == "__main__":
    sys.exit(main())
