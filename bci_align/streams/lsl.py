"""Lab Streaming Layer: the decoder's side. (The rig's side is in :mod:`bci_align.streams.lsl_rig`.)

Counts come as a stream of type ``SpikeCounts`` (float32 or another numeric format, nominal rate one over the bin width,
``desc/channels`` with a label per channel, ``desc/binning`` with ``bin_ms`` and ``stamp`` = ``end``, optionally a last
channel of type ``seq``), trial events as a stream of type ``Markers``, and the output goes out as ``DecodedVelocity``.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pylsl

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import StreamError
from bci_align.streams import lsl_common as common
from bci_align.streams.contract import Bin, Decoded, StreamSpec, TrialEvent
from bci_align.streams.events import EventReader
from bci_align.streams.lsl_rig import LslRigInlet, LslRigOutlet
from bci_align.streams.ordering import EventOrder

__all__ = ["LslRigInlet", "LslRigOutlet", "LslSink", "LslSource"]

_CHUNK = 1024
"""Most bins of one read: a replay at full speed must not keep the decoder from writing."""

_DTYPES = {pylsl.cf_float32: np.float32, pylsl.cf_int16: np.int16, pylsl.cf_int32: np.int32, pylsl.cf_double64: np.float64}


class LslSource:
    """Bins and trial events from LSL.

    ``events.malformed`` counts markers that could not be understood. Without a ``seq`` channel the received bins are
    numbered, and a lost one cannot be told. Where counts and markers come from different machines, whose LSL clocks
    differ, marker times are moved to the counts' clock; bins keep the sender's time stamps as they are.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self.events = EventReader(config.events)
        self._what = f"LSL stream {config.stream!r}"
        self._counts: Any = None
        self._markers: Any = None
        self._fault: StreamError | None = None

    def open(self, timeout_s: float) -> StreamSpec:
        """Find counts and markers by their ``source_id`` and connect; :class:`StreamError` says what was missing."""
        c = self._config
        deadline = time.monotonic() + timeout_s
        found = common.find(c.stream, common.COUNTS, deadline, timeout_s)
        try:
            found_markers = common.find(c.markers, common.MARKERS, deadline, timeout_s)
        except StreamError as e:
            raise StreamError(f"no trial events: {e}") from None
        if found_markers.channel_format() != pylsl.cf_string or found_markers.channel_count() != 1:
            raise StreamError(
                f"LSL stream {c.markers!r}: expected one channel of strings, found {found_markers.channel_count()} "
                f"channel(s) of {_format_name(found_markers.channel_format())}"
            )
        # Markers first: an event must never find its connection still closed when its bin is already under way.
        self._markers, _ = common.connect(found_markers, deadline, timeout_s)
        self._counts, info = common.connect(found, deadline, timeout_s)
        spec, self._has_seq = describe(info, c.stream)
        self._modulus = common.SEQ_MODULUS[info.channel_format()]
        self._buffer = np.empty((_CHUNK, info.channel_count()), dtype=_DTYPES[info.channel_format()])
        self._order = EventOrder(self._what, spec.bin_s)
        self._seq, self._fault = -1, None
        self._two_clocks = found.hostname() != found_markers.hostname()
        if self._two_clocks:
            self._shift(max(deadline - time.monotonic(), 1.0))
        return spec

    def read(self, timeout_s: float) -> list[Bin | TrialEvent]:
        """See :class:`~bci_align.streams.contract.Source`. Waits for bins; events that come alone are given after the time.

        An event further ahead than the next bin is kept back until its bin.
        """
        if self._counts is None:
            raise StreamError(f"{self._what}: expected an open stream, found a closed one")
        if self._fault is not None:
            raise self._fault
        try:
            bins = self._pull_bins(timeout_s)
        except StreamError as e:
            self._fault = e  # for good: what came with the fault has been consumed
            if held := self._order.rest():  # the end of the last trial comes after the last bin
                return held
            raise
        events = self._pull_events()  # after the bins, so that events sent before them are in
        now = time.monotonic()
        self._order.add(events, now)
        return self._order.merge(bins, now)

    def close(self) -> None:
        """Disconnect; harmless when called twice."""
        self._counts = self._markers = None  # pylsl disconnects when the inlet is collected

    def _pull_bins(self, timeout_s: float) -> list[Bin]:
        buffer = self._buffer
        with common.lost_means(self._what):
            # liblsl waits until a chunk is FULL: wait for a chunk of one, then take what else is there.
            _, stamps = self._counts.pull_chunk(timeout=timeout_s, max_samples=1, dest_obj=buffer)
            if not stamps:
                return []
            _, more = self._counts.pull_chunk(timeout=0.0, max_samples=_CHUNK - 1, dest_obj=buffer[1:])
        bins = []
        for row, t in zip(buffer, [*stamps, *more], strict=False):
            self._seq = self._unwrap(float(row[-1])) if self._has_seq else self._seq + 1
            bins.append(Bin(self._seq, t, (row[:-1] if self._has_seq else row).astype(np.float32)))
        return bins

    def _unwrap(self, raw: float) -> int:
        """The full sequence number behind the wrapped ``raw``: the nearest one after the last bin's."""
        if not raw.is_integer():
            raise StreamError(f"{self._what}: channel 'seq': expected whole numbers, found {raw!r}")
        if self._seq < 0:
            return int(raw) % self._modulus
        step = (int(raw) - self._seq) % self._modulus
        if not 0 < step <= self._modulus // 2:
            raise StreamError(
                f"{self._what}: channel 'seq': expected a number after {self._seq % self._modulus}, found {int(raw)}; "
                "the sender repeated or restarted its count"
            )
        return self._seq + step

    def _pull_events(self) -> list[TrialEvent]:
        events: list[TrialEvent] = []
        shift: float | None = None
        while True:
            try:
                with common.lost_means(f"LSL stream {self._config.markers!r}"):
                    sample, t = self._markers.pull_sample(timeout=0.0)
            except UnicodeDecodeError:  # the sample is consumed: liblsl carries bytes, pylsl wants UTF-8
                self.events.reject()
                continue
            if sample is None:
                return events
            if shift is None:
                shift = self._shift(0.0) if self._two_clocks else 0.0
            event = self.events.parse(t + shift, sample[0])
            if event is not None:
                events.append(event)

    def _shift(self, timeout_s: float) -> float:
        """Seconds that take the markers' clock to the counts' (two machines); liblsl keeps measuring, so drift is followed."""
        try:
            with common.lost_means("LSL clock measurement"):
                return float(self._markers.time_correction(timeout_s) - self._counts.time_correction(timeout_s))
        except pylsl.util.TimeoutError:
            raise StreamError(
                f"{self._what}: counts and markers come from two machines, and their clocks could not be compared"
            ) from None


