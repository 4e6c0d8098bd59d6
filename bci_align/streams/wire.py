"""ZeroMQ wire format, version 1: pure functions between our types and message frames.

========  ======================================================================================================
counts    ``[topic, {v, seq, t_ns, clock, dtype, shape, bin_ms}, little-endian buffer of shape (C,)]``
spec      ``[topic + ".spec", {v, name, uid, channels, bin_ms, clock, events, dtype}]``, ``events``: the events' topic or null,
          ``dtype``: that of all counts, where it is told
event     ``[topic, {v, t_ns, clock, event, ...}]``, further keys are the event's payload
sample    ``[topic, {v, seq_in, t_ns, generation, flags, names, units, clock, dtype, shape}, buffer of shape (K,)]``
output    ``[topic + ".spec", {v, names, units, rate_hz, uid}]``, what a sink says of itself
========  ======================================================================================================

Headers are JSON objects of at most 64 KiB; a reader ignores keys that it does not know and refuses another ``v``. Specs are
sent to each new subscriber and once a second, because subscribers join late. Every ``decode_*`` function checks all of
a message, the buffer's length first, before it allocates anything, and raises only :class:`StreamError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bci_align.errors import StreamError
from bci_align.streams.contract import Bin, Decoded, Flags, StreamSpec

MAX_HEADER = 64 * 1024
MAX_CHANNELS = 65536
SPEC_SUFFIX = ".spec"
CLOCK = "sender"
"""``clock`` of our own messages: seconds on whatever clock the sender stamps with; readers never compare clocks."""

Frames = Sequence[bytes]
Dtype = Literal["float32", "int32", "int16", "uint16", "uint8"]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Nanoseconds = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=MAX_CHANNELS)]
Shape = tuple[Annotated[int, Field(ge=1, le=MAX_CHANNELS)]]


_LITTLE = {name: np.dtype(name).newbyteorder("<") for name in ("float64", *get_args(Dtype))}


class _Header(BaseModel):
    """Base of all headers: exact JSON types, no NaN, and keys of later versions ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    v: Literal[1] = 1


class _Counts(_Header):
    seq: Whole
    t_ns: Nanoseconds
    clock: str
    dtype: Dtype
    shape: Shape
    bin_ms: float = Field(gt=0)


class _Spec(_Header):
    name: str
    uid: str = Field(min_length=1)
    channels: Labels
    bin_ms: float = Field(gt=0)
    clock: str
    events: str | None
    dtype: Dtype | None = None


class _Event(_Header):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    t_ns: Nanoseconds
    clock: str
    event: str


class _Sample(_Header):
    seq_in: Annotated[int, Field(ge=-1, lt=2**63)]  # -1: no bin has come yet
    t_ns: Nanoseconds
    generation: Whole
    flags: Annotated[int, Field(ge=0, lt=2**31)]
    names: Labels
    units: Labels
    clock: str
    dtype: Literal["float64"]
    shape: Shape


_NUMBERS = b'{"v":1,"seq_in":%d,"t_ns":%d,"generation":%d,"flags":%d,'
"""How the header of a sample begins."""


class OutputSpec(_Header):
    """What a sink says of itself: output names and units (K each), nominal rate in Hz, identity of this very socket."""

    names: Labels
    units: Labels
    rate_hz: float = Field(gt=0)
    uid: str = Field(min_length=1)


H = TypeVar("H", bound=_Header)


def to_ns(t: float) -> int:
    """Seconds to whole nanoseconds; :class:`StreamError` beyond the range of int64."""
    if not math.isfinite(t) or abs(t) >= 2**63 / 1e9:
        raise StreamError(f"time stamp: expected finite seconds within 292 years of zero, found {t!r}")
    whole = math.floor(t)  # split, so that stamps of the Unix epoch's size keep their last digits
    return whole * 10**9 + round((t - whole) * 1e9)


def from_ns(t_ns: int) -> float:
    """Whole nanoseconds to seconds, correctly rounded; within 1 ns (or the float's own spacing) of what went in."""
    return t_ns / 10**9


