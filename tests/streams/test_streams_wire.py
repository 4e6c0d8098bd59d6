from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bci_align.errors import StreamError
from bci_align.streams import wire
from bci_align.streams.contract import Bin, Decoded, Flags, StreamSpec

pytestmark = pytest.mark.computes

SPEC = StreamSpec(("a", "b", "c"), 0.02, "rig", "uid-1")
BIN = Bin(7, 12.34, np.array([0, 1, 5], np.float32))
DECODERS = (wire.decode_counts, wire.decode_spec, wire.decode_event, wire.decode_sample, wire.decode_output)


@given(seq=st.integers(0, 2**63 - 1), t=st.floats(-4e6, 2e9), counts=hnp.arrays(np.float32, st.integers(1, 40)))
@settings(deadline=None)
def test_counts_round_trip(seq: int, t: float, counts: np.ndarray) -> None:
    found = wire.decode_counts(wire.encode_counts("topic", Bin(seq, t, counts), 0.02))
    assert found.seq == seq
    assert found.counts.dtype == np.float32 and found.counts.tobytes() == counts.tobytes()
    assert found.counts.flags.writeable
    assert abs(found.t - t) <= 1e-9 + math.ulp(t)


@given(t=st.floats(-9e9, 9e9))
@settings(deadline=None)
def test_stamps_round_trip_far_below_a_microsecond(t: float) -> None:
    assert abs(wire.from_ns(wire.to_ns(t)) - t) <= 1e-9 + math.ulp(t)


@pytest.mark.parametrize("t", [math.nan, math.inf, -math.inf, 1e10])
def test_stamps_beyond_int64_are_refused(t: float) -> None:
    with pytest.raises(StreamError, match="time stamp"):
        wire.to_ns(t)


@pytest.mark.parametrize("events", ["topic.events", None])
@pytest.mark.parametrize("bin_s", [0.01, 0.02, 1 / 30])
def test_spec_round_trip(bin_s: float, events: str | None) -> None:
    spec = StreamSpec(SPEC.channels, bin_s, "rig", "uid")
    frames = wire.encode_spec("t", spec, events)
    assert frames[0] == b"t.spec"
    found, where = wire.decode_spec(frames)
    assert where == events
    assert (found.channels, found.name, found.uid) == (spec.channels, spec.name, spec.uid)
    assert found.bin_s == pytest.approx(bin_s, rel=1e-15)


def test_event_sample_and_output_round_trip() -> None:
    assert wire.decode_event(wire.encode_event("e", 1.25, {"event": "end_time", "trial_success": True})) == (
        1.25,
        {"event": "end_time", "trial_success": True},
    )
    sample = Decoded(9, 0.18, np.array([1.5, -2.25]), 4, Flags.GAP | Flags.IN_TRIAL)
    found = wire.decode_sample(wire.SampleEncoder("v", ("vx", "vy"), ("m/s", "m/s"))(sample))
    assert (found.seq_in, found.t, found.generation, found.flags) == (9, 0.18, 4, Flags.GAP | Flags.IN_TRIAL)
    assert found.values.tobytes() == sample.values.tobytes()
    output = wire.OutputSpec(names=("vx",), units=("m/s",), rate_hz=50.0, uid="u")
    assert wire.decode_output(wire.encode_output("v", output)) == output


def test_other_integer_counts_are_readable() -> None:
    head = json.loads(wire.encode_counts("t", BIN, 0.02)[1])
    for dtype in ("int16", "int32", "uint16", "uint8"):
        data = np.array([0, 200, 3], np.dtype(dtype).newbyteorder("<"))
        frames = [b"t", json.dumps({**head, "dtype": dtype}).encode(), data.tobytes()]
        assert wire.decode_counts(frames, SPEC).counts.tolist() == [0, 200, 3]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"v": 2}, "v: "),
        ({"seq": -1}, "seq: "),
        ({"seq": 1.0}, "seq: "),
        ({"seq": True}, "seq: "),
        ({"seq": 2**70}, "seq: "),
        ({"t_ns": 2**63}, "t_ns: "),
        ({"t_ns": "0"}, "t_ns: "),
        ({"dtype": "object"}, "dtype: "),
        ({"dtype": "float64"}, "dtype: "),
        ({"shape": [0]}, "shape.0: "),
        ({"shape": [10**12]}, "shape.0: "),
        ({"shape": [3, 1]}, "shape"),
        ({"shape": 3}, "shape: "),
        ({"shape": [4]}, "message buffer: expected 16 bytes for 4 values of float32, found 12"),
        ({"bin_ms": 0}, "bin_ms: "),
        ({"bin_ms": math.nan}, "bin_ms"),
        ({"bin_ms": 10}, "expected bin_ms 20, found 10"),
    ],
)
def test_a_header_that_lies_is_named(change: dict[str, object], sentence: str) -> None:
    frames = wire.encode_counts("t", BIN, 0.02)
    head = {**json.loads(frames[1]), **change}
    with pytest.raises(StreamError) as e:
        wire.decode_counts([frames[0], json.dumps(head).encode(), frames[2]], SPEC)
    assert sentence in str(e.value)


