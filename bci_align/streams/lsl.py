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
from bci_align.errors import StreamError, WrongStream
from bci_align.streams import lsl_common as common
from bci_align.streams.contract import Bin, Decoded, StreamSpec, TrialEvent
from bci_align.streams.events import EventReader
from bci_align.streams.lsl_describe import describe, format_name
from bci_align.streams.lsl_presence import Presence
from bci_align.streams.lsl_rig import LslRigInlet, LslRigOutlet
from bci_align.streams.ordering import EventOrder

__all__ = ["LslRigInlet", "LslRigOutlet", "LslSink", "LslSource"]

_CHUNK = 1024
"""Most bins of one read: a replay at full speed must not keep the decoder from writing."""

_DTYPES = {pylsl.cf_float32: np.float32, pylsl.cf_int16: np.int16, pylsl.cf_int32: np.int32, pylsl.cf_double64: np.float64}


class LslSource:
    """Bins and trial events from LSL.

    A marker or a bin that cannot be understood (``seq`` no number of a bin, a time stamp that is not finite) is counted and left
    out. Without a ``seq`` channel the received bins are numbered, and a lost one cannot be told. Where counts and markers come
    from different machines, whose LSL clocks differ, marker times are moved to the counts' clock; bins keep the sender's time
    stamps as they are.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self.events = EventReader(config.events)
        self.malformed_bins = 0
        self.last_malformed = ""
        self._what = f"LSL stream {config.stream!r}"
        self._counts: Any = None
        self._markers: Any = None
        self._fault = ""

    @property
    def malformed_events(self) -> int:
        """Markers that could not be understood."""
        return self.events.malformed

    def open(self, timeout_s: float) -> StreamSpec:
        """Find counts and markers by their ``source_id`` and connect; :class:`StreamError` says what was missing."""
        c = self._config
        deadline = time.monotonic() + timeout_s
        found = common.find(c.stream, common.COUNTS, deadline, timeout_s)
        try:
            found_markers = common.find(c.markers, common.MARKERS, deadline, timeout_s)
        except StreamError as e:
            raise WrongStream(f"no trial events: {e}") from None
        if found_markers.channel_format() != pylsl.cf_string or found_markers.channel_count() != 1:
            raise WrongStream(
                f"LSL stream {c.markers!r}: expected one channel of strings, found {found_markers.channel_count()} "
                f"channel(s) of {format_name(found_markers.channel_format())}"
            )
        # Markers first: an event must never find its connection still closed when its bin is already under way.
        self._markers, _ = common.connect(found_markers, deadline, timeout_s)
        self._counts, info = common.connect(found, deadline, timeout_s)
        spec, self._has_seq = describe(info, c.stream)
        self._modulus = common.SEQ_MODULUS[info.channel_format()]
        # Integers may count over their sign; a float has no reason to.
        self._lowest = -self._modulus if info.channel_format() in (pylsl.cf_int16, pylsl.cf_int32) else 0
        self._buffer = np.empty((_CHUNK, info.channel_count()), dtype=_DTYPES[info.channel_format()])
        self._order = EventOrder(self._what, spec.bin_s)
        self._presence = Presence(spec.uid, spec.bin_s)
        self._seq: int | None = None
        self._fault = ""
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
        bins: list[Bin] = []
        events: list[TrialEvent] = []
        if not self._fault:
            try:
                self._pull_bins(timeout_s, bins)
                self._pull_events(events)  # after the bins, so that events sent before them are in
                if self._presence.gone(time.monotonic()):
                    self._fault = f"{self._what} was lost: its sender no longer answers"
            except StreamError as e:
                self._fault = str(e)  # the sentence alone: a traceback would keep the inlets open after close()
        now = time.monotonic()
        self._order.add(events, now)
        items = self._order.merge(bins, now)
        if self._fault and not items:
            items = self._order.rest()  # the end of the last trial comes after the last bin
            if not items:
                raise StreamError(self._fault)
        return items

    def close(self) -> None:
        """Disconnect; harmless when called twice."""
        if self._counts is not None:
            self._presence.close()
        self._counts = self._markers = None  # pylsl disconnects when the inlet is collected

    def _pull_bins(self, timeout_s: float, bins: list[Bin]) -> None:
        buffer = self._buffer
        with common.lost_means(self._what):
            # liblsl waits until a chunk is FULL: wait for a chunk of one, then take what else is there.
            _, stamps = self._counts.pull_chunk(timeout=timeout_s, max_samples=1, dest_obj=buffer)
            if not stamps:
                return
            _, more = self._counts.pull_chunk(timeout=0.0, max_samples=_CHUNK - 1, dest_obj=buffer[1:])
        arrived = time.monotonic()
        self._presence.heard(arrived)
        for row, t in zip(buffer, [*stamps, *more], strict=False):
            counts = row[:-1] if self._has_seq else row
            if not math.isfinite(t):
                self._leave_out(f"time stamp: expected finite seconds, found {t!r}")
            elif not self._has_seq:
                self._seq = 0 if self._seq is None else self._seq + 1
                bins.append(Bin(self._seq, t, counts.astype(np.float32), arrived))
            else:
                raw = float(row[-1])
                if not (raw.is_integer() and self._lowest <= raw < self._modulus):
                    self._leave_out(f"channel 'seq': expected a whole number from 0 to {self._modulus - 1}, found {raw!r}")
                    continue
                self._seq = self._unwrap(int(raw))
                bins.append(Bin(self._seq, t, counts.astype(np.float32), arrived))

    def _unwrap(self, raw: int) -> int:
        """The full sequence number behind the wrapped ``raw``: the nearest to the last bin's, the same or an earlier one too."""
        if self._seq is None:
            return raw % self._modulus
        step = (raw - self._seq) % self._modulus
        return self._seq + (step if step <= self._modulus // 2 else step - self._modulus)

    def _leave_out(self, why: str) -> None:
        self.malformed_bins += 1
        self.last_malformed = f"{self._what}: {why}"

    def _pull_events(self, events: list[TrialEvent]) -> None:
        shift: float | None = None
        while True:
            try:
                with common.lost_means(f"LSL stream {self._config.markers!r}"):
                    sample, t = self._markers.pull_sample(timeout=0.0)
            except UnicodeDecodeError:  # the sample is consumed: liblsl carries bytes, pylsl wants UTF-8
                self.events.reject()
                continue
            if sample is None:
                return
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
