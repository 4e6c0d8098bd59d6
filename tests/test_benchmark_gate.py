from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bci_align.alignment.erdiff import Candidate
from bci_align.alignment.gate import Verdict
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import TrainConfig
from bci_align.errors import AlignmentError, Refused
from bci_align.evaluation.score import evaluate
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.training import train_bundle
from bci_align_sim.scenario_days import Plan, SimulatedSubject
from benchmarks.gate import accept, align, decode, renormalised, run, scenarios
from benchmarks.gate_candidates import kept
from benchmarks.gate_report import Outcome, acceptance, per_scenario

SMALL = TrainConfig(epochs=15, prior_epochs=5, prior_width=16, hidden=32, latents=8, min_trials=10)
SUBJECT = SimulatedSubject(901, channels=24, trials=60)
PLANS = [Plan("two trials", "s", 0), Plan("no drift", "s", 0, earlier=True), Plan("drift", "s", 0, 0.6), Plan("noise", "s", 0)]


@dataclass(frozen=True)
class Offer:
    read_in: ReadIn


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:

    return train_bundle(SUBJECT.source, SMALL, 0, tmp_path_factory.mktemp("gate") / "s")


def nothing(bundle: Bundle, trials: UnlabelledTrials, seed: int) -> Offer:
    return Offer(bundle.read_in)


def outcome(maker: str, kind: str, accepted: bool, gain: float | None, fault: str | None = None) -> Outcome:
    r2 = None if gain is None else 50.0 + gain
    return Outcome(Plan(maker, "s", 0), kind, accepted, "", 50.0, r2, 1.0, fault)  # type: ignore[arg-type]


def test_scenarios_end_to_end_in_this_process_and_in_others(bundle: Bundle) -> None:
    heard: list[int] = []
    here = run({"s": bundle}, {"s": SUBJECT}, PLANS, renormalised, accept, 1, lambda done, of: heard.append(done))
    there = run({"s": bundle}, {"s": SUBJECT}, PLANS, renormalised, accept, 2)
    assert heard == [1, 2, 3, 4]
    assert [o.plan for o in here] == [o.plan for o in there] == PLANS
    assert [(o.incumbent, o.candidate, o.accepted) for o in here] == [(o.incumbent, o.candidate, o.accepted) for o in there]
    assert all(o.accepted and o.fault is None for o in here)
    drift = here[2]
    assert drift.gain is not None and drift.gain > 1  # re-normalisation helps on a normal day
    assert here[0].kind == "bad" and here[1].kind == "no drift" and drift.kind == "good"


def test_candidates_are_kept_for_the_same_question_alone(bundle: Bundle, tmp_path: Path) -> None:
    asked = []

    def made(b: Bundle, trials: UnlabelledTrials, seed: int) -> Candidate:
        asked.append(seed)
        return Candidate(renormalise(b.read_in, trials), trials.channels, {}, np.arange(24) if seed else None)

    today, other = (PLANS[i].make({"s": SUBJECT}).calibration for i in (2, 3))
    for seed in (0, 1, 0, 1):
        found = kept(tmp_path, made, bundle, today, seed)
        for name in ("mean", "gain", "weight", "bias"):
            np.testing.assert_array_equal(getattr(found.read_in, name), getattr(renormalise(bundle.read_in, today), name))
        assert (found.matched is None) == (seed == 0)
    assert asked == [0, 1]
    kept(tmp_path, made, bundle, other, 0)  # other trials
    kept(tmp_path, made, replace(bundle, read_in=renormalise(bundle.read_in, other)), today, 0)  # another incumbent
    assert asked == [0, 1, 0, 0]


def test_a_day_without_drift_is_not_aligned(bundle: Bundle) -> None:
    source = bundle.source_trials()
    with pytest.raises(Refused, match="do not align"):
        align(bundle, source, 0)


def test_aligner_and_gate_see_the_incumbent_that_is_scored(bundle: Bundle) -> None:
    seen: list[Bundle] = []

    def watch(b: Bundle, trials: UnlabelledTrials, seed: int) -> Offer:
        assert type(trials) is UnlabelledTrials
        seen.append(b)
        return Offer(b.read_in)

    done = run({"s": bundle}, {"s": SUBJECT}, PLANS[:2], watch, accept, 1)
    assert [o.gain for o in done] == [0.0, 0.0]
    assert seen[0].read_in is bundle.read_in
    earlier = PLANS[1].make({"s": SUBJECT}).earlier
    assert earlier is not None
    np.testing.assert_array_equal(seen[1].read_in.mean, renormalise(bundle.read_in, earlier).mean)