def test_channels_must_be_the_streams() -> None:
    with pytest.raises(StreamError, match="counts message 7: expected 2 channels, found 3"):
        wire.decode_counts(wire.encode_counts("t", BIN, 0.02), StreamSpec(("a", "b"), 0.02, "rig", "u"))
    twice = wire.encode_spec("t", StreamSpec(("a", "b", "a"), 0.02, "rig", "u"), None)
    with pytest.raises(StreamError, match="'a' more than once"):
        wire.decode_spec(twice)


def test_frames_and_sizes_are_checked_before_anything_is_read() -> None:
    frames = wire.encode_counts("t", BIN, 0.02)
    with pytest.raises(StreamError, match="expected 3 frames, found 2"):
        wire.decode_counts(frames[:2])
    with pytest.raises(StreamError, match="at most 65536 bytes"):
        wire.decode_counts([frames[0], b"{" + b" " * 70000 + frames[1][1:], frames[2]])
    with pytest.raises(StreamError, match="at most 65536 bytes"):
        wire.encode_spec("t", StreamSpec(tuple(f"channel {k:08d}" for k in range(5000)), 0.02, "rig", "u"), None)
    huge = json.dumps({**json.loads(frames[1]), "shape": [65536]}).encode()
    tracemalloc.start()
    with pytest.raises(StreamError):
        wire.decode_counts([frames[0], huge, frames[2]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 65536


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(StreamError, match="expected 1 values, found shape"):
        wire.SampleEncoder("v", ("vx",), ("m/s",))(Decoded(0, 0.0, np.zeros(2), 0))
    with pytest.raises(StreamError, match="taken by the wire format"):
        wire.encode_event("e", 0.0, {"event": "x", "t_ns": 3})
    with pytest.raises(StreamError, match="seq"):
        wire.encode_counts("t", Bin(-1, 0.0, BIN.counts), 0.02)
    with pytest.raises(StreamError, match="cannot be written as JSON"):
        wire.encode_event("e", 0.0, {"event": "x", "what": object()})


def attempt(frames: list[bytes]) -> None:
    for decode in DECODERS:
        try:
            decode(frames)
        except StreamError as e:
            assert "\n" not in str(e)


@given(st.lists(st.binary(max_size=200), max_size=4))
@settings(deadline=None)
def test_arbitrary_bytes_only_raise_stream_errors(frames: list[bytes]) -> None:
    attempt(frames)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
anything = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3))
GOOD = {
    "v": 1,
    "seq": 1,
    "seq_in": 1,
    "t_ns": 5,
    "clock": "c",
    "dtype": "float32",
    "shape": [2],
    "bin_ms": 20,
    "name": "n",
    "uid": "u",
    "channels": ["a"],
    "events": None,
    "event": "start_time",
    "generation": 0,
    "flags": 0,
    "names": ["x", "y"],
    "units": ["1", "1"],
    "rate_hz": 50,
}


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, anything)), st.binary(max_size=32), st.binary(max_size=4))
@settings(deadline=None, max_examples=300)
def test_nearly_right_headers_only_raise_stream_errors(change: dict[str, object], buffer: bytes, tail: bytes) -> None:
    header = json.dumps({**GOOD, **change}).encode() + tail
    attempt([b"t", header])
    attempt([b"t", header, buffer])


@pytest.mark.parametrize("header", [b'{"a":' * 10000, b"[" * 60000, b'"\\ud800"', b"\xff\xfe", b"9" * 60000, b'{"v":1,"v":1}'])
def test_hostile_json_only_raises_stream_errors(header: bytes) -> None:
    attempt([b"t", header])
    attempt([b"t", header, b"1234"])


@given(
    seq=st.integers(-1, 2**63 - 1),
    t=st.floats(-9e9, 9e9),
    generation=st.integers(0, 2**63 - 1),
    flags=st.integers(0, 2**23 - 1),
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4).map(tuple),
)
def test_every_sample_comes_back_whatever_its_outputs_are_called(
    seq: int, t: float, generation: int, flags: int, names: tuple[str, ...]
) -> None:
    sample = Decoded(seq, t, np.arange(len(names)) / 7, generation, Flags(flags))
    try:
        frames = wire.SampleEncoder("v", names, names)(sample)
    except (StreamError, UnicodeEncodeError):
        assert any(0xD800 <= ord(c) < 0xE000 for name in names for c in name)  # no text that JSON can carry
        return
    head = json.loads(frames[1])
    assert (head["names"], head["units"], head["shape"], head["v"]) == (list(names), list(names), [len(names)], 1)
    found = wire.decode_sample(frames)
    assert (found.seq_in, found.generation, found.flags) == (seq, generation, Flags(flags))
    assert found.t == wire.from_ns(wire.to_ns(t))
    assert found.values.tobytes() == sample.values.tobytes()


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        (Decoded(-2, 0.0, np.zeros(1), 0), "seq_in"),
        (Decoded(2**63, 0.0, np.zeros(1), 0), "seq_in"),
        (Decoded(0, 0.0, np.zeros(1), -1), "generation"),
        (Decoded(0, 0.0, np.zeros(1), 0, Flags(2**31)), "flags"),
        (Decoded(0, float("nan"), np.zeros(1), 0), "time stamp"),
    ],
)
def test_a_sample_that_no_reader_would_take_is_not_sent(sample: Decoded, field: str) -> None:
    with pytest.raises(StreamError, match=field):
        wire.SampleEncoder("v", ("vx",), ("m/s",))(sample)