def encode_counts(topic: str, item: Bin, bin_s: float) -> list[bytes]:
    """Frames of one bin; ``item.counts`` (C,) go out as float32."""
    data = np.ascontiguousarray(item.counts, dtype="<f4")
    header = _build(
        _Counts,
        seq=int(item.seq),
        t_ns=to_ns(item.t),
        clock=CLOCK,
        dtype="float32",
        shape=tuple(data.shape),
        bin_ms=bin_s * 1e3,
    )
    return [topic.encode(), _dump(header), data.tobytes()]


def decode_counts(frames: Frames, spec: StreamSpec | None = None, arrived: float = math.nan) -> Bin:
    """One bin, checked against the stream's ``spec`` (channel count, bin width, dtype) where one is given.

    ``arrived``: when the message came, for the bin's stamp.
    """
    header = _parse(_Counts, frames, 3)
    counts = _array(header.dtype, header.shape, frames[2]).astype(np.float32)
    if spec is not None:
        if len(counts) != len(spec.channels):
            raise StreamError(f"counts message {header.seq}: expected {len(spec.channels)} channels, found {len(counts)}")
        if not math.isclose(header.bin_ms, spec.bin_s * 1e3, rel_tol=1e-6):
            raise StreamError(f"counts message {header.seq}: expected bin_ms {spec.bin_s * 1e3:g}, found {header.bin_ms:g}")
        if spec.format not in ("", header.dtype):
            raise StreamError(f"counts message {header.seq}: expected dtype {spec.format}, found {header.dtype}")
    return Bin(header.seq, from_ns(header.t_ns), counts, arrived)


def encode_spec(topic: str, spec: StreamSpec, events: str | None) -> list[bytes]:
    """Frames of a counts stream's spec; ``events`` is the topic of its trial events."""
    header = _build(
        _Spec,
        name=spec.name,
        uid=spec.uid,
        channels=spec.channels,
        bin_ms=spec.bin_s * 1e3,
        clock=CLOCK,
        events=events,
        dtype=spec.format or None,
    )
    return [(topic + SPEC_SUFFIX).encode(), _dump(header)]


def decode_spec(frames: Frames) -> tuple[StreamSpec, str | None]:
    """A counts stream's spec and the topic of its trial events (None: it has none)."""
    header = _parse(_Spec, frames, 2)
    if len(set(header.channels)) != len(header.channels):
        twice = next(c for c in header.channels if header.channels.count(c) > 1)
        raise StreamError(f"spec message: expected unique channel labels, found {twice!r} more than once")
    return StreamSpec(header.channels, header.bin_ms / 1e3, header.name, header.uid, header.dtype or ""), header.events


def encode_event(topic: str, t: float, payload: Mapping[str, object]) -> list[bytes]:
    """Frames of one event: ``payload`` as of :func:`~bci_align.streams.events.event_payload`, at ``t`` seconds."""
    if clash := {"v", "t_ns", "clock"} & payload.keys():
        raise StreamError(f"event message: the key {clash.pop()!r} is taken by the wire format")
    return [topic.encode(), _dump(_build(_Event, t_ns=to_ns(t), clock=CLOCK, **payload))]


def decode_event(frames: Frames) -> tuple[float, dict[str, object]]:
    """Time in seconds and payload of one event, for :meth:`~bci_align.streams.events.EventReader.read`."""
    header = _parse(_Event, frames, 2)
    return from_ns(header.t_ns), {**(header.model_extra or {}), "event": header.event}


