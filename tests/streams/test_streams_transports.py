"""What LSL and ZeroMQ have in common: the contract, over real streams and sockets, in one process and across two."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from bci_align.errors import StreamError
from bci_align.streams import ordering
from bci_align.streams.contract import END, START, Bin, Decoded, Flags, TrialEvent
from bci_align.streams.registry import make_rig, make_sink, make_source

from .rigs import (
    KINDS,
    PATIENCE_S,
    SPEC,
    assert_ordered,
    assert_same,
    bins_of,
    collect,
    configs,
    echo_decoder,
    endless_rig,
    events_of,
    opened,
    session,
    spawned,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_round_trip_in_one_process(kind: str) -> None:
    sent = session(500)
    with opened(kind) as (outlet, source, spec):
        assert (spec.channels, spec.bin_s, spec.name) == (SPEC.channels, SPEC.bin_s, SPEC.name)
        assert spec.uid
        for item in sent:
            outlet.push(item)
        found = collect(source, 500, len(events_of(sent)))
        assert_same(found, sent, exact=kind == "lsl")
        assert source.read(0.0) == []
        source.close()
        with pytest.raises(StreamError, match="closed"):
            source.read(0.0)


def test_round_trip_across_processes(kind: str) -> None:
    """Rig here, decoder there: every bin is answered from the very first, and none changed in either direction."""
    sent = session(500, first_seq=40)
    source_config, sink_config = configs(kind)
    outlet, inlet = make_rig(kind, source_config, sink_config)
    with spawned(echo_decoder, source_config, sink_config, 500, len(events_of(sent))) as (pipe, _):
        try:
            outlet.open(SPEC)
            outlet.wait_for_decoder(PATIENCE_S)
            assert inlet.open(PATIENCE_S) == SPEC.channels
            for item in sent:
                outlet.push(item)
            answers: list[Decoded] = []
            stop = time.monotonic() + PATIENCE_S
            while len(answers) < 500 and time.monotonic() < stop:
                answers += inlet.read(0.2)
            assert pipe.poll(PATIENCE_S)
            heard = [Bin(*x) if isinstance(x[0], int) else TrialEvent(*x) for x in pipe.recv()]
            pipe.send("done")
        finally:
            inlet.close()
            outlet.close()
    exact = kind == "lsl"
    assert_same(heard, sent, exact=exact)
    echoed = [Bin(a.seq_in, a.t, a.values.astype(np.float32)) for a in answers]
    assert_same(echoed, bins_of(sent), exact=exact)
    assert {(a.generation, a.flags) for a in answers} == {(3, Flags.IN_TRIAL | Flags.GAP)}


def test_a_replay_at_full_speed_loses_nothing(kind: str) -> None:
    sent = session(20000)
    with opened(kind) as (outlet, source, _):
        for item in sent:
            outlet.push(item)
        found = collect(source, 20000, len(events_of(sent)))
    assert_same(found, sent, exact=kind == "lsl")


def test_events_stand_before_their_bins(kind: str) -> None:
    sent = session(200)
    found: list[Bin | TrialEvent] = []
    with opened(kind) as (outlet, source, _):
        for item in sent:
            outlet.push(item)
            if isinstance(item, TrialEvent):
                time.sleep(0.02)  # markers have a connection of their own; here they are in time
        found = collect(source, 200, len(events_of(sent)))
    assert_same(found, sent, exact=kind == "lsl")
    assert_ordered(found)


def test_bins_are_stamped_with_their_reception(kind: str) -> None:
    with opened(kind) as (outlet, source, _):
        for item in session(20):
            before = time.monotonic()
            outlet.push(item)
            for found in bins_of(collect(source, 1, 0) if isinstance(item, Bin) else []):
                assert before <= found.arrived <= time.monotonic()


def test_a_stale_sample_repeats_the_last_number(kind: str) -> None:
    source_config, sink_config = configs(kind)
    _, inlet = make_rig(kind, source_config, sink_config)
    sink = make_sink(sink_config)
    sent = [(-1, Flags.STALE), (4, Flags.NONE), (4, Flags.STALE), (4, Flags.STALE | Flags.LOST), (0, Flags.RESTARTED)]
    try:
        sink.open(("vx",), ("m/s",), 100.0)
        inlet.open(PATIENCE_S)
        for seq, flags in sent:
            sink.write(Decoded(seq, 1.0, np.zeros(1), 0, flags))
        heard: list[Decoded] = []
        stop = time.monotonic() + PATIENCE_S
        while len(heard) < len(sent) and time.monotonic() < stop:
            heard += inlet.read(0.2)
        assert [(d.seq_in, d.flags) for d in heard] == sent
    finally:
        inlet.close()
        sink.close()


def test_an_event_without_a_bin_is_given_after_the_time(kind: str) -> None:
    with opened(kind) as (outlet, source, _):
        outlet.push(TrialEvent(5.0, END, True))
        assert collect(source, 0, 1) == [TrialEvent(5.0, END, True)]


@pytest.mark.parametrize("event_t", [1e5 + 200.0, 200.0 - 1e5], ids=["ahead", "behind"])
def test_events_on_another_clock_are_named_at_real_time(kind: str, event_t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most reads time out between two bins, as the decoder's do."""
    monkeypatch.setattr(ordering, "HOLD_S", 0.5)
    with opened(kind) as (outlet, source, _), pytest.raises(StreamError, match=r"one clock, found a 'start' event at -?\d"):
        for k in range(40):
            outlet.push(Bin(k, 200.0 + k * SPEC.bin_s, np.zeros(len(SPEC.channels), np.float32)))
            if k in (5, 6, 7):
                outlet.push(TrialEvent(event_t, START))
            for _ in range(10):
                assert not events_of(source.read(0.005)) or event_t < 0


