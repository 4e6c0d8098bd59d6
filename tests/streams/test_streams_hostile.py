"""What a hostile or broken sender can put on the wire: no exception but ours, and no memory for what is only declared."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.config import EventNames
from bci_align.errors import StreamError
from bci_align.streams import wire
from bci_align.streams.contract import Bin, Decoded, StreamSpec
from bci_align.streams.events import EventReader
from bci_align.streams.zmq import ZmqRigOutlet, ZmqSource
from bci_align.streams.zmq_sockets import MAX_MESSAGE

from .rigs import PATIENCE_S, bins_of, collect, opened

pytestmark = pytest.mark.computes

SPEC = StreamSpec(("a", "b", "c"), 0.02, "rig", "uid-1", "float32")
GOOD: dict[str, tuple[Callable[[list[bytes]], object], list[bytes]]] = {
    "counts": (
        lambda f: wire.decode_counts(f, SPEC),
        wire.encode_counts("t", Bin(7, 12.34, np.array([0, 1, 5], np.float32)), 0.02),
    ),
    "spec": (wire.decode_spec, wire.encode_spec("t", SPEC, "e")),
    "event": (wire.decode_event, wire.encode_event("e", 1.5, {"event": "end_time", "trial_success": True})),
    "sample": (wire.decode_sample, wire.SampleEncoder("v", ("x", "y"), ("1", "1"))(Decoded(3, 0.1, np.zeros(2), 0))),
    "output": (
        wire.decode_output,
        wire.encode_output("v", wire.OutputSpec(names=("x",), units=("1",), rate_hz=50.0, uid="u")),
    ),
}
kinds = pytest.mark.parametrize("kind", list(GOOD))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
anything = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3))


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(kind: str, frames: list[bytes]) -> None:
    with pytest.raises(StreamError) as e:
        GOOD[kind][0](frames)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500


@kinds
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_good_message_with_changed_bytes(kind: str, data: st.DataObject) -> None:
    decode, frames = GOOD[kind]
    which = data.draw(st.integers(1, len(frames) - 1))
    frame = bytearray(frames[which])
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=4)):
        frame[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)) | st.just(len(frame)))
    try:
        decode([*frames[:which], bytes(frame[:cut]), *frames[which + 1 :]])
    except StreamError as e:
        assert "\n" not in str(e)


@kinds
@given(data=st.data(), value=anything)
@settings(deadline=None, max_examples=60)
def test_a_good_header_with_one_other_value(kind: str, data: st.DataObject, value: object) -> None:
    decode, frames = GOOD[kind]
    header = json.loads(frames[1])
    header[data.draw(st.sampled_from(sorted(header)))] = value
    try:
        decode([frames[0], json.dumps(header).encode(), *frames[2:]])
    except StreamError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize("kind", ["counts", "sample"])
@pytest.mark.parametrize("shape", [[10 * 2**30 // 4], [2**63], [10**30], [65536], [4, 10**9], [-1], []])
def test_an_array_that_is_only_declared_is_refused_before_it_is_made(kind: str, shape: list[int]) -> None:
    frames = GOOD[kind][1]
    header = json.dumps({**json.loads(frames[1]), "shape": shape}).encode()
    assert peak_of(lambda: refused(kind, [frames[0], header, frames[2]])) < 2**18


@kinds
@pytest.mark.parametrize(
    "header",
    [b"[" * 60_000, b'{"a":' * 10_000, b"9" * 60_000, b'"\\ud800"', b"\xff" * 60_000, b" " * (wire.MAX_HEADER + 1), b"", b"null"],
    ids=["lists", "objects", "digits", "surrogate", "bytes", "long", "empty", "null"],
)
def test_a_header_that_is_none(kind: str, header: bytes) -> None:
    frames = GOOD[kind][1]
    assert peak_of(lambda: refused(kind, [frames[0], header, *frames[2:]])) < 2**22


def test_labels_without_end_take_no_more_than_their_header() -> None:
    for labels in (["a"] * 16_000, [f"{k:04x}" for k in range(9_000)], ["x" * 60_000]):
        header = json.dumps({**json.loads(GOOD["spec"][1][1]), "channels": labels}, separators=(",", ":")).encode()
        assert len(header) <= wire.MAX_HEADER
        try:
            assert peak_of(lambda: wire.decode_spec([b"t", header])) < 2**23  # noqa: B023
        except StreamError as e:
            assert len(str(e)) < 500


@pytest.mark.parametrize("text", ["[" * 60_000, '{"a":' * 10_000, '{"event": "end_time", "trial_success": ' + "9" * 5000 + "}"])
def test_markers_that_are_none_take_bounded_memory(text: str) -> None:
    reader = EventReader(EventNames())
    assert peak_of(lambda: reader.parse(1.0, text)) < 2**23


@pytest.mark.live
def test_a_source_goes_on_through_all_of_it() -> None:
    """Everything above, over a real socket, between two good bins; only a frame beyond the limit ends the connection."""
    with opened("zmq") as (outlet, source, spec):
        assert isinstance(outlet, ZmqRigOutlet) and isinstance(source, ZmqSource) and outlet._socket is not None
        topic, markers = source._config.stream.encode(), source._config.markers.encode()
        good = wire.encode_counts(topic.decode(), Bin(0, 1.0, np.zeros(4, np.float32)), spec.bin_s)
        outlet._socket.send(good)
        huge = json.dumps({**json.loads(good[1]), "shape": [10 * 2**30]}).encode()
        hostile = [
            [topic, huge, good[2]],
            [topic, b"[" * 60_000, b""],
            [topic, b"\xff", bytes(MAX_MESSAGE)],
            [topic],
            [topic] * 500,
        ]
        hostile += [[topic + b".spec", b"[" * 60_000], [topic + b".spec"], [markers, b"[" * 60_000], [markers] * 500]
        for frames in hostile:
            outlet._socket.send(frames)
        outlet._socket.send(good)
        assert len(bins_of(collect(source, 2, 0))) == 2
        assert (source.malformed_bins, source.malformed_events) == (7, 2)
        outlet._socket.send([topic, b"{}", bytes(MAX_MESSAGE + 1)])
        with pytest.raises(StreamError, match="lost"):
            stop = time.monotonic() + PATIENCE_S
            while time.monotonic() < stop:
                source.read(0.2)
