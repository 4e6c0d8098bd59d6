from __future__ import annotations

import time

import numpy as np
import pytest
import zmq

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError, StreamError
from bci_align.streams import wire
from bci_align.streams.contract import END, GO, START, Bin, Decoded, StreamSpec, TrialEvent
from bci_align.streams.zmq import ZmqRigInlet, ZmqRigOutlet, ZmqSink, ZmqSource
from bci_align.streams.zmq_address import checked
from bci_align.streams.zmq_sockets import HELLO_S, Publisher

from .rigs import PATIENCE_S, SPEC, assert_same, bins_of, collect, configs, events_of, opened, session


@pytest.mark.parametrize(
    "address, found",
    [
        ("tcp://127.0.0.1:5571", "tcp://127.0.0.1:5571"),
        ("tcp://localhost:5571", "tcp://127.0.0.1:5571"),
        ("tcp://[::1]:5571", "tcp://[::1]:5571"),
        ("tcp://127.0.0.2:5571", "tcp://127.0.0.2:5571"),
        ("ipc:///tmp/rig", "ipc:///tmp/rig"),
    ],
)
def test_loopback_addresses(address: str, found: str) -> None:
    assert checked(address) == found


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5571", "tcp://*:5571", "tcp://10.1.2.3:5571", "tcp://rig.example.org:5571"])
@pytest.mark.parametrize("side", ["source", "sink", "outlet", "inlet"])
def test_other_hosts_are_refused(side: str, address: str) -> None:
    source, sink = SourceConfig(kind="zmq", address=address), SinkConfig(kind="zmq", address=address)
    with pytest.raises(StreamError, match="expected a loopback host"):
        {
            "source": lambda: ZmqSource(source).open(0.1),
            "sink": lambda: ZmqSink(sink).open(("vx",), ("m/s",), 100.0),
            "outlet": lambda: ZmqRigOutlet(source).open(SPEC),
            "inlet": lambda: ZmqRigInlet(sink).open(0.1),
        }[side]()


@pytest.mark.parametrize(
    "address", ["", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999", "inproc://a", "ipc://", "tcp://[::1:5"]
)
def test_no_address_at_all(address: str) -> None:
    with pytest.raises(StreamError, match=r"expected tcp://127.0.0.1:PORT or ipc://PATH"):
        checked(address)


def test_a_port_in_use_is_named() -> None:
    config, sink_config = configs("zmq")
    outlet = ZmqRigOutlet(config)
    outlet.open(SPEC)
    try:
        with pytest.raises(StreamError, match=f"'{config.address}': cannot be bound: the address is in use"):
            ZmqRigOutlet(config).open(SPEC)
        with pytest.raises(StreamError, match="the address is in use"):
            ZmqSink(sink_config.model_copy(update={"address": config.address})).open(("vx",), ("m/s",), 100.0)
    finally:
        outlet.close()
    outlet.open(SPEC)  # and is free again
    outlet.close()


def test_ipc(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = SourceConfig(kind="zmq", address=f"ipc://{tmp_path_factory.mktemp('ipc')}/rig")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config)
    try:
        outlet.open(SPEC)
        source.open(PATIENCE_S)
        outlet.push(bins_of(session(1))[0])
        assert len(bins_of(collect(source, 1, 0))) == 1
    finally:
        source.close()
        outlet.close()


def test_nobody_there() -> None:
    config, _ = configs("zmq")
    source = ZmqSource(config)
    with pytest.raises(StreamError) as e:
        source.open(0.4)
    assert f"'{config.address}': no message on topic '{config.stream}.spec' within 0.4 s; nobody answers there" in str(e.value)
    source.close()


def test_a_wrong_topic_says_which_ones_there_are() -> None:
    config, _ = configs("zmq")
    outlet = ZmqRigOutlet(config)
    source = ZmqSource(config.model_copy(update={"stream": "elsewhere"}))
    try:
        outlet.open(SPEC)
        with pytest.raises(StreamError) as e:
            source.open(1.0)
        assert f"no message on topic 'elsewhere.spec' within 1 s; connected, and heard '{config.stream}.spec'" in str(e.value)
    finally:
        source.close()
        outlet.close()


def test_events_on_another_topic_are_no_trial_events() -> None:
    config, _ = configs("zmq")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config.model_copy(update={"markers": "elsewhere"}))
    try:
        outlet.open(SPEC)
        with pytest.raises(StreamError, match=f"^no trial events: .* expected events on 'elsewhere', .* on '{config.markers}'"):
            source.open(PATIENCE_S)
        with pytest.raises(StreamError, match=f"no decoder subscribed to '{config.markers}' within 0.1 s"):
            outlet.wait_for_decoder(0.1)  # counts alone will not do
    finally:
        source.close()
        outlet.close()


def test_one_topic_for_both_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected two topics"):
        ZmqSource(SourceConfig(kind="zmq", stream="a", markers="a"))


def test_gaps_come_through_as_they_are() -> None:
    with opened("zmq") as (outlet, source, _):
        for seq in (0, 1, 5, 6):
            outlet.push(Bin(seq, 1.0 + seq, np.zeros(4, np.float32)))
        assert [b.seq for b in bins_of(collect(source, 4, 0))] == [0, 1, 5, 6]


