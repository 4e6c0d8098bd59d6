"""The live system against a rig in this process: faults, an aligner that dies, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import LiveConfig
from bci_align.errors import BundleError, ConfigError, MismatchError, RuntimeFault, StreamError
from bci_align.runtime import watch
from bci_align.runtime.aligner_process import Methods, free_path
from bci_align.runtime.check_config import check_config
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.player import Player
from bci_align.session.types import Session
from bci_align.streams.contract import END, START, Bin, Flags, RigOutlet, TrialEvent

from . import fakes
from .conftest import segments
from .rigs import config_for, kill, poll_until, rig, said
from .wary import WARY

READY_S = 40.0


def send(outlet: RigOutlet, session: Session, first: int, stop: int) -> None:
    for k in range(first, stop):
        outlet.push(Bin(k, 100.0 + (k + 1) * session.bin_s, session.counts[k].astype(np.float32)))


def decisions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def short(days: tuple[Session, Session]) -> Session:
    """The first minute of the later day."""
    s = days[1]
    keep = s.trials.end_s < 50.0
    t = s.trials
    trials = replace(t, start_s=t.start_s[keep], go_s=t.go_s[keep], end_s=t.end_s[keep], success=t.success[keep], target=None)
    return replace(s, counts=s.counts[:1100], kinematics=None, kinematics_names=(), kinematics_units=(), trials=trials)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: replace(s, channels=(*s.channels[:3], "odd one", *s.channels[4:])), r"channel 3: expected label .*'odd one'"),
        (lambda s: replace(s, channels=s.channels[:-2], counts=s.counts[:, :-2]), "expected 24 channels, found 22"),
        (lambda s: replace(s, bin_s=0.02), "expected bins of 50 ms, found 20 ms"),
    ],
    ids=["label", "count", "bin width"],
)
def test_a_stream_of_another_array_is_refused_by_name(
    bundle: Bundle, short: Session, tmp_path: Path, change: Callable[[Session], Session], sentence: str
) -> None:
    config = config_for(bundle, tmp_path, recalibrations=0)
    with rig(config, change(short)), LiveSystem(config) as live:
        with pytest.raises(MismatchError, match=f"stream 'a test rig' and bundle '.*day0' do not belong together: {sentence}"):
            live.wait_ready(READY_S)
        assert not live.decoding


def test_a_stream_that_is_not_there(bundle: Bundle, tmp_path: Path) -> None:
    config = config_for(bundle, tmp_path, recalibrations=0)
    with LiveSystem(config) as live, pytest.raises(StreamError, match=r"within 3 s.*nobody answers"):
        live.wait_ready(READY_S)


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        LiveSystem(LiveConfig(bundle=str(tmp_path / "none")))


@pytest.mark.parametrize("key", ["gate", "align"])
def test_too_few_calibration_trials_are_refused_at_once(bundle: Bundle, tmp_path: Path, key: str) -> None:
    config = config_for(bundle, tmp_path, **{"gate": {"min_trials": 1}} | {key: {"min_trials": 7}})
    with pytest.raises(ConfigError, match=rf"calibration_trials: expected at least {key}.min_trials \(7\), found 6"):
        LiveSystem(config).__enter__()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("moves", "whole", "read-in"),
        ("moves", "affine", "read-in"),
        ("registration", "order", "auto or identity"),
        ("registration", "rotation", "auto or identity"),
    ],
)
def test_alignment_that_cannot_be_swapped_in_is_refused_at_once(
    bundle: Bundle, tmp_path: Path, key: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=rf"align\.{key}: expected {expected}, .* found {value};.*between sessions"):
        LiveSystem(config_for(bundle, tmp_path / "out", align={key: value})).__enter__()
    assert not (tmp_path / "out").exists()
    check_config(config_for(bundle, tmp_path / "out", align={key: value}, recalibrations=0))  # never aligns: no matter
    check_config(config_for(bundle, tmp_path / "out", align={"registration": "identity", "moves": "read-in"}))


def test_ends_by_itself_when_no_bin_comes(bundle: Bundle, short: Session, tmp_path: Path) -> None:
    config = config_for(bundle, tmp_path, recalibrations=0, stale_s=0.5)
    with rig(config, short) as (outlet, _), LiveSystem(config) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        send(outlet, short, 0, 20)
        ended = poll_until(live, said("ended"))[-1]
        assert (ended["why"], ended["bins"]) == ("no bin has come for 0.5 s", 20)
        assert not live.decoding


@pytest.mark.parametrize("kind", ["zmq", "lsl"])
@pytest.mark.parametrize(
    ("value", "hint"), [(None, "no trial so far was marked as successful: send trial_success"), (True, "left out: gap")]
)
def test_a_run_in_which_no_trial_counts_says_why(
    bundle: Bundle, short: Session, tmp_path: Path, kind: str, value: bool | None, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.4)
    config = config_for(bundle, tmp_path, kind)
    with rig(config, short) as (outlet, _), LiveSystem(config, fakes.QUICK) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        said_so: list[dict[str, Any]] = []
        for k in range(0, 1000, 20):  # a trial in every 20 bins: bare ends, or a bin that is no bin
            bad = np.full(len(short.channels), 3e38, np.float32)
            t = 100.0 + k * short.bin_s
            outlet.push(TrialEvent(t + 0.5, START))
            send(outlet, short, k, k + 12)
            outlet.push(Bin(k + 12, t + 13 * short.bin_s, bad if value else short.counts[k].astype(np.float32)))
            outlet.push(TrialEvent(t + 0.8, END, value))
            send(outlet, short, k + 13, k + 20)
            said_so += live.poll(0.0)
            time.sleep(0.04)  # whatever is told meanwhile, the watch looks several times
        said_so += live.poll(0.5) + live.stop()
    sentences = [r["sentence"] for r in said_so if r["report"] == "status"]
    assert any(s.startswith("0 of 6 calibration trials; left out: ") and hint in s for s in sentences), sentences
    assert any("bins with unusable counts" in s for s in sentences) == bool(value)
    assert {r["from"] for r in said_so if r["report"] == "status"} == {"live"}


def play(
    bundle: Bundle, session: Session, out: Path, methods: Methods, act: Callable[[LiveSystem], object]
) -> list[dict[str, Any]]:
    """Play ``session``; ``act`` once the aligner has begun; then the rest of it must still be decoded, bin for bin."""
    config = config_for(bundle, out)
    with rig(config, session) as (outlet, inlet), LiveSystem(config, methods) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        inlet.open(10.0)
        player = Player(session, outlet, live, 60.0)
        player.start()
        try:
            reports = poll_until(live, said("aligning"))
            at = live.decoded()
            act(live)
            reports += poll_until(live, lambda r: said("died")(r) or (live.aligner_pid is not None and live.decoded() > at))
            samples = []
            deadline = time.monotonic() + 30.0
            while len(samples) < session.bins and time.monotonic() < deadline:
                # A busy machine may hold the player up: what the decoder says without a bin is not an answer to one.
                samples += [s for s in inlet.read(0.1) if not s.flags & Flags.STALE]
                reports += live.poll(0.0)
        finally:
            player.stop()
        assert player.error is None
        assert at < session.bins
        assert [s.seq_in for s in samples] == list(range(session.bins))
        assert {s.generation for s in samples} == {0}
        found = np.array([s.values for s in samples])
        assert np.array_equal(found, bundle.pipeline().run(session.counts.astype(np.float32), bundle.read_in))
        return reports + live.stop()


def test_a_killed_aligner_does_not_stop_the_decoding(bundle: Bundle, short: Session, tmp_path: Path) -> None:
    reports = play(bundle, short, tmp_path, fakes.ENDLESS, lambda live: kill(live.aligner_pid))
    died = [(r["who"], r["reason"]) for r in reports if r["report"] == "died"]
    assert died == [("aligner", "its process ended without a word, exit code -9")]
    assert reports[-1]["report"] == "ended"
    assert [(d["decision"], d["who"]) for d in decisions(tmp_path)] == [("died", "aligner")]


def test_an_aligner_with_a_defect_does_not_stop_the_decoding(bundle: Bundle, short: Session, tmp_path: Path) -> None:
    reports = play(bundle, short, tmp_path, fakes.BROKEN, lambda live: None)
    died = [(r["who"], r["reason"]) for r in reports if r["report"] == "died"]
    assert died[0] == ("aligner", "ZeroDivisionError: a defect in the aligner")


def test_an_aligner_that_hangs_does_not_hold_up_the_end(bundle: Bundle, short: Session, tmp_path: Path) -> None:
    reports = play(bundle, short, tmp_path, fakes.ENDLESS, lambda live: None)
    assert not any(r["report"] == "died" for r in reports)
    assert reports[-1]["report"] == "ended"


def test_an_alignment_that_is_ordered_is_made_of_the_trials_held(bundle: Bundle, short: Session, tmp_path: Path) -> None:
    """However few they are, and however little the day has drifted: the operator knows why."""
    config = config_for(bundle, tmp_path, calibration_trials=10**6, drift={"align_from": 1e6})
    with rig(config, short) as (outlet, inlet), LiveSystem(config, WARY) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pytest.raises(RuntimeFault, match="expected trials to align on, found none yet"):
            live.order("align")
        inlet.open(10.0)
        player = Player(short, outlet, live, 60.0)
        player.start()
        rewarded = int(short.trials.success.sum())
        try:
            told = poll_until(live, lambda _: live.status()["trials"]["held"] == rewarded)
            assert not said("aligning")(told)  # there will never be enough for it to begin by itself
            ordered = live.order("align")
            told += poll_until(live, said("verdict"))
        finally:
            player.stop()
        assert player.error is None
        assert ordered["trials"] == rewarded > 1
        begun, verdict = (next(r for r in told if r["report"] == name) for name in ("aligning", "verdict"))
        assert (begun["trials"], verdict["accepted"]) == (rewarded, True)
        poll_until(live, said("warm"))  # it is on its way
        live.stop()
    assert load_bundle(tmp_path / "gen-0001").manifest.generation == 1
    assert "accepted" in [d["decision"] for d in decisions(tmp_path)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


ENDS = {
    "ctrl-c": signal.SIGINT,
    "terminal closed": signal.SIGHUP,
    "told to end": signal.SIGTERM,
    "parent killed": signal.SIGKILL,
}


@pytest.fixture(scope="module")
def runs(
    bundle: Bundle, days: tuple[Session, Session], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run for each of :data:`ENDS`, in a process of its own; a start takes its time, and they take it together."""
    started: dict[str, subprocess.Popen[str]] = {}
    with ExitStack() as stack:
        for name in ENDS:
            config = config_for(bundle, tmp_path_factory.mktemp("run"))
            stack.enter_context(rig(config, days[1]))
            run = subprocess.Popen(
                [sys.executable, "-m", "runtime.command", config.model_dump_json()],
                cwd=Path(__file__).resolve().parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(run)
            stack.callback(run.kill)
            started[name] = run
        yield started


@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_left_of_an_interrupted_run(runs: dict[str, subprocess.Popen[str]], name: str) -> None:
    run, how = runs[name], ENDS[name]
    assert run.stdout is not None
    pids = [int(p) for p in run.stdout.readline().split()]
    assert len(pids) == 2, run.communicate()[1]
    assert len(segments(run.pid)) == 1
    if how in (signal.SIGINT, signal.SIGHUP):
        os.killpg(run.pid, how)  # as a terminal does: to every process at once
    else:
        run.send_signal(how)
    deadline = time.monotonic() + 15.0
    while (any(map(alive, pids)) or segments(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    _, errors = run.communicate(timeout=15)
    assert not any(map(alive, pids))
    assert segments(run.pid) == set()
    if how != signal.SIGKILL:
        assert (run.returncode, errors) == (128 + how, "")


def test_generations_of_earlier_runs_are_left_alone(tmp_path: Path) -> None:
    assert free_path(tmp_path, 1).name == "gen-0001"
    (tmp_path / "gen-0001").mkdir()
    assert free_path(tmp_path, 1).name == "gen-0001.2"
    (tmp_path / "gen-0001.2").mkdir()
    assert free_path(tmp_path, 1).name == "gen-0001.3"