class LslSink:
    """Decoded samples to LSL: the outputs, then ``seq_in``, ``generation`` and ``flags``; stamped with the bin's time."""

    def __init__(self, config: SinkConfig) -> None:
        self._config = config
        self._outlet: Any = None

    def open(self, names: tuple[str, ...], units: tuple[str, ...], rate_hz: float) -> None:
        """Announce the stream; ``names`` and ``units`` one per output."""
        if len(names) != len(units) or not names:
            raise StreamError(f"LSL stream {self._config.stream!r}: expected a unit per output, found {names} and {units}")
        self._outputs = len(names)
        channels = self._outputs + len(common.TAIL)
        # double64: holds every sequence number exactly
        info = common.new_info("bci_align velocity", common.VELOCITY, channels, rate_hz, pylsl.cf_double64, self._config.stream)
        tail = [{"label": name, "unit": "none", "type": name} for name in common.TAIL]
        outputs = [{"label": n, "unit": u, "type": "output"} for n, u in zip(names, units, strict=True)]
        common.add_channels(info, outputs + tail)
        self._outlet = pylsl.StreamOutlet(info, 1, common.buffer_length(rate_hz))

    def write(self, sample: Decoded) -> None:
        """Publish one sample; never blocks."""
        what = f"LSL stream {self._config.stream!r}"
        if self._outlet is None:
            raise StreamError(f"{what}: expected an open stream, found a closed one")
        if sample.values.shape != (self._outputs,):
            raise StreamError(f"{what}: expected {self._outputs} values, found shape {sample.values.shape}")
        row = [*sample.values.tolist(), float(sample.seq_in), float(sample.generation), float(sample.flags)]
        self._outlet.push_sample(row, common.stamp(sample.t, what))

    def close(self) -> None:
        """Withdraw the stream; harmless when called twice."""
        self._outlet = None


def describe(info: Any, stream: str) -> tuple[StreamSpec, bool]:
    """What a counts stream says of itself, and whether its last channel is ``seq``; every omission is a :class:`StreamError`."""

    def fail(field: str, expected: str, found: object) -> StreamError:
        return StreamError(f"LSL stream {stream!r}: {field}: expected {expected}, found {found}")

    if info.channel_format() not in common.SEQ_MODULUS:
        raise fail("channel format", "float32, int16, int32 or double64", _format_name(info.channel_format()))
    rows = common.labels_of(info)
    if len(rows) != info.channel_count():
        raise fail("desc/channels", f"{info.channel_count()} channels with a label each", f"{len(rows)}")
    has_seq = rows[-1][1] == common.SEQ
    labels = tuple(label for label, _ in rows[: len(rows) - has_seq])
    if not labels:
        raise fail("desc/channels", "at least one channel of counts", "only 'seq'")
    if "" in labels:
        raise fail("desc/channels", "a label for every channel", f"none for channel {labels.index('')}")
    if len(set(labels)) != len(labels):
        raise fail("desc/channels", "unique labels", f"{next(x for x in labels if labels.count(x) > 1)!r} more than once")
    binning = info.desc().child("binning")
    text = binning.child_value("bin_ms")
    try:
        bin_s = float(text) / 1e3
    except ValueError:
        bin_s = math.nan
    if not (math.isfinite(bin_s) and bin_s > 0):
        raise fail("desc/binning/bin_ms", "the bin width in milliseconds", repr(text) if text else "none")
    if binning.child_value("stamp") != "end":
        raise fail("desc/binning/stamp", "'end' (bins stamped with their end)", repr(binning.child_value("stamp")))
    rate = info.nominal_srate()
    if not math.isclose(rate * bin_s, 1.0, rel_tol=1e-3):
        raise fail("nominal rate", f"{1 / bin_s:g} Hz, one sample per bin of {bin_s * 1e3:g} ms", f"{rate:g} Hz")
    return StreamSpec(labels, bin_s, info.name(), info.uid()), has_seq


def _format_name(fmt: int) -> str:
    names = ("undefined", "float32", "double64", "string", "int32", "int16", "int8", "int64")
    return names[fmt] if 0 <= fmt < len(names) else f"format {fmt}"