def test_refusals_and_faults_are_told_apart(bundle: Bundle) -> None:
    def too_few(b: Bundle, trials: UnlabelledTrials, seed: int) -> Offer:
        raise AlignmentError("too few")

    def broken(b: Bundle, trials: UnlabelledTrials, seed: int) -> Offer:
        raise ValueError("ours")

    def refuse(b: Bundle, candidate: Offer, trials: UnlabelledTrials) -> Verdict:
        raise Refused("no")

    def of(align: object, judge: object) -> Outcome:
        return run({"s": bundle}, {"s": SUBJECT}, PLANS[:1], align, judge, 1)[0]  # type: ignore[arg-type]

    a, b, c = of(too_few, accept), of(broken, accept), of(nothing, refuse)
    assert (a.accepted, a.candidate, a.reason, a.fault) == (False, None, "too few", None)
    assert (b.accepted, b.fault) == (False, "ValueError: ours") and not acceptance([b])[-1].met
    assert (c.accepted, c.gain, c.reason, c.fault) == (False, 0.0, "no", None)


def test_a_read_in_of_nan_that_is_let_through_is_the_worst(bundle: Bundle) -> None:
    def ruined(b: Bundle, trials: UnlabelledTrials, seed: int) -> Offer:
        return Offer(replace(b.read_in, bias=np.full_like(b.read_in.bias, np.nan)))

    done = run({"s": bundle}, {"s": SUBJECT}, PLANS[:1], ruined, accept, 1)
    assert done[0].gain == -np.inf
    assert {r.name: r.met for r in acceptance(done)}["bad or trivial: accepted and worse by > 1 point"] is False


def test_decoding_what_is_needed_scores_as_decoding_all(bundle: Bundle) -> None:
    day = PLANS[2].make({"s": SUBJECT}).later
    trials = day.rewarded()[[3, 4, 9, 20]]
    assert decode(bundle, bundle.read_in, day, trials) == pytest.approx(evaluate(bundle, day, trials)["r2"], abs=0.5)
    first = day.rewarded()[:2]  # nothing before them to settle on: the very same decoding
    assert decode(bundle, bundle.read_in, day, first) == pytest.approx(evaluate(bundle, day, first)["r2"], abs=1e-9)


def test_acceptance_counts_harm_misses_and_what_was_truly_good() -> None:
    bad = [outcome("noise", "bad", False, -50.0)] * 199 + [outcome("no drift", "no drift", True, -0.9)]
    good = [outcome("drift", "good", True, 5.0)] * 54 + [outcome("drift", "good", False, 5.0)] * 6
    refused_rightly = [outcome("drift", "good", False, -3.0)] * 20
    assert all(r.met for r in acceptance([*bad, *good, *refused_rightly]))
    rows = {r.name: r for r in acceptance([*bad, *good, outcome("drift", "good", False, None)])}
    share = next(r for name, r in rows.items() if name.startswith("good accepted"))
    assert share.value == pytest.approx(100 * 54 / 61) and not share.met  # no candidate is a miss
    worse = [r.met for r in acceptance([*bad, outcome("noise", "bad", True, -1.1), *good])]
    assert worse == [True, True, False, True, True]
    assert [r.met for r in acceptance([*bad[1:], *good])] == [False, True, True, True, True]
    assert [r.met for r in acceptance([*bad, *good[1:], outcome("drift", "good", True, -2.0)])] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not all(r.met for r in acceptance([]))


def test_the_table_counts_per_scenario() -> None:
    of = [
        outcome("noise", "bad", True, -2.0), outcome("noise", "bad", False, -9.0), outcome("noise", "bad", False, 1.5),
        outcome("noise", "bad", False, None), outcome("drift", "good", True, 4.0),
    ]  # fmt: skip
    head, *rows = per_scenario(of)
    named = {r[0]: dict(zip(head, r, strict=True)) for r in rows}
    noise = named["noise"]
    assert (noise["n"], noise["no candidate"], noise["accepted"]) == ("4", "1", "1")
    assert noise["accepted, worse by > 1"] == "1" and noise["worst accepted"] == "-2.00"
    assert noise["refused, better by > 1"] == "1" and noise["worse by > 1 without a gate"] == "2"
    assert named["all: bad"]["n"] == "4" and named["all: good"]["n"] == "1" and "all: no drift" not in named


def test_the_development_set_has_no_subject_of_the_benchmark() -> None:
    subjects, plans = scenarios(development=True, quick=False)
    assert {p.subject for p in plans} == set(subjects) == {"100", "101", "102", "103"}
    quick, few = scenarios(development=False, quick=True)
    assert set(quick) == {"100"} and len(few) < 25