def test_all_that_was_sent_before_the_end_is_read() -> None:
    config, _ = configs("zmq")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config)
    sent = session(3000)
    sent.append(TrialEvent(sent[-1].t, END, True))  # a recording that ends with its last trial
    try:
        outlet.open(SPEC)
        source.open(PATIENCE_S)
        outlet.wait_for_decoder(PATIENCE_S)
        for item in sent:
            outlet.push(item)
        outlet.close()
        assert_same(collect(source, 3000, len(events_of(sent))), sent, exact=False)
        with pytest.raises(StreamError, match="lost: its sender is gone"):
            collect(source, 1, 0)
    finally:
        source.close()
        outlet.close()


def test_a_restarted_sender_is_never_taken_for_the_old_one() -> None:
    config, _ = configs("zmq")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config)
    try:
        outlet.open(SPEC)
        source.open(PATIENCE_S)
        outlet.close()
        outlet.open(SPEC)
        with pytest.raises(StreamError, match=r"lost[:,] its sender (is gone|was restarted)"):
            stop = time.monotonic() + PATIENCE_S
            while time.monotonic() < stop:
                outlet.push(Bin(0, 1.0, np.zeros(4, np.float32)))
                source.read(0.05)
    finally:
        source.close()
        outlet.close()


def test_what_the_old_sender_sent_comes_and_what_the_new_one_sends_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bci_align.streams.zmq_sockets._BATCH", 8)
    config, _ = configs("zmq")
    outlet, source = ZmqRigOutlet(config), ZmqSource(config)
    try:
        outlet.open(SPEC)
        source.open(PATIENCE_S)
        outlet.wait_for_decoder(PATIENCE_S)
        for seq in range(100):
            outlet.push(Bin(seq, 1.0 + seq, np.zeros(4, np.float32)))
        outlet.close()
        found = source.read(PATIENCE_S)
        outlet.open(SPEC)
        outlet.wait_for_decoder(PATIENCE_S)  # ZeroMQ itself has connected to the new one
        for seq in range(500, 510):
            outlet.push(Bin(seq, 1.0, np.zeros(4, np.float32)))
        with pytest.raises(StreamError, match="lost"):
            while True:
                found += source.read(PATIENCE_S)
        assert [b.seq for b in bins_of(found)] == list(range(100))
    finally:
        source.close()
        outlet.close()


def test_a_gap_at_the_high_water_mark_shows_in_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that does not wait, as rigs are, and a decoder that stands still: the newest bins are lost, and seq says which."""
    monkeypatch.setattr("bci_align.streams.zmq_sockets.HIGH_WATER", 50)
    config, _ = configs("zmq")
    spec = StreamSpec(tuple(f"c{k}" for k in range(1024)), 0.01, "rig", "uid")
    rig = Publisher(config.address, wire.encode_spec(config.stream, spec, config.markers), lossless=False)
    source = ZmqSource(config)
    try:
        source.open(PATIENCE_S)
        rig.wait_for((config.stream,), PATIENCE_S)
        zeros = np.zeros(1024, np.float32)
        for seq in range(20_000):
            rig.send(wire.encode_counts(config.stream, Bin(seq, 0.01 * seq, zeros), 0.01))
        seqs: list[int] = []
        last = 20_000
        while last not in seqs:  # there is room again: a bin comes through, far from the last one
            rig.send(wire.encode_counts(config.stream, Bin(last, 0.01 * last, zeros), 0.01))
            seqs += [b.seq for b in bins_of(source.read(0.05))]
        steps = np.diff(seqs[: seqs.index(last) + 1])
        assert seqs[0] == 0 and steps.min() == 1 and steps.max() > 1000
        assert source.malformed_bins == 0
    finally:
        source.close()
        rig.close()


def test_a_sink_neither_waits_nor_fails_for_a_listener_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bci_align.streams.zmq_sockets.HIGH_WATER", 50)
    _, config = configs("zmq")
    sink, inlet = ZmqSink(config), ZmqRigInlet(config)
    names = tuple(f"v{k}" for k in range(64))
    try:
        sink.open(names, names, 50.0)
        inlet.open(PATIENCE_S)
        for seq in range(20_000):
            sink.write(Decoded(seq, 0.02 * seq, np.zeros(64), 0))
        heard = [d.seq_in for d in inlet.read(PATIENCE_S)]
        while len(more := inlet.read(0.2)):
            heard += [d.seq_in for d in more]
        assert 50 <= len(heard) < 20_000 and heard == sorted(heard)
    finally:
        inlet.close()
        sink.close()


def test_a_listener_that_subscribes_without_end_costs_a_sample_nothing() -> None:
    _, config = configs("zmq")
    sink = ZmqSink(config)
    context = zmq.Context()
    try:
        sink.open(("vx",), ("m/s",), 50.0)
        hostile = context.socket(zmq.XSUB)
        hostile.connect(config.address)
        for k in range(20_000):
            hostile.send(b"\x01" + str(k).encode())
        sink.write(Decoded(0, 0.02, np.zeros(1), 0))
        hostile.send(b"\x01" + bytes(10_000))  # longer than any topic: the end of its connection
        inlet = ZmqRigInlet(config)
        try:
            inlet.open(PATIENCE_S)
            assert sink._socket is not None and len(sink._socket._topics) <= 1024
        finally:
            inlet.close()
    finally:
        context.destroy(linger=0)
        sink.close()


def test_a_second_decoder_is_greeted_too_and_later_ones_hear_repeats() -> None:
    with opened("zmq") as (outlet, source, first):
        assert isinstance(source, ZmqSource)
        second = ZmqSource(source._config)
        try:
            assert second.open(PATIENCE_S).uid == first.uid
            start = time.monotonic()
            assert source.read(HELLO_S + 0.5) == []  # greetings are no items, and nothing to return early for
            assert time.monotonic() - start >= HELLO_S + 0.5
        finally:
            second.close()
        assert isinstance(outlet, ZmqRigOutlet)


def test_an_idle_sink_greets_its_listeners() -> None:
    """The rig must hear the decoder's outputs before it sends the first bin."""
    _, config = configs("zmq")
    sink, inlets = ZmqSink(config), [ZmqRigInlet(config) for _ in range(2)]
    try:
        sink.open(("vx", "vy"), ("m/s", "m/s"), 50.0)
        for inlet in inlets:
            assert inlet.open(PATIENCE_S) == ("vx", "vy")
        sink.write(Decoded(0, 0.02, np.array([1.0, 2.0]), 0))
        for inlet in inlets:
            assert [d.seq_in for d in inlet.read(PATIENCE_S)] == [0]
    finally:
        for inlet in inlets:
            inlet.close()
        sink.close()


