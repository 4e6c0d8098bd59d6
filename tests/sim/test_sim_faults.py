"""Faults as a plan, item by item; and the faulty rig as a real process, heard over real transports."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

from bci_align.config import EventNames, SourceConfig
from bci_align.errors import StreamError
from bci_align.session.io import save
from bci_align.session.types import Session
from bci_align.streams import wire
from bci_align.streams.contract import END, GO, START, Bin, StreamSpec, TrialEvent
from bci_align.streams.events import EventReader
from bci_align.streams.registry import make_source
from bci_align_sim.faults import KINDS, LSL_GARBAGE, Fault, Garbage, Injector, Timed, inject, zmq_garbage
from bci_align_sim.faulty_rig import repeat
from bci_align_sim.task import record_day
from bci_align_sim.tuning import Tuning

pytestmark = pytest.mark.computes

BIN_S, CHANNELS = 0.02, 6


@pytest.fixture(scope="module")
def day() -> Session:
    return record_day(Tuning.draw(CHANNELS, 3), 4, 5, BIN_S, name="short")


def base(bins: int, event_at: int = -1) -> list[Timed]:
    """Bins of ones; an event of bin ``event_at``."""
    items = []
    for k in range(bins):
        if k == event_at:
            items.append(Timed(k * BIN_S, TrialEvent(100 + k * BIN_S, START)))
        items.append(Timed((k + 1) * BIN_S, Bin(k, 100 + (k + 1) * BIN_S, np.ones(CHANNELS, np.float32))))
    return items


def sent(*plan: Fault, bins: int = 30, event_at: int = -1) -> list[Timed]:
    return list(inject(base(bins, event_at), plan, BIN_S))


def numbers(items: list[Timed]) -> list[int]:
    return [t.item.seq for t in items if isinstance(t.item, Bin)]


def counts(items: list[Timed], first: int, stop: int) -> np.ndarray:
    return np.stack([t.item.counts for t in items if isinstance(t.item, Bin)])[first:stop]


def test_without_a_fault_nothing_changes() -> None:
    assert [(t.at_s, t.kinds) for t in sent()] == [(t.at_s, ()) for t in base(30)]
    np.testing.assert_array_equal(counts(sent(), 0, 30), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_leaves_the_bins_around_it_alone(kind: str) -> None:
    items = [t for t in sent(Fault(kind, 10, 5)) if isinstance(t.item, Bin)]
    before = items[:10]
    assert numbers(before) == list(range(10))
    shift = items[-1].at_s - 30 * BIN_S
    assert shift == (pytest.approx(-5 * 0.9 * BIN_S) if kind == "fast" else pytest.approx(0.0))
    after = [t for t in items if t.at_s > 16.5 * BIN_S + shift]
    assert numbers(after) == list(range(16, 30))
    for t in before + after:
        np.testing.assert_array_equal(t.item.counts, 1)
        assert t.item.t == 100 + (t.item.seq + 1) * BIN_S and t.kinds == ()
    assert all(a.at_s <= b.at_s for a, b in pairwise(items))


def test_dropped_bins_are_missing_and_events_are_not() -> None:
    items = sent(Fault("drop", 10, 3), event_at=11)
    assert numbers(items) == [*range(10), *range(13, 30)]
    assert sum(isinstance(t.item, TrialEvent) for t in items) == 1


def test_silence_takes_the_events_too() -> None:
    items = sent(Fault("silence", 10, 3), event_at=11)
    assert numbers(items) == [*range(10), *range(13, 30)]
    assert not any(isinstance(t.item, TrialEvent) for t in items)


def test_delayed_bins_come_with_the_next_one_and_events_keep_their_place() -> None:
    items = sent(Fault("delay", 10, 3), event_at=11)
    assert numbers(items) == list(range(30))
    late = [t for t in items if "delay" in t.kinds]
    assert [t.at_s for t in late] == [pytest.approx(14 * BIN_S)] * 4
    assert isinstance(late[1].item, TrialEvent)


def test_reordered_bins_come_in_reverse() -> None:
    assert numbers(sent(Fault("reorder", 10, 3))) == [*range(10), 12, 11, 10, *range(13, 30)]


def test_what_is_held_at_the_end_of_the_stream_is_sent() -> None:
    assert numbers(sent(Fault("delay", 28, 5))) == list(range(30))


def test_duplicates_are_the_same_to_the_bit() -> None:
    items = sent(Fault("duplicate", 10, 2))
    assert numbers(items) == [*range(11), 10, 11, 11, *range(12, 30)]
    assert items[10].item == items[11].item


def test_a_new_count_begins_at_zero() -> None:
    assert numbers(sent(Fault("renumber", 10, 0))) == [*range(10), *range(20)]


def test_a_stepped_clock_moves_bins_and_events_alike() -> None:
    items = sent(Fault("clock_step", 10, 0, value=-3.0), event_at=12)
    steps = [t.item.t - b.item.t for t, b in zip(items, base(30, 12), strict=True)]
    np.testing.assert_allclose(steps, [0.0] * 10 + [-3.0] * 21)
    assert items[20].at_s == base(30, 12)[20].at_s


def test_a_fast_sender_is_ahead_for_good() -> None:
    at = [t.at_s for t in sent(Fault("fast", 10, 10, value=10))]
    np.testing.assert_allclose(np.diff(at)[9:19], BIN_S / 10)
    np.testing.assert_allclose(np.diff(at)[19:], BIN_S)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("negative", None, -2),
        ("dead", None, 0),
        ("saturated", None, 9),
        ("absurd", None, 1e7),
        ("absurd", 3e38, np.float32(3e38)),
    ],
)
def test_counts_are_spoiled_on_the_channels_named(kind: str, value: float | None, expected: float) -> None:
    found = counts(sent(Fault(kind, 10, 5, (1, 4), value)), 10, 15)
    np.testing.assert_array_equal(found[:, [1, 4]], expected)
    np.testing.assert_array_equal(found[:, [0, 2, 3, 5]], 1)


def test_no_number_is_nan_and_both_infinities() -> None:
    found = counts(sent(Fault("non_finite", 9, 3, (2,))), 9, 12)[:, 2]
    assert np.isnan(found[0]) and found[1] == np.inf and found[2] == -np.inf


def test_a_flood_is_high_and_varies_and_repeats_with_its_seed() -> None:
    found = counts(sent(Fault("flood", 10, 5)), 10, 15)
    assert found.min() > 200 and found.std() > 0
    np.testing.assert_array_equal(found, counts(sent(Fault("flood", 10, 5)), 10, 15))


def test_garbage_stands_before_bins_which_stay_whole() -> None:
    items = sent(Fault("malformed", 10, 3))
    assert [t.item for t in items[10:16:2]] == [Garbage(0), Garbage(1), Garbage(2)]
    assert numbers(items) == list(range(30))


def test_faults_add_up_and_may_be_added_while_it_runs() -> None:
    injector = Injector([Fault("dead", 4, 0, (0,))], BIN_S)
    items = [t for b in base(10) for t in injector.step(b)]
    injector.plan.append(Fault("duplicate", injector.next_bin + 1, 1))
    items += [t for b in base(15)[10:] for t in injector.step(b)]
    assert numbers(items) == [*range(12), 11, 12, 13, 14]
    assert items[11].kinds == ("dead", "duplicate")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"kind": "sulk", "at": 1}, "expected one of drop, .*, found 'sulk'"),
        ({"kind": "drop", "at": -1}, "at least 0"),
        ({"kind": "delay", "at": 1, "bins": 0}, "never be sent"),
        ({"kind": "fast", "at": 1, "value": 1.0}, "above 1"),
    ],
)
def test_faults_that_make_no_sense_are_refused(fault: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Fault(**fault)


def test_a_day_repeats_on_one_count_and_one_clock(day: Session) -> None:
    items = []
    for timed in repeat(day, 50.0):
        items.append(timed)
        if isinstance(timed.item, Bin) and timed.item.seq == 2 * day.bins + 10:
            break
    assert numbers(items) == list(range(2 * day.bins + 11))
    assert all(a.at_s <= b.at_s for a, b in pairwise(items))
    last = items[-1]
    assert last.item.t == pytest.approx(50 + last.at_s) and last.at_s == pytest.approx((2 * day.bins + 11) * BIN_S)
    np.testing.assert_array_equal(last.item.counts, day.counts[10])
    per_lap = [t.item.name for t in items if isinstance(t.item, TrialEvent) and t.at_s < day.bins * BIN_S]
    assert per_lap == [START, GO, END] * len(day.trials)


def test_no_parser_takes_the_garbage() -> None:
    spec = StreamSpec(tuple(f"c{i}" for i in range(CHANNELS)), BIN_S, "", "u")
    for frames in zmq_garbage("counts", "events", CHANNELS):
        decode = {
            b"counts": lambda f: wire.decode_counts(f, spec),
            b"events": wire.decode_event,
            b"counts.spec": wire.decode_spec,
        }
        reader = EventReader(EventNames())
        try:
            t, payload = decode[frames[0]](frames)
        except StreamError:
            continue
        reader.read(t, payload)
        assert reader.malformed == 1, frames
    reader = EventReader(EventNames())
    texts = [g for g in LSL_GARBAGE if isinstance(g, str)]
    for text in texts:
        reader.parse(1.0, text)
    assert reader.malformed == len(texts)


class Rig:
    """The faulty rig in a process of its own, and what it says."""

    def __init__(self, kind: str, day: Session, folder, *args: str) -> None:
        save(day, folder / "day.h5")
        me = f"{os.getpid()}-{time.monotonic_ns()}"
        self.config = SourceConfig(kind=kind, stream=f"c{me}", markers=f"e{me}", address=f"ipc://{folder}/counts")
        words = ["--over", kind, "--session", str(folder / "day.h5"), "--source-id", f"c{me}", "--markers-id", f"e{me}"]
        words += ["--address", self.config.address, *args]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bci_align_sim.faulty_rig", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, **order) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def end(self) -> list[dict]:
        """Close its input, which ends it; all that it said."""
        out, _ = self.process.communicate(timeout=20)
        return [json.loads(line) for line in out.splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.live
@pytest.mark.parametrize("kind", ["zmq", "lsl"])
def test_what_the_rig_says_it_sent_is_what_arrives(kind: str, day: Session, tmp_path) -> None:
    plan = '{"kind": "dead", "at": 5, "bins": 5, "channels": [1, 2]}'
    with Rig(kind, day, tmp_path, "--fault", plan) as rig:
        source = make_source(rig.config)
        try:
            spec = source.open(20.0)
            got: list[Bin] = []
            for n in (30, 60):
                deadline = time.monotonic() + 20
                while len(got) < n and time.monotonic() < deadline:
                    got += [i for i in source.read(0.1) if isinstance(i, Bin)]
                rig.order(do="fault", kind="drop", **{"in": 3}, bins=4)
            said = rig.end()
        finally:
            source.close()
    assert rig.process.returncode == 0
    assert spec.channels == day.channels and spec.bin_s == pytest.approx(BIN_S)
    bins = [s for s in said if s["say"] == "bin"]
    assert [b.seq for b in got] == [s["seq"] for s in bins][: len(got)]
    faults = [s for s in said if s["say"] == "fault"]
    assert faults[0]["kind"] == "drop"
    missing = set(range(bins[-1]["seq"])) - {s["seq"] for s in bins}
    assert set(range(faults[0]["first"], faults[0]["first"] + 4)) <= missing
    for b in got:
        np.testing.assert_array_equal(b.counts[1:3], 0 if 5 <= b.seq < 10 else day.counts[b.seq % day.bins, 1:3])
    assert [s["kinds"] for s in bins][4:11] == [[], *[["dead"]] * 5, []]
    assert all(0 <= b["at"] - a["at"] < 1 for a, b in pairwise(bins))


@pytest.mark.live
def test_streams_come_and_go_in_other_shapes_as_ordered(day: Session, tmp_path) -> None:
    with Rig("zmq", day, tmp_path, "--hold", "--connect-s", "0") as rig:
        assert json.loads(rig.process.stdout.readline())["say"] == "holding"
        shapes = [
            ({"channels": 4, "rename": 0, "bin_s": 0.01}, (f"another {day.channels[0]}", *day.channels[1:4]), 0.01),
            ({}, day.channels, BIN_S),
        ]
        uids = set()
        for shape, labels, bin_s in shapes:
            source = make_source(rig.config)
            try:
                with pytest.raises(StreamError, match="nobody answers"):
                    source.open(0.2)
                rig.order(do="open", **shape)
                spec = source.open(20.0)
                assert len(source.read(5.0)[-1].counts) == len(labels)
            finally:
                source.close()
            uids.add(spec.uid)
            assert spec.channels == labels and spec.bin_s == pytest.approx(bin_s)
            rig.order(do="close")
            while json.loads(rig.process.stdout.readline())["say"] != "closed":
                continue
        assert len(uids) == 2
        rig.process.send_signal(signal.SIGKILL)
        assert rig.process.wait(10) == -signal.SIGKILL


@pytest.mark.live
def test_an_order_that_is_none_ends_the_rig_with_a_sentence(day: Session, tmp_path) -> None:
    with Rig("zmq", day, tmp_path, "--hold") as rig:
        rig.order(do="dance")
        assert rig.process.wait(20) == 2
