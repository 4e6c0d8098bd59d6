"""The gate on scenarios, most of them bad: what it lets through, what that costs, and what it refuses in vain.

Aligner and gate see a scenario's calibration trials without labels. Afterwards the candidate and the incumbent (generation 0, or
in a third of the scenarios an earlier generation) are scored on its later trials, R2 in per cent. Simulated subjects have 48
channels and bins of 50 ms and are trained on a day of 140 trials; the recorded days are the isometric pair. With --development
the simulated subjects are others and no recorded day is among them: there thresholds are chosen, never on those reported. A day
whose drift score says 'do not align' is not aligned and has no candidate. A good scenario counts as good only if the candidate
decodes better than the incumbent, or if there was no candidate.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment import erdiff, gate
from bci_align.alignment.drift_score import score
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.cli.common import table
from bci_align.comparison.workers import workers
from bci_align.config import AlignConfig, DriftConfig, GateConfig, TrainConfig
from bci_align.errors import BciAlignError, Refused
from bci_align.evaluation.score import score_outputs
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials
from bci_align.training import train_bundle
from bci_align.training.train import source_split
from bci_align_sim.scenario_days import (
    Plan,
    RecordedSubject,
    SimulatedSubject,
    Subject,
    recorded_plans,
    simulated_plans,
    subject_seeds,
)
from benchmarks.common import finish, isometric, machine, say
from benchmarks.gate_candidates import kept
from benchmarks.gate_report import POINT, Outcome, acceptance, harmful, per_scenario

SETTLE = 40
"""Bins decoded before each scored stretch: live, the state would have been settled for long."""
QUICK = TrainConfig(epochs=30, prior_epochs=20)
SEED = 0
"""Of the bundles and of every alignment."""


class Offered(Protocol):
    """What an aligner gives back."""

    @property
    def read_in(self) -> ReadIn: ...


class Judged(Protocol):
    """What a gate gives back."""

    @property
    def accepted(self) -> bool: ...

    @property
    def reason(self) -> str: ...


Align = Callable[[Bundle, UnlabelledTrials, int], Offered]
Judge = Callable[[Bundle, Any, UnlabelledTrials], Judged]


def align(bundle: Bundle, trials: UnlabelledTrials, seed: int) -> erdiff.Candidate:
    """Ours, as it comes. ``bundle`` holds the incumbent's read-in. Raises :class:`Refused` for a day not worth aligning."""
    found = score(bundle, bundle.read_in, trials, DriftConfig().align_from)
    if found.verdict == "do not align":
        raise Refused(found.sentence)
    return erdiff.align(bundle, trials, AlignConfig(), seed)


def judge(bundle: Bundle, candidate: erdiff.Candidate, trials: UnlabelledTrials) -> gate.Verdict:
    """Ours, as it comes."""
    return gate.judge(bundle, bundle.read_in, candidate.read_in, trials, GateConfig(), candidate.matched, candidate.core)


@dataclass(frozen=True)
class Control:
    """What :func:`renormalised` offers."""

    read_in: ReadIn


def renormalised(bundle: Bundle, trials: UnlabelledTrials, seed: int) -> Control:
    """A control: per-channel re-normalisation."""
    return Control(renormalise(bundle.read_in, trials))


def accept(bundle: Bundle, candidate: Offered, trials: UnlabelledTrials) -> gate.Verdict:
    """A control: no gate at all."""
    return gate.Verdict(True, "no gate", ())


