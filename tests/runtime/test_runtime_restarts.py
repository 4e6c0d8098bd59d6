"""Processes that are killed, stopped and broken with real signals and real files: who takes over, and what the rig hears."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.errors import RuntimeFault
from bci_align.runtime import audit, committed
from bci_align.runtime.live import LiveSystem
from bci_align.session.types import Session
from bci_align.streams.contract import Flags

from . import fakes
from .rigs import READY_S, Pace, config_for, kill, pace, poll_until, rig, said

AT_ONCE = {"shadow_bins": 0, "probation_bins": 0}


def again_at(live: LiveSystem, pid: int) -> None:
    """Wait until another process than ``pid`` decodes."""
    at = live.decoded()
    poll_until(live, lambda _: live.decoder_pid not in (None, pid) and live.decoded() > at + 3)


def flags_of(thread: Pace) -> list[Flags]:
    return [s.flags for _, s in thread.samples]


@pytest.mark.parametrize("kind", ["zmq", "lsl"])
def test_the_standby_takes_over_from_a_decoder_that_dies_or_hangs(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path, kind: str
) -> None:
    config = config_for(bundle, tmp_path, kind, recalibrations=0, supervisor={"standby": True})
    with rig(config, days[1]) as (outlet, inlet), LiveSystem(config) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pace(days[1], outlet, inlet) as thread:
            poll_until(live, lambda _: live.standby_pid is not None)
            second = live.standby_pid
            ordered = live.order("freeze")["bin"]
            again_at(live, kill(live.decoder_pid))
            assert live.decoder_pid == second
            poll_until(live, lambda _: live.standby_pid is not None)
            again_at(live, kill(second, signal.SIGSTOP))
            # An LSL inlet looks for a new outlet in its own time: the rig hears later than the decoder decodes.
            poll_until(live, lambda _: sum(s.seq_in > ordered for _, s in thread.samples) > 5)
            frozen = [s for _, s in thread.samples if s.seq_in > ordered]
            live.order("resume")
            at = len(thread.samples)
            poll_until(live, lambda _: len(thread.samples) > at + 10)
        time.sleep(0.5)  # no bin is under way any more
        status = live.status()
        assert status["processes"]["decoder"] | {"pid": 0} == {"state": "up", "pid": 0, "restarts": 2, "down": ""}
        # Every bin was decoded or is counted as lost; none twice.
        assert status["bins"] + status["lost"] == live.decoded() == live.counters()["bins"] + live.counters()["gaps"]
    assert status["episodes"]["RESTARTED"] == 2
    assert not any(s.values.any() for s in frozen)
    assert not thread.samples[-1][1].flags & Flags.FROZEN
    died = [e.content for e in audit.verify(tmp_path).entries if e.decision == "died"]
    assert [(d["who"], d["again_s"]) for d in died] == [("decoder", 0.0), ("decoder", 0.5)]
    assert "exit code -9" in died[0]["reason"]
    assert died[1]["reason"] == "it gave no sign of life for 1 s and was killed"


def test_when_nobody_may_decode_any_more_the_run_ends_with_zero(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    config = config_for(bundle, tmp_path, recalibrations=0, supervisor={"standby": False, "restarts": 0})
    with rig(config, days[1]) as (outlet, inlet), LiveSystem(config) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pace(days[1], outlet, inlet) as thread:
            poll_until(live, lambda _: live.decoded() > 10 and len(thread.samples) > 3)
            kill(live.decoder_pid)
            with pytest.raises(
                RuntimeFault, match=r"^the decoder died once; the last time, .* code -9; zero velocity was published$"
            ):
                poll_until(live, lambda _: False)
        assert not live.decoding
    last = thread.samples[-1][1]
    assert last.flags == Flags.FAILED
    assert not last.values.any()


def test_a_run_that_is_stopped_while_its_decoder_waits_to_be_replaced_ends(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    config = config_for(bundle, tmp_path, recalibrations=0, supervisor={"standby": False, "back_off_s": 60.0})
    with rig(config, days[1]), LiveSystem(config) as live:
        for again in (0.0, 60.0):
            poll_until(live, lambda _: live.status()["phase"] == "DECODING" and live.decoder_pid is not None)
            kill(live.decoder_pid)
            poll_until(live, said("died", again_s=again))
            if not again:
                poll_until(live, said("ready"))
        live.order("stop")
        live.poll(1.0)
        assert not live.decoding


def test_a_bundle_that_does_not_load_at_a_restart_means_zero_until_stopped(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    copy = tmp_path / "day0"
    copy.mkdir()
    for file in bundle.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = config_for(load_bundle(copy), tmp_path / "out", recalibrations=0)
    with rig(config, days[1]) as (outlet, inlet), LiveSystem(config) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pace(days[1], outlet, inlet) as thread:
            poll_until(live, lambda _: live.decoded() > 10)
            core = copy / "core.onnx"
            data = bytearray(core.read_bytes())
            data[len(data) // 2] ^= 1
            core.write_bytes(data)
            kill(live.decoder_pid)
            reports = poll_until(live, said("failed_closed"))
            poll_until(live, lambda _: sum(f == Flags.FAILED for f in flags_of(thread)) > 5)
            assert live.status()["phase"] == "FAILED"
            live.order("stop")
            reports += poll_until(live, said("ended"))
        assert not live.decoding
    (failed,) = [r["sentence"] for r in reports if r["report"] == "failed_closed"]
    assert "core.onnx: expected SHA-256" in failed
    assert reports[-1]["why"] == f"stopped; the output was zero, for {failed}"
    assert not any(s.values.any() for _, s in thread.samples if s.flags & Flags.FAILED)


def test_a_new_decoder_starts_from_what_was_committed_last(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    """By order: promote, back, and a candidate that dies with the decoder that held it."""
    promotion = AT_ONCE | {"automatic": False}
    config = config_for(bundle, tmp_path, recalibrations=3, promotion=promotion, control={"address": None})
    with rig(config, days[1]) as (outlet, inlet), LiveSystem(config, fakes.QUICK) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pace(days[1], outlet, inlet, 0.002):
            with pytest.raises(RuntimeFault, match="promote: expected a candidate that waits, found none"):
                live.order("promote")
            poll_until(live, said("warm", generation=1))
            live.order("promote")
            poll_until(live, said("committed", generation=1))
            assert json.loads((tmp_path / committed.NAME).read_text())["path"] == "gen-0001"
            # The next candidate waits for an order, and goes with the decoder.
            poll_until(live, said("warm", generation=2))
            with pytest.raises(RuntimeFault, match="align: expected no candidate under way"):
                live.order("align")
            kill(live.decoder_pid)
            reports = poll_until(live, said("ready", generation=1))
            reports += poll_until(live, said("warm", generation=3))
            (dropped,) = [r for r in reports if r["report"] == "dropped"]
            assert dropped["generation"] == 2
            assert "started anew before it was committed" in dropped["reason"]
            live.order("promote")
            poll_until(live, said("committed", generation=3))
            live.order("rollback")
            back = poll_until(live, said("rolled_back"))[-1]
            assert (back["generation"], back["to"]) == (3, 1)
            assert live.status()["promotion"]["last"]["state"] == "rollback"
    assert committed.load(tmp_path, bundle.path).manifest.generation == 1
    made = load_bundle(tmp_path / "gen-0003").manifest
    assert made.parent == load_bundle(tmp_path / "gen-0001").identity


def test_aligner_and_recorder_are_started_again_while_decoding_goes_on(
    bundle: Bundle, days: tuple[Session, Session], tmp_path: Path
) -> None:
    """The aligner is stopped in its tracks, the recorder killed; what both had begun goes on."""
    supervisor = {"standby": False, "aligner_heartbeat_s": 1.0}
    config = config_for(
        bundle, tmp_path, promotion=AT_ONCE, supervisor=supervisor, record={"enabled": True}, calibration_trials=10
    )
    with rig(config, days[1]) as (outlet, inlet), LiveSystem(config, fakes.QUICK) as live:
        live.wait_ready(READY_S)
        outlet.wait_for_decoder(10.0)
        with pace(days[1], outlet, inlet, 0.004):
            poll_until(live, lambda _: live.status()["trials"]["held"] >= 2)
            before = (kill(live.aligner_pid, signal.SIGSTOP), kill(live.recorder_pid))
            reports = poll_until(live, said("committed", generation=1), 60.0)
            assert live.aligner_pid not in before
            assert live.recorder_pid not in before
        reports += live.stop()
    died = {(r["who"], r["reason"]) for r in reports if r["report"] == "died"}
    assert died >= {
        ("aligner", "it gave no sign of life for 1 s and was killed"),
        ("recorder", "its process ended without a word, exit code -9"),
    }
    assert len(list(tmp_path.glob("recording-*.h5"))) == 2
    (aligning,) = [r["trials"] for r in reports if r["report"] == "aligning"]
    assert aligning == 10


def test_a_parent_that_hangs_does_not_stop_the_decoding(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    config = config_for(bundle, tmp_path)
    with rig(config, days[1]) as (outlet, inlet):
        tests = Path(__file__).resolve().parents[1]
        command = [sys.executable, "-m", "runtime.command", config.model_dump_json()]
        with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
            assert run.stdout is not None
            assert len(run.stdout.readline().split()) == 2
            with pace(days[1], outlet, inlet) as thread:
                until(lambda: len(thread.samples) > 5)
                run.send_signal(signal.SIGSTOP)
                at = len(thread.samples)
                until(lambda: len(thread.samples) > at + 100)
                run.send_signal(signal.SIGCONT)
                run.send_signal(signal.SIGTERM)
                assert run.wait(20) == 143
            heard = [s.seq_in for _, s in thread.samples if not s.flags & Flags.STALE]
    assert heard == list(range(heard[0], heard[-1] + 1))


def until(done: Any, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
