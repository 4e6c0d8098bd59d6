"""Generated trials: the claims of GNOCCHI (McCart et al.), and what they are worth to a decoder, beside every baseline.

Claims are measured on the isometric day 0, on a simulated day (a recurrent network that reaches with a two-link arm) and,
without a goal, on the centre-out source day (a spike counts 13 there, so that its spikes say little), codes read off rates alone,
a fifth of the trials and some targets kept out of every training. Retraining is measured on the
isometric day 16: a lagged ridge on counts, fitted on calibration trials with three adjacent targets missing, and with two trials
per target; generated trials are added in the ratio that held-out calibration trials choose, for every method alike, and all later
trials are scored once. "With an earlier day" adds what a user of a chronic array has: day 0, on which every target was
there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from bci_align.augmentation.rivals import PLAIN
from bci_align.cli.common import table
from bci_align.config import AugmentConfig, RetrainConfig
from bci_align.session.types import Session
from bci_align.threads import one_thread
from bci_align_sim.arm_day import record_arm_day, train_controller
from benchmarks import augmentation_claims as claims
from benchmarks import augmentation_retrain as retraining
from benchmarks.common import Row, centerout, finish, isometric, machine, say

SEEDS = 5
CLAIMED = {
    "isometric": (AugmentConfig(before_s=0.2, after_s=1.0, sees_kinematics=False), 1),
    "synthetic": (AugmentConfig(before_s=0.25, after_s=0.8, sees_kinematics=False), 5),
    "centre-out": (AugmentConfig(before_s=0.0, after_s=0.56, sees_kinematics=False), 1),
}
"""Settings and number of held-out targets of each data set."""
ASKED = ("isometric", "synthetic")
"""Data sets on which goals are set."""
REALISM = ("population KL", "correlation RMSE", "ISI mean RMSE", "ISI sd RMSE")
QUICK = {"updates": 60}
PARTS = ("claims", "retraining", "cost")


def spread(values: Sequence[float]) -> str:
    """Mean +- standard deviation over seeds, three digits."""
    v = np.array(values, float)
    return f"{v.mean():.3g} +- {v.std(ddof=1) if len(v) > 1 else 0.0:.2g}"


def run_claims(quick: bool, seeds: int) -> list[claims.Measured]:
    """Measure every claim on every data set."""
    say("a controller learns to reach")
    net = train_controller(0, 40 if quick else 400)
    out = []
    for data, (config, away) in CLAIMED.items():
        if quick:
            config = config.model_copy(update=QUICK)
        for seed in range(seeds):
            if data == "synthetic":
                day = record_arm_day(net, 120 if quick else 300, seed).session
            else:
                day = isometric(0) if data == "isometric" else centerout_places()
            out += claims.measure(data, day, config, away, seed, refit=not quick)
    return out


def centerout_places() -> Session:
    """The centre-out source day with places for targets instead of numbers: where all reaches in a direction end on average."""
    day = centerout("source", "position")
    assert day.kinematics is not None and day.trials.target is not None
    ends = np.array([day.kinematics[day.trial_bins(i)[1] - 1] for i in range(len(day.trials.start_s))])
    known, which = np.unique(day.trials.target[:, 0], return_inverse=True)
    places = np.array([ends[which == k].mean(0, dtype=np.float64) for k in range(len(known))])
    return replace(day, trials=replace(day.trials, target=places[which]))


def claim_table(found: Sequence[claims.Measured], data: str) -> list[tuple[str, ...]]:
    """Every measure of every method on one data set, over seeds."""
    of = [f for f in found if f.data == data]
    methods = list(dict.fromkeys(f.method for f in of))
    names = list(dict.fromkeys(k for f in of for k in f.values))
    out: list[tuple[str, ...]] = [(data, *methods)]
    for name in names:
        cells = [[f.values[name] for f in of if f.method == m and name in f.values] for m in methods]
        shown = name + (" / real's own" if name in REALISM else "")
        out.append((shown, *(spread(c) if c else "-" for c in cells)))
    return out


def claim_rows(found: Sequence[claims.Measured]) -> list[Row]:
    """What the issue asks of codes, navigation, rates and realism."""
    out = []
    for data in dict.fromkeys(f.data for f in found if f.data in ASKED):

        def mean(name: str, method: str = claims.OURS, data: str = data) -> float:
            return float(np.mean([f.values[name] for f in found if f.data == data and f.method == method and name in f.values]))

        for name, least in (("code SNR", 2.0),):
            ratio = mean(name) / mean(name, claims.VAE)
            out.append(Row(f"{data}: {name} over the VAE's", ratio, f">= {least:g}", ratio >= least))
        for name in ("unintended", "cosine"):
            ratio = mean(name) / mean(name, claims.VAE)
            out.append(Row(f"{data}: {name} over the VAE's", ratio, "<= 0.5", ratio <= 0.5))
        slope, line = mean("slope"), mean("linearity")
        out.append(Row(f"{data}: traversal slope", slope, "0.8 to 1.2", 0.8 <= slope <= 1.2))
        out.append(Row(f"{data}: traversal, R2 of linearity", line, ">= 0.95", line >= 0.95))
        error = mean("held-out target error") / mean("held-out target error", claims.VAE)
        out.append(Row(f"{data}: held-out target error over the VAE's", error, "<= 1", error <= 1))
        changes = [f.values["smoothing"] for f in found if f.data == data and "smoothing" in f.values]
        if changes:
            change = abs(float(np.mean(changes)))
            out.append(Row(f"{data}: change of that error with smoothing", change, "< 0.05", change < 0.05))
        less = mean("rate R2") - mean("rate R2", claims.VAE)
        out.append(Row(f"{data}: rate R2, median, minus the VAE's", less, ">= -0.02", less >= -0.02))
        ours, vae = (
            np.mean([f.rate_r2 for f in found if f.data == data and f.method == m], 0) for m in (claims.OURS, claims.VAE)
        )
        share = float(np.mean(ours > vae))
        out.append(
            Row(f"{data}: share of neurons above the VAE's", share, "> 0.5 on real data", share > 0.5 or data != "isometric")
        )
        for name in REALISM:
            ratio = mean(name)
            out.append(Row(f"{data}: {name} over real's own", ratio, "<= 2", ratio <= 2))
    return out


def run_retraining(quick: bool, seeds: int, vae: bool) -> dict[str, list[retraining.Result]]:
    """Both calibrations, every seed."""
    today, earlier = isometric(16), isometric(0)
    config = AugmentConfig().model_copy(update=QUICK) if quick else AugmentConfig()
    out: dict[str, list[retraining.Result]] = {}
    for name, make in (("three targets missing", retraining.missing), ("two trials per target", retraining.few)):
        out[name] = []
        for seed in range(seeds):
            say(f"{name}, seed {seed}")
            out[name] += retraining.compare(make(today, seed), earlier, config, RetrainConfig(), vae)
    return out


def retraining_table(name: str, of: Sequence[retraining.Result]) -> list[tuple[str, ...]]:
    """R2 (%) of every method, over seeds."""
    asked, others = ("missing targets", "other targets") if name.startswith("three") else ("all targets", "")
    out: list[tuple[str, ...]] = [(name, f"R2 %, {asked}", others, "ratio", "kept")]
    for m in dict.fromkeys(r.method for r in of):
        these = [r for r in of if r.method == m]
        kept = [r.yields["kept"] for r in these if "kept" in r.yields]
        out.append(
            (
                m,
                spread([r.asked for r in these]),
                spread([r.others for r in these]) if others else "",
                " ".join(f"{r.ratio:.2g}" for r in these),
                spread(kept) if kept else "-",
            )
        )
    return out


def retraining_rows(found: dict[str, list[retraining.Result]]) -> list[Row]:
    """What the issue asks of retraining."""

    def of(name: str, method: str) -> np.ndarray:
        return np.array([r.asked for r in found[name] if r.method == method]) / 100

    out = []
    name = "three targets missing"
    today = [*PLAIN, "PCA-20 codes", "sequential VAE", retraining.ENCODED]
    earlier = [retraining.EARLIER, retraining.CARRIED]
    for ours, rivals in ((retraining.OURS, today), (retraining.OURS_EARLIER, [*today, *earlier])):
        value = float(of(name, ours).mean())
        best = max((m for m in rivals if len(of(name, m))), key=lambda m: float(of(name, m).mean()))
        out.append(Row(f"{name}: R2 of the missing, {ours}", value, ">= 0.55", value >= 0.55))
        lead = value - float(of(name, best).mean())
        out.append(Row(f"{name}: {ours} above the best rival ({best})", lead, "> 0", lead > 0))
    name = "two trials per target"
    for ours in (retraining.OURS, retraining.OURS_EARLIER):
        gain = of(name, ours) - of(name, retraining.REAL)
        out.append(Row(f"{name}: R2 over real alone, {ours}", float(gain.mean()), ">= 0.02", float(gain.mean()) >= 0.02))
        out.append(Row(f"{name}: the same, worst seed", float(gain.min()), ">= -0.005", float(gain.min()) >= -0.005))
    return out


def run_cost(day: Session, quick: bool) -> list[Row]:
    """CPU seconds on one thread."""
    taken = claims.cost(day, AugmentConfig().model_copy(update=QUICK) if quick else AugmentConfig())
    return [
        Row("training on isometric day 0 (CPU s, one thread)", taken["training"], "<= 600", taken["training"] <= 600),
        Row("1000 trials generated there (CPU s)", taken["1000 trials"], "<= 60", taken["1000 trials"] <= 60),
        Row("the same on a GPU", "not measured", "reported", True),
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and short trainings: shows that it runs, proves nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--skip-vae", action="store_true", help="leave the VAE, which takes longest, out of retraining")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds 0 to N - 1 (default {SEEDS})")
    args = parser.parse_args()
    seeds = 1 if args.quick else args.seeds
    parts = PARTS if args.only is None else (args.only,)
    rows: list[Row] = []
    result: dict[str, object] = {"machine": machine(), "quick": args.quick, "seeds": seeds}
    tables = []
    with one_thread():
        if "retraining" in parts:
            found = run_retraining(args.quick, seeds, not (args.quick or args.skip_vae))
            result["retraining"] = {k: [asdict(r) for r in v] for k, v in found.items()}
            tables += [retraining_table(k, v) for k, v in found.items()]
            rows += retraining_rows(found)
        if "claims" in parts:
            measured = run_claims(args.quick, seeds)
            result["claims"] = [asdict(m) for m in measured]
            tables += [claim_table(measured, data) for data in CLAIMED]
            rows = claim_rows(measured) + rows
        if "cost" in parts:
            rows += run_cost(isometric(0), args.quick)
    if not args.json:
        print(machine() + "".join(f"\n\n{table(t)}" for t in tables))
    return finish(result, rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
