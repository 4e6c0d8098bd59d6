from __future__ import annotations

import time

import numpy as np
import pytest

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError, StreamError
from bci_align.streams import wire
from bci_align.streams.contract import END, GO, START, Bin, Decoded, StreamSpec, TrialEvent
from bci_align.streams.zmq import ZmqRigInlet, ZmqRigOutlet, ZmqSink, ZmqSource
from bci_align.streams.zmq_sockets import HELLO_S, checked

from .rigs import PATIENCE_S, SPEC, assert_same, bins_of, collect, configs, events_of, opened, session


@pytest.mark.parametrize(
    "address, found",
    [
        ("tcp://127.0.0.1:5571", "tcp://127.0.0.1:5571"),
        ("tcp://localhost:5571", "tcp://127.0.0.1:5571"),
        ("tcp://[::1]:5571", "tcp://[::1]:5571"),
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
        with pytest.raises(StreamError, match=r"its sender is gone|the sender was restarted"):
            stop = time.monotonic() + PATIENCE_S
            while time.monotonic() < stop:
                outlet.push(Bin(0, 1.0, np.zeros(4, np.float32)))
                source.read(0.05)
    finally:
        source.close()
        outlet.close()


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


def test_a_malformed_event_is_counted_and_a_malformed_bin_ends_the_stream() -> None:
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
        assert source.events.malformed == 5
        narrow = StreamSpec(spec.channels[:2], spec.bin_s, spec.name, spec.uid)
        outlet._socket.send(
            wire.encode_counts(counts.decode(), Bin(0, 1.0, np.zeros(len(narrow.channels), np.float32)), narrow.bin_s)
        )
        with pytest.raises(StreamError, match="counts message 0: expected 4 channels, found 2"):
            collect(source, 1, 0)


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