def run(
    bundles: Mapping[str, Bundle],
    subjects: Mapping[str, Subject],
    scenarios: Sequence[Plan],
    align: Align,
    judge: Judge,
    jobs: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run every scenario with its subject's bundle; outcomes in the order of ``scenarios``.

    ``align`` and ``judge`` are functions of modules unless ``jobs`` is 1, which runs in this process. Either may raise a
    :class:`BciAlignError`, which counts as a refusal.
    """
    context = (bundles, subjects, align, judge)
    done: dict[int, Outcome] = {}
    if jobs == 1:
        _begin(*context)
        for i, plan in enumerate(scenarios):
            done[i] = _one(plan)
            if progress:
                progress(len(done), len(scenarios))
        return list(done.values())
    with workers(jobs, _begin, context) as pool:
        futures = {pool.submit(_one, plan): i for i, plan in enumerate(scenarios)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            if progress:
                progress(len(done), len(scenarios))
    return [done[i] for i in range(len(scenarios))]


def decode(bundle: Bundle, read_in: ReadIn, session: Session, trials: NDArray[np.intp]) -> float:
    """R2 (%) of ``trials`` (indices), decoding nothing but them and ``SETTLE`` bins before."""
    pipeline = bundle.pipeline()
    outputs = np.full((session.bins, len(pipeline.scale)), np.nan)
    end = 0
    stretches: list[tuple[int, int]] = []
    for first, stop in sorted(session.trial_bins(int(i)) for i in trials):
        begin = max(first - SETTLE, session.stretch_start(first))
        if stretches and begin <= end:
            begin = stretches.pop()[0]
        stretches.append((begin, stop))
        end = stop
    for begin, stop in stretches:
        outputs[begin:stop] = pipeline.run(session.counts[begin:stop].astype(np.float32), read_in)
    return float(score_outputs(bundle, session, trials, outputs)["r2"])


_context: tuple[Mapping[str, Bundle], Mapping[str, Subject], Align, Judge]


def _begin(*context: Any) -> None:
    """Keep what all scenarios share, once per process."""
    global _context
    _context = context


def _one(plan: Plan) -> Outcome:
    bundles, subjects, align, judge = _context
    scenario = plan.make(subjects)
    bundle = bundles[plan.subject]
    if scenario.earlier is not None:
        bundle = replace(bundle, read_in=renormalise(bundle.read_in, scenario.earlier))
    incumbent = decode(bundle, bundle.read_in, scenario.later, scenario.later_trials)
    candidate: Offered | None = None
    accepted, fault, started = False, None, time.process_time()
    try:
        candidate = align(bundle, scenario.calibration, SEED)
        verdict = judge(bundle, candidate, scenario.calibration)
        accepted, reason = verdict.accepted, verdict.reason
    except BciAlignError as e:
        reason = str(e)
    except Exception as e:  # a defect of ours: told in its own row, and the other scenarios go on
        reason = fault = f"{type(e).__name__}: {e}"
    seconds = time.process_time() - started
    r2 = None
    if candidate is not None and candidate.read_in.finite():
        r2 = decode(bundle, candidate.read_in, scenario.later, scenario.later_trials)
    elif candidate is not None and accepted:
        r2 = -np.inf  # nothing is worse than a read-in of NaN that is let through
    return Outcome(plan, scenario.kind, accepted, reason, incumbent, r2, seconds, fault)


def train(subjects: Mapping[str, Subject], config: TrainConfig, folder: Path, jobs: int) -> dict[str, Bundle]:
    """One bundle per subject, in ``folder``; those that lie there already are taken if they were trained just so."""
    with workers(jobs) as pool:
        futures = {name: pool.submit(_train, s, config, folder / name) for name, s in subjects.items()}
        return {name: load_bundle(f.result()) for name, f in futures.items()}


def _train(subject: Subject, config: TrainConfig, path: Path) -> Path:
    source = subject.source
    if not path.exists():
        return train_bundle(source, config, SEED, path).path
    trained = load_bundle(path).manifest.training
    if (trained["counts_sha256"], trained["config"]) != (source.fingerprint(), config.model_dump(mode="json")):
        raise BciAlignError(f"{path}: expected the bundle of this subject and configuration, found one trained otherwise")
    return path


def scenarios(development: bool, quick: bool) -> tuple[dict[str, Subject], list[Plan]]:
    """Subjects and plans of the benchmark, or of the development set; quick: one subject of the latter, one scenario each.

    A quick run is looked at often, so none of the reported subjects is in it.
    """
    simulated = {str(s): SimulatedSubject(s) for s in subject_seeds(development or quick)[: 1 if quick else None]}
    plans = simulated_plans(list(simulated), *((1, 3) if quick else (3, 12)))
    if development or quick:
        return dict(simulated), plans
    day0 = isometric(0)
    held_out = source_split(day0, TrainConfig().validation, SEED)[1]
    recorded = {"isometric": RecordedSubject(day0, isometric(16), held_out)}
    return {**recorded, **simulated}, [*recorded_plans("isometric"), *plans]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one development subject, few scenarios: shows that it runs, proves less"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    parser.add_argument("--development", action="store_true", help="the subjects on which thresholds are chosen")
    parser.add_argument("--control", action="store_true", help="re-normalisation without a gate in place of ours")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--bundles", type=Path, help="keep the bundles in this directory and take them from there")
    parser.add_argument("--candidates", type=Path, help="keep the candidates in this directory and take them from there")
    args = parser.parse_args()
    subjects, plans = scenarios(args.development, args.quick)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bundles = train(subjects, QUICK if args.quick else TrainConfig(), args.bundles or Path(folder), args.jobs)
        say(f"{len(bundles)} bundles after {time.monotonic() - started:.0f} s")
        maker: Align = partial(kept, args.candidates, align) if args.candidates else align
        ours: tuple[Align, Judge] = (renormalised, accept) if args.control else (maker, judge)
        outcomes = run(bundles, subjects, plans, *ours, args.jobs, _tell)
    if not args.json:
        seconds = np.mean([o.seconds for o in outcomes])
        print(f"{machine()}; {time.monotonic() - started:.0f} s in all, {seconds:.1f} CPU s per scenario for alignment and gate")
        print(table(per_scenario(outcomes)))
        for o in [*harmful(outcomes), *(o for o in outcomes if not o.accepted and (o.gain or 0) > POINT)]:
            print(f"{'HARMFUL' if o.accepted else 'missed'}: {o.plan}: {o.gain:+.2f} from {o.incumbent:.1f}: {o.reason}")
    result = {
        "machine": machine(), "quick": args.quick, "development": args.development, "control": args.control,
        "outcomes": [asdict(o) | {"gain": o.gain} for o in outcomes],
    }  # fmt: skip
    return finish(result, acceptance(outcomes, args.quick or args.development), args.json)


def _tell(done: int, of: int) -> None:
    if done % 10 == 0 or done == of:
        say(f"{done} of {of} scenarios")


if __name__ == "__main__":
    sys.exit(main())