class SampleEncoder:
    """Gives the frames of decoded samples of outputs ``names`` and ``units`` (K each).

    What does not change from sample to sample is checked and written as JSON once: the decoder does this between a bin's
    arrival and its answer.
    """

    def __init__(self, topic: str, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        self._topic = topic.encode()
        self._rest = {"names": names, "units": units, "clock": CLOCK, "dtype": "float64", "shape": (len(names),)}
        longest = (2**63 - 1, -(2**63), 2**63 - 1, 2**31 - 1)
        written = _dump(self._checked(*longest)).removeprefix(_NUMBERS % longest)
        self._header = _NUMBERS + written.replace(b"%", b"%%")

    def __call__(self, sample: Decoded) -> list[bytes]:
        """Frames of one sample; ``sample.values`` (K,) go out as float64. :class:`StreamError` for what no reader would take."""
        data = np.ascontiguousarray(sample.values, dtype="<f8")
        if data.shape != self._rest["shape"]:
            raise StreamError(
                f"decoded sample {sample.seq_in}: expected {self._rest['shape'][0]} values, found shape {data.shape}"
            )
        seq, t_ns, generation, flags = numbers = int(sample.seq_in), to_ns(sample.t), int(sample.generation), int(sample.flags)
        if not (-1 <= seq < 2**63 and 0 <= generation < 2**63 and 0 <= flags < 2**31):
            self._checked(*numbers)  # says which, and what was expected
        return [self._topic, self._header % (seq, t_ns, generation, flags), data.tobytes()]

    def _checked(self, seq: int, t_ns: int, generation: int, flags: int) -> _Sample:
        return _build(_Sample, seq_in=seq, t_ns=t_ns, generation=generation, flags=flags, **self._rest)


def decode_sample(frames: Frames) -> Decoded:
    """One decoded sample."""
    header = _parse(_Sample, frames, 3)
    values = _array(header.dtype, header.shape, frames[2]).astype(np.float64)
    if not len(header.names) == len(header.units) == len(values):
        raise StreamError(
            f"sample message {header.seq_in}: expected one name and unit per value, "
            f"found {len(values)} values, {len(header.names)} names and {len(header.units)} units"
        )
    return Decoded(header.seq_in, from_ns(header.t_ns), values, header.generation, Flags(header.flags))


def encode_output(topic: str, output: OutputSpec) -> list[bytes]:
    """Frames of a sink's spec."""
    return [(topic + SPEC_SUFFIX).encode(), _dump(output)]


def decode_output(frames: Frames) -> OutputSpec:
    """A sink's spec."""
    return _parse(OutputSpec, frames, 2)


def _build(model: type[H], **fields: Any) -> H:
    try:
        return model(**fields)
    except ValidationError as e:
        raise StreamError(_fault(model, e)) from None


def _dump(header: _Header) -> bytes:
    try:
        data = header.model_dump_json().encode()
    except ValueError as e:  # an event's payload that JSON does not know
        raise StreamError(f"{_label(type(header))} message: cannot be written as JSON ({e})") from None
    if len(data) > MAX_HEADER:
        raise StreamError(f"{_label(type(header))} message: expected a header of at most {MAX_HEADER} bytes, found {len(data)}")
    return data


def _parse(model: type[H], frames: Frames, count: int) -> H:
    if len(frames) != count:
        raise StreamError(f"{_label(model)} message: expected {count} frames, found {len(frames)}")
    if len(frames[1]) > MAX_HEADER:
        raise StreamError(f"{_label(model)} message: expected a header of at most {MAX_HEADER} bytes, found {len(frames[1])}")
    try:
        return model.model_validate_json(frames[1])
    except ValidationError as e:
        raise StreamError(_fault(model, e)) from None


def _array(dtype: str, shape: tuple[int], buffer: bytes) -> NDArray[Any]:
    """A view on ``buffer`` as a little-endian (N,) array."""
    kind = _LITTLE[dtype]
    if shape[0] * kind.itemsize != len(buffer):
        raise StreamError(
            f"message buffer: expected {shape[0] * kind.itemsize} bytes for {shape[0]} values of {dtype}, found {len(buffer)}"
        )
    return np.frombuffer(buffer, dtype=kind)


def _label(model: type[_Header]) -> str:
    return {"_Counts": "counts", "_Event": "event", "_Sample": "sample"}.get(model.__name__, "spec")


def _fault(model: type[_Header], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(p) for p in first["loc"]) or "header"
    return f"{_label(model)} message: {where}: {first['msg']}, found {first['input']!r:.80}"