def test_a_killed_sender_is_named(kind: str) -> None:
    source_config, sink_config = configs(kind)
    source = make_source(source_config)
    with spawned(endless_rig, source_config, sink_config) as (pipe, pid):
        try:
            assert pipe.poll(PATIENCE_S)
            source.open(PATIENCE_S)
            assert bins_of(collect(source, 20, 0))
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(StreamError, match="lost: its sender is gone") as e:
                stop = time.monotonic() + PATIENCE_S
                while time.monotonic() < stop:
                    source.read(0.2)
            assert (source_config.stream if kind == "lsl" else source_config.address) in str(e.value)
        finally:
            source.close()


def test_a_decoder_that_goes_is_named(kind: str) -> None:
    source_config, sink_config = configs(kind)
    _, inlet = make_rig(kind, source_config, sink_config)
    sink = make_sink(sink_config)
    try:
        sink.open(("vx",), ("m/s",), 100.0)
        assert inlet.open(PATIENCE_S) == ("vx",)
        sink.close()
        with pytest.raises(StreamError, match="lost: its sender is gone"):
            stop = time.monotonic() + PATIENCE_S
            while time.monotonic() < stop:
                inlet.read(0.2)
    finally:
        inlet.close()
        sink.close()


def test_waiting_for_a_decoder_ends(kind: str) -> None:
    source_config, sink_config = configs(kind)
    outlet, inlet = make_rig(kind, source_config, sink_config)
    try:
        outlet.open(SPEC)
        with pytest.raises(StreamError, match=f"{source_config.stream}.*within 0.2 s"):
            outlet.wait_for_decoder(0.2)
        with pytest.raises(StreamError, match=f"{sink_config.stream}.*within 0.4 s"):
            inlet.open(0.4)
    finally:
        inlet.close()
        outlet.close()


def test_what_does_not_fit_the_stream_is_refused(kind: str) -> None:
    source_config, sink_config = configs(kind)
    outlet, _ = make_rig(kind, source_config, sink_config)
    sink = make_sink(sink_config)
    try:
        with pytest.raises(StreamError, match="closed"):
            outlet.push(TrialEvent(0.0, START))
        with pytest.raises(StreamError, match="closed"):
            sink.write(Decoded(0, 1.0, np.zeros(2), 0))
        outlet.open(SPEC)
        with pytest.raises(StreamError, match=r"expected 4 counts, found shape \(5,\)"):
            outlet.push(Bin(0, 1.0, np.zeros(5, np.float32)))
        with pytest.raises(StreamError, match="time stamp"):
            outlet.push(Bin(0, float("nan"), np.zeros(4, np.float32)))
        with pytest.raises(StreamError, match="a unit per output"):
            sink.open(("vx", "vy"), ("m/s",), 100.0)
        sink.open(("vx", "vy"), ("m/s", "m/s"), 100.0)
        with pytest.raises(StreamError, match=r"expected 2 values, found shape \(3,\)"):
            sink.write(Decoded(0, 1.0, np.zeros(3), 0))
    finally:
        outlet.close()
        outlet.close()
        sink.close()
        sink.close()


@pytest.mark.parametrize("t", [0.0, -1.0, -0.5, 1.7e9 + 0.123])
def test_every_finite_stamp_arrives(kind: str, t: float) -> None:
    """0.0 and -1.0 mean something else to LSL."""
    with opened(kind) as (outlet, source, _):
        outlet.push(TrialEvent(t, START))
        outlet.push(Bin(0, t, np.zeros(4, np.float32)))
        found = collect(source, 1, 1)
    assert [x.t for x in found] == pytest.approx([t, t], rel=0, abs=1.1e-9 if abs(t) < 10 else 3e-7)