def test_malformed_messages_are_counted_and_left_out() -> None:
    with opened("zmq") as (outlet, source, spec):
        assert isinstance(outlet, ZmqRigOutlet) and isinstance(source, ZmqSource) and outlet._socket is not None
        markers, counts = source._config.markers.encode(), source._config.stream.encode()
        for frames in ([markers], [markers, b"{"], [markers, b"{}", b""], [markers, b"x" * 100000]):
            outlet._socket.send(frames)
        outlet._socket.send(wire.encode_event(markers.decode(), 1.0, {"event": "end_time", "trial_success": "perhaps"}))
        outlet.push(TrialEvent(2.0, START))
        outlet.push(TrialEvent(3.0, GO, 2.5))
        found = collect(source, 0, 3)
        assert [(e.name, e.value) for e in events_of(found)] == [("end", False), (START, None), (GO, 2.5)]
        assert source.malformed_events == 5
        assert (source.malformed_bins, source.last_malformed) == (0, "")

        good = wire.encode_counts(counts.decode(), Bin(7, 1.0, np.zeros(4, np.float32)), spec.bin_s)
        wide = [counts, good[1].replace(b"float32", b"int32"), good[2]]
        narrow = wire.encode_counts(counts.decode(), Bin(8, 1.0, np.zeros(2, np.float32)), spec.bin_s)
        slow = wire.encode_counts(counts.decode(), Bin(9, 1.0, np.zeros(4, np.float32)), 2 * spec.bin_s)
        nonsense = ([counts], [counts, b"{"], [counts, *good[1:], *[b""] * 100], [counts + wire.SPEC_SUFFIX.encode(), b"{}"])
        for frames in (good, *nonsense, wide, slow, narrow, good):
            outlet._socket.send(frames)
        assert [b.seq for b in bins_of(collect(source, 2, 0))] == [7, 7]
        assert source.malformed_bins == 7
        assert source.last_malformed == (f"ZeroMQ topic {counts.decode()!r}: counts message 8: expected 4 channels, found 2")


def test_a_flood_of_nonsense_does_not_hold_a_read_up() -> None:
    with opened("zmq") as (outlet, source, _):
        assert isinstance(outlet, ZmqRigOutlet) and isinstance(source, ZmqSource) and outlet._socket is not None
        for _ in range(5000):
            outlet._socket.send([source._config.stream.encode(), b"\xff"])
        reads = 0
        while source.malformed_bins < 5000:
            assert source.read(0.001) == []
            reads += 1
        assert reads > 1


def test_an_oversized_frame_ends_the_connection() -> None:
    with opened("zmq") as (outlet, source, _):
        assert isinstance(outlet, ZmqRigOutlet) and isinstance(source, ZmqSource) and outlet._socket is not None
        outlet._socket.send([source._config.stream.encode(), b"{}", bytes(2**21)])
        with pytest.raises(StreamError, match="lost"):
            stop = time.monotonic() + PATIENCE_S
            while time.monotonic() < stop:
                source.read(0.2)


def test_a_rig_is_told_before_a_slow_decoder_loses_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bci_align.streams.zmq_sockets.HIGH_WATER", 100)
    with opened("zmq") as (outlet, _, _), pytest.raises(StreamError, match="a listener has fallen 100 messages behind"):
        item = Bin(0, 1.0, np.zeros(4, np.float32))
        for _ in range(10**6):
            outlet.push(item)
