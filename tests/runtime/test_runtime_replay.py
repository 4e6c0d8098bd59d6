"""Replay: a whole day over real streams, through real processes, equal to offline stepping bin for bin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import AlignConfig, GateConfig, LiveConfig, PromotionConfig
from bci_align.errors import ConfigError, MismatchError, SessionError
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.player import script
from bci_align.runtime.replay import ReplayResult, replay
from bci_align.session.types import Session, Trials, unlabelled
from bci_align.streams.contract import END, GO, START, Flags

from . import fakes
from .wary import WARY

TRIALS = 8
GENTLE = GateConfig(
    min_trials=5,
    prior_margin=100.0,
    unsteady=1e6,
    agreement=-1.0,
    halves=0.0,
    information=(0.0, 1e6),
    kl=1e6,
    diversity=0.0,
    spread=(0.0, 100.0),
    most_alike=1.0,
)
"""Lets every candidate through: these tests ask what happens to it, not whether it is any good."""


def config_for(bundle: Bundle, out: Path, **more: Any) -> LiveConfig:
    """A short alignment whose candidate leads as soon as it is warm, and for good."""
    short = AlignConfig(steps=3, batch=4, refine_from=2)
    at_once = PromotionConfig(shadow_bins=0, probation_bins=0)
    base = {"bundle": str(bundle.path), "calibration_trials": TRIALS, "align": short, "gate": GENTLE, "promotion": at_once}
    return LiveConfig.model_validate(base | {"out": str(out), "drift": {"align_from": 0.0}} | more)


def offline(bundle: Bundle, session: Session, result: ReplayResult) -> NDArray[np.float64]:
    """What stepping every generation by itself gives, each from the bin that its state began with."""
    x, pipeline = session.counts.astype(np.float32), bundle.pipeline()
    expected = pipeline.run(x, bundle.read_in)
    for swap in result.swaps:
        begin, first = swap["warm_from_seq"], swap["bin"]
        expected[first:] = pipeline.run(x[begin:], load_bundle(Path(swap["path"])).read_in)[first - begin :]
    return expected


def check(bundle: Bundle, session: Session, result: ReplayResult) -> None:
    """Every bin answered once, every output that of offline stepping, every flag and generation as it should be."""
    assert (result.bins_in, result.bins_out, result.lost) == (session.bins, session.bins, [])
    assert (result.names, result.units) == (bundle.manifest.outputs, bundle.manifest.units)
    assert np.array_equal(result.outputs, offline(bundle, session, result))
    generation = np.zeros(session.bins, np.int64)
    swapped = np.zeros(session.bins, bool)
    for swap in result.swaps:
        generation[swap["bin"] :] = swap["generation"]
        swapped[swap["bin"]] = True
    assert np.array_equal(result.generation, generation)
    assert np.array_equal((result.flags & Flags.SWAPPED) > 0, swapped)
    assert not (result.flags & (Flags.GAP | Flags.BAD_COUNTS)).any()


def inside(session: Session) -> NDArray[np.bool_]:
    flags = np.zeros(session.bins, bool)
    for i in range(len(session.trials)):
        flags[slice(*session.trial_bins(i))] = True
    return flags


@pytest.mark.parametrize("over", ["lsl", "zmq"])
def test_at_full_speed_with_the_real_aligner(over: str, bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    session = days[1]
    heard: list[dict[str, Any]] = []
    result = replay(session, config_for(bundle, tmp_path), over, progress=heard.append)
    check(bundle, session, result)
    assert np.array_equal((result.flags & Flags.IN_TRIAL) > 0, inside(session))
    # The swap comes with the first bin outside a trial after the last calibration trial, at every run.
    stop = session.trial_bins(int(session.rewarded()[TRIALS - 1]))[1]
    first = stop + int(np.argmin(inside(session)[stop:]))
    (swap,) = result.swaps
    assert (swap["bin"], swap["generation"], swap["warm_from_seq"]) == (first, 1, max(first - 400, 0))
    assert result.generations == [tmp_path / "gen-0001"]
    assert (result.refusals, result.notes) == ([], [])
    whole = bundle.pipeline().run(session.counts.astype(np.float32), load_bundle(tmp_path / "gen-0001").read_in)
    assert np.abs(result.outputs - whole)[first:].max() < 1e-4
    made = load_bundle(tmp_path / "gen-0001").manifest
    assert (made.generation, made.parent) == (1, bundle.identity)
    assert made.alignment is not None
    assert made.alignment["stages"][-1]["stage"] == "refinement, 3 steps"
    log = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [d["decision"] for d in log] == ["accepted", "swapped", "committed"]
    assert len(list((tmp_path / "receipts").glob("*.html"))) == 3
    assert log[1]["bin"] == first
    assert {r["report"] for r in heard} >= {"aligning", "verdict", "swapped", "playing"}


def test_two_recalibrations_are_the_same_at_every_run(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    session = days[1]
    found = []
    for n, over in enumerate(("lsl", "zmq")):
        result = replay(session, config_for(bundle, tmp_path / str(n), recalibrations=2), over, methods=fakes.QUICK)
        check(bundle, session, result)
        assert [s["generation"] for s in result.swaps] == [1, 2]
        # What the aligner was given are the offline trials.
        usable = session.rewarded()
        for k, path in enumerate(result.generations):
            cut = unlabelled(session, usable[k * TRIALS : (k + 1) * TRIALS], bundle.manifest.run_in)
            record = load_bundle(path).manifest.alignment
            assert record is not None
            assert record["lengths"] == [len(c) for c in cut.counts]
        found.append(result)
    assert found[0].outputs.tobytes() == found[1].outputs.tobytes()
    assert np.array_equal(found[0].flags, found[1].flags)


def test_shadow_and_probation_beside_the_live_bins(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    """The player waits for a candidate that has to catch up, not for its shadow, which needs bins; every run is the same."""
    session = days[1]
    promotion = PromotionConfig(shadow_bins=50, probation_bins=100)
    result = replay(session, config_for(bundle, tmp_path, promotion=promotion), "zmq", methods=fakes.QUICK)
    check(bundle, session, result)
    stop = session.trial_bins(int(session.rewarded()[TRIALS - 1]))[1] + 50
    between = np.flatnonzero(~inside(session)[stop - 1 :]) + stop - 1
    (swap,) = result.swaps
    assert between[0] <= swap["bin"] <= between[1]
    decoder = [r for r in result.reports if r["from"] == "decoder"]
    faults = [r for r in decoder if r["report"] == "fault_episode"]
    said = [r["report"] for r in decoder if r not in faults]
    assert said[:6] == ["ready", "warm", "shadow", "swapped", "probation", "committed"]
    for r in faults:  # the later day has lost units, and that is all that is wrong with it
        assert r["fault"] == "silent"
        assert not session.counts[r["bin"] - 199 : r["bin"] + 1, r["channels"]].any()
    assert not (result.flags & ~(Flags.IN_TRIAL | Flags.SWAPPED | Flags.CLAMPED | Flags.SILENT)).any()


@pytest.mark.parametrize("over", ["lsl", "zmq"])
def test_at_twenty_times_the_speed(over: str, bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    session = days[1]
    result = replay(session, config_for(bundle, tmp_path), over, speed=20.0, methods=fakes.QUICK)
    check(bundle, session, result)
    (swap,) = result.swaps
    assert not inside(session)[swap["bin"]]
    assert result.notes == []


def test_contiguous_trials_get_their_swap(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    """Every trial ends where the next begins, so that no bin is outside: the swap comes behind the bin that two share."""
    edges = np.arange(10.5, 600.0, 20.0) * days[1].bin_s
    trials = Trials(edges[:-1], np.full(len(edges) - 1, np.nan), edges[1:], np.ones(len(edges) - 1, bool))
    session = Session(days[1].counts[:600], days[1].bin_s, days[1].channels, trials)
    result = replay(session, config_for(bundle, tmp_path), "zmq", methods=fakes.QUICK)
    check(bundle, session, result)
    assert [s["bin"] for s in result.swaps] == [10 + TRIALS * 20 + 1]
    assert result.notes == []


@pytest.mark.parametrize(("align_from", "verdict"), [(1e6, "do not align"), (0.0, "align")])
def test_the_days_drift_is_scored_before_it_is_aligned(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path, align_from: float, verdict: str
) -> None:
    config = config_for(bundle, tmp_path / "out", drift={"align_from": align_from})
    result = replay(days[1], config, "zmq", methods=WARY)
    told = [r for r in result.reports if r["report"] == "drift"]
    assert [r["verdict"] for r in told] == [verdict]
    assert told[0]["score"] == pytest.approx(sum(told[0]["parts"].values())) and told[0]["score"] > 0
    assert len(result.generations) == (verdict == "align")
    assert [r["reason"] for r in result.refusals] == [told[0]["sentence"]] * (verdict == "do not align")
    assert not [r for r in result.reports if r["report"] == "progress"] or verdict == "align"  # nothing was aligned in vain


def test_a_refused_candidate_changes_nothing(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    session = days[1]
    result = replay(session, config_for(bundle, tmp_path, recalibrations=2), "zmq", methods=fakes.REFUSING)
    check(bundle, session, result)
    assert (result.swaps, result.generations) == ([], [])
    assert [(r["generation"], r["reason"]) for r in result.refusals] == [(1, "spread of vx is 9, expected 0.5 to 2")] * 2
    log = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(d["decision"], d["checks"][0]["value"]) for d in log] == [("refused", 9.0)] * 2
    assert {p.name for p in tmp_path.iterdir()} == {"audit.jsonl", "audit.anchor", "committed.json", "receipts"}


def test_an_accepted_candidate_that_gives_nonsense_is_dropped(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    """The gate should never let it through; the decoder is the last to look."""
    session = days[1]
    result = replay(session, config_for(bundle, tmp_path), "zmq", methods=fakes.POISONED)
    check(bundle, session, result)
    assert result.swaps == []
    assert [r["report"] for r in result.refusals] == ["dropped"]


def test_a_recording_that_ends_during_the_alignment_says_so(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    session = days[1]
    result = replay(session, config_for(bundle, tmp_path), "zmq", speed=60.0, methods=fakes.ENDLESS)
    check(bundle, session, result)
    assert result.swaps == []
    assert result.notes == ["the recording ended while generation 1 was still being aligned: no swap"]


def test_faults_come_as_they_are(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    coarse = Session(days[1].counts, 0.1, days[1].channels, days[1].trials)
    with pytest.raises(MismatchError, match="expected bins of 50 ms, found 100 ms"):
        replay(coarse, config_for(bundle, tmp_path), "zmq", methods=fakes.QUICK)
    with pytest.raises(ConfigError, match="speed: expected a positive number, found -1"):
        replay(days[1], config_for(bundle, tmp_path), "zmq", speed=-1.0)
    with pytest.raises(ConfigError, match="rig kind"):
        replay(days[1], config_for(bundle, tmp_path), "smoke signals")


def test_the_script_holds_every_event_before_its_bin() -> None:
    s = fakes.small_session(5)
    per_bin = script(s)
    assert len(per_bin) == s.bins + 1
    events = [e for events in per_bin for e in events]
    assert [e.name for e in events].count(START) == [e.name for e in events].count(END) == len(s.trials)
    assert all(e.name != GO for e in events)  # this session has none
    for i in range(len(s.trials)):
        first, stop = s.trial_bins(i)
        assert any(e.name == START and e.t == s.trials.start_s[i] for e in per_bin[first])
        assert any(e.name == END and e.t == s.trials.end_s[i] and e.value == s.trials.success[i] for e in per_bin[stop - 1])


def test_methods_are_found_by_a_fresh_process() -> None:
    """Spawned processes import functions by name: the standard ones must be importable ones."""
    from bci_align.runtime.aligner_process import standard_methods

    found = standard_methods(("standard",))
    assert isinstance(found, Methods)
    assert found.align.__qualname__ == "align"
    assert type(found.judge).__name__ == "Gates"


def test_a_recording_with_gaps_is_refused(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    session = replace(days[1], breaks=(days[1].trial_bins(1)[1],))
    with pytest.raises(SessionError, match="breaks: expected a recording without gaps to replay, found 1 breaks"):
        replay(session, config_for(bundle, tmp_path / "out"), "zmq")
    assert not (tmp_path / "out").exists()
