"""The latency benchmark: its arithmetic on known numbers, and short real runs of its pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.bundle.store import Bundle
from bci_align.errors import RuntimeFault
from bci_align.runtime.latency import BUCKETS, bucket
from benchmarks import latency, latency_live, latency_steps
from benchmarks.latency_bundle import untrained
from benchmarks.latency_control import Control, Lateness
from benchmarks.latency_days import days
from benchmarks.latency_live import Condition, Found
from benchmarks.latency_process import Helper, Pipe, aligning, quantiles_ms, rss_mb
from benchmarks.latency_rig import chain, items
from benchmarks.latency_steps import Steps

from .made import BIN_S, NOTHING, heard

CHANNELS = 12


@pytest.fixture(scope="module")
def untrained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return untrained(tmp_path_factory.mktemp("untrained") / "bundle", CHANNELS, BIN_S)


def test_an_untrained_bundle_decodes_with_the_defaults_sizes(untrained_bundle: Bundle) -> None:
    m = untrained_bundle.manifest
    assert (m.hidden, m.latents, len(m.channels), m.bin_s) == (64, 16, CHANNELS, BIN_S)
    y = untrained_bundle.pipeline().run(days(0, CHANNELS, BIN_S)[0].counts[:500], untrained_bundle.read_in)
    assert np.isfinite(y).all()
    assert (y.std(0) > 0.05 * np.array(m.scale)).all()
    assert untrained(untrained_bundle.path, CHANNELS, BIN_S).identity == untrained_bundle.identity


def test_a_day_is_played_over_and_over() -> None:
    day = days(0, CHANNELS, BIN_S)[1]
    played = list(items(day, 2 * day.bins + 1))
    events = [[(e.t, e.name) for e in es] for es, _ in played]
    length = day.bins * day.bin_s
    assert [n for es in events[: day.bins] for _, n in es] == [n for es in events[day.bins : 2 * day.bins] for _, n in es]
    again = np.array([t for es in events[day.bins : 2 * day.bins] for t, _ in es])
    np.testing.assert_allclose(again - length, [t for es in events[: day.bins] for t, _ in es])
    np.testing.assert_array_equal(played[day.bins][1], day.counts[0])


ROWS = [(0, 0, 1.02), (1, 0, 1.04), (2, 1, 1.06)]


@pytest.mark.parametrize(
    "other",
    [
        ROWS[:2],
        [*ROWS, ROWS[2]],
        [ROWS[1], ROWS[0], ROWS[2]],
        [*ROWS[:2], (2, 0, 1.06)],
        [*ROWS[:2], (3, 1, 1.06)],
        [*ROWS[:2], (2, 1, 1.060000002)],
    ],
    ids=["missing", "twice", "moved", "generation", "number", "time"],
)
def test_a_chain_sees_every_change(other: list[tuple[int, int, float]]) -> None:
    assert chain(iter(ROWS)) == chain(iter(list(ROWS)))
    assert chain(iter(ROWS)) != chain(iter(other))


def histogram(seconds: list[float]) -> np.ndarray[Any, Any]:
    out = np.zeros(BUCKETS, np.int64)
    for s in seconds:
        out[bucket(s)] += 1
    return out


def found(trip: list[float], control: Lateness, total: list[float], **change: Any) -> Found:
    condition = Condition("lsl", 96, BIN_S, len(trip) - 1, True, True)
    return Found(condition, heard(trip, **change), 1, {"total": histogram(total)}, control, "SCHED_FIFO", [])


def test_late_is_beyond_a_bin_and_the_machines_share_is_told_apart() -> None:
    # Bin 2 at 10.04 takes 25 ms, of which a core stood still for 8; bin 4 takes 30 ms and nobody else was late.
    control = Lateness(np.array([10.045, 10.2]), np.array([0.008, 0.05]))
    f = found([0.5, 0.001, 0.025, 0.001, 0.030], control, [0.0004])
    assert f.late() == (2, 1)
    np.testing.assert_allclose(control.during(np.array([10.04, 10.08]), np.array([10.065, 10.11])), [0.008, 0.0])
    assert f.lost() == 0
    holed = found([0.5, 0.001, np.nan], NOTHING, [0.0004], answers=np.array([0, 1, 0]))
    assert holed.lost() == 1  # bin 0 does not count
    assert holed.trip_ms()["max"] == pytest.approx(1.0)
    assert control.between(10.1, 10.3).summary()["max"] == pytest.approx(50.0)


def steps_of(bare: float, ours: float, swap: float) -> Steps:
    took = np.full(200, ours)
    took[[50, 120]] += swap
    return Steps(np.full(200, bare), took, np.zeros(200), np.array([50, 120]))


def test_acceptance_rows_are_those_of_the_asked_condition() -> None:
    steps = {
        (96, True, True): steps_of(1e-4, 1.4e-4, 5e-5),
        (96, True, False): steps_of(1e-4, 9e-4, 5e-3),
        (256, True, True): steps_of(1e-4, 1.5e-4, 0),
        (1024, True, True): steps_of(1e-4, 2.0e-4, 0),
    }
    good = found([0.001] * 5, NOTHING, [0.0004] * 99 + [0.0009])
    rows = latency.accept(steps, [good])
    assert [r.met for r in rows] == [True] * len(rows)
    assert {r.name.split(":")[0] for r in rows} >= {"our step p50 / bare", "lsl"}
    cost = next(r for r in rows if r.name.startswith("swap"))
    assert cost.value == pytest.approx(0.05)
    slow = found([0.001] * 5, NOTHING, [0.0006] * 90 + [0.003] * 10)
    missed = [r.name for r in latency.accept(steps | {(96, True, True): steps_of(1e-4, 1.6e-4, 2e-4)}, [slow]) if not r.met]
    assert len(missed) == 5  # ratio, swap, and all three quantiles
    assert latency.growth(steps, True) == pytest.approx(np.log(2.0 / 1.4) / np.log(1024 / 96), abs=0.02)
    (refused,) = latency.accept({(96, False, True): steps_of(1, 1, 1)}, [])
    assert not refused.met
    assert [r.name.split(":")[0] for r in latency.accept({}, [good])] == ["lsl"] * 5  # a part alone has rows of no other
    assert [r.name for r in latency.accept(steps, [])] == [r.name for r in rows[:3]]


def test_tables_have_a_row_per_condition() -> None:
    steps = {(96, True, True): steps_of(1e-4, 1.4e-4, 5e-5), (96, False, False): steps_of(1e-4, 1.4e-4, 0)}
    live = [found([0.001] * 5, NOTHING, [0.0004])]
    for text, n in ((latency.steps_table(steps), 2), (latency.swaps_table(steps), 2), (latency.live_table(live), 1)):
        assert len(text.splitlines()) == n + 1
    assert "FIFO" in latency.live_table(live)
    line = latency.live_line(live[0])
    assert all(f"{q} " in line for q in latency.QUANTILES)
    assert "0 late (0 the machine's), 0 lost" in line
    assert "ours / bare 1.40; 0 late; 2 swaps" in latency.steps_line(96, True, True, steps[96, True, True])
    told = latency.as_json(steps, live)
    assert told["steps"][0]["ratio"] == pytest.approx(1.4)
    assert told["live"][0]["lost"] == 0
    assert quantiles_ms(np.array([]))["p50"] != quantiles_ms(np.array([]))["p50"]  # NaN


def test_both_steps_are_taken_and_swaps_are_found(untrained_bundle: Bundle, tmp_path: Path) -> None:
    plan = latency_steps.Plan(str(untrained_bundle.path), CHANNELS, BIN_S, 200, False, str(tmp_path / "steps.npz"))
    s = latency_steps.measure(plan)
    assert len(s.bare) == len(s.ours) == 200
    assert (s.bare > 0).all()
    assert (s.ours > 0).all()
    assert len(s.swaps) >= 1
    assert len(s.of_swaps()[1]) == 200 - len(s.swaps)


def test_a_live_run_over_zeromq(untrained_bundle: Bundle, tmp_path: Path) -> None:
    conditions = [Condition("zmq", CHANNELS, BIN_S, 100, True, running) for running in (False, True)]
    idle, running = latency_live.in_turn(conditions, untrained_bundle, tmp_path)
    assert idle.first == 50
    assert running.first >= 150
    assert (idle.heard.order == np.arange(len(idle.heard.order))).all()
    for f in (idle, running):
        assert f.lost() == 0
        # The snapshots lie a few bins behind the first that counts, and behind the last.
        assert 50 <= f.stages["total"].sum() <= 150
        assert f.stage_ms("total")["p50"] > 0
        assert len(f.control.due) > 100
        assert "priority" in f.scheduler or "default" in f.scheduler
        assert f"{f.condition.bins} bins" in latency.live_line(f)


def test_an_alignment_keeps_going_until_told(untrained_bundle: Bundle) -> None:
    with Helper("alignment", aligning, str(untrained_bundle.path)) as h:
        h.wait("ready", 60.0)
        assert rss_mb(h.pid) > 10
        h.tell()


def _fails(pipe: Pipe) -> None:
    raise ZeroDivisionError("as expected")


def test_a_helper_that_fails_is_heard() -> None:
    with Helper("helper", _fails) as h, pytest.raises(RuntimeFault, match="helper failed: ZeroDivisionError: as expected"):
        h.wait("ready", 60.0)


def test_control_loops_are_on_every_core(tmp_path: Path) -> None:
    control = Control(False, tmp_path)
    try:
        assert control.wait_ready() == "default scheduler"
        lateness = control.stop()
    finally:
        control.end()
    assert (np.diff(lateness.due) >= 0).all()
    assert (lateness.late > -1e-3).all()
