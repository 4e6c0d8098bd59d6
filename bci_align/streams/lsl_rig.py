"""Lab Streaming Layer: the rig's side, which publishes counts and events and hears the decoded velocity."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pylsl

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import StreamError
from bci_align.streams import lsl_common as common
from bci_align.streams.contract import Bin, Decoded, Flags, StreamSpec, TrialEvent
from bci_align.streams.events import check_names, format_event

_SETTLE_S = 0.1
"""liblsl's sender starts to queue samples for a new listener a moment after the listener's side reports it connected."""

_CHUNK = 1024


class LslRigOutlet:
    """Publishes counts (float32, last channel ``seq`` modulo 2**24, which float32 holds exactly) and markers.

    LSL cannot tell what has been delivered, and a listener loses what it has not read when the outlet goes: close it
    only when the last bin has been answered.
    """

    def __init__(self, config: SourceConfig) -> None:
        check_names(config.events)
        self._config = config
        self._counts: Any = None
        self._markers: Any = None

    def open(self, spec: StreamSpec) -> None:
        """Announce both streams. The outlet's identity is given by LSL; ``spec.uid`` is not used."""
        c = self._config
        rate, n = 1.0 / spec.bin_s, len(spec.channels)
        counts = common.new_info(spec.name, common.COUNTS, n + 1, rate, pylsl.cf_float32, c.stream)
        rows = [{"label": x, "unit": "count", "type": "counts", "electrode": x, "array": ""} for x in spec.channels]
        common.add_channels(counts, [*rows, {"label": common.SEQ, "unit": "none", "type": common.SEQ}])
        binning = counts.desc().append_child("binning")
        binning.append_child_value("bin_ms", f"{spec.bin_s * 1e3:.12g}")
        binning.append_child_value("stamp", "end")
        markers = common.new_info(f"{spec.name} events", common.MARKERS, 1, pylsl.IRREGULAR_RATE, pylsl.cf_string, c.markers)
        self._row = np.empty(n + 1, dtype=np.float32)
        # Markers first, so that whoever finds the counts finds the events too.
        self._markers = pylsl.StreamOutlet(markers, 1, common.buffer_length(pylsl.IRREGULAR_RATE))
        self._counts = pylsl.StreamOutlet(counts, 1, common.buffer_length(rate))

    def wait_for_decoder(self, timeout_s: float) -> None:
        """Block until someone listens to counts and to events; :class:`StreamError` naming the one without a listener."""
        self._check_open()
        deadline = time.monotonic() + timeout_s
        for outlet, name in ((self._counts, self._config.stream), (self._markers, self._config.markers)):
            if not outlet.wait_for_consumers(max(deadline - time.monotonic(), 0.0)):
                raise StreamError(f"LSL stream {name!r}: no decoder connected within {timeout_s:g} s")

    def push(self, item: Bin | TrialEvent) -> None:
        """Publish one bin or event, stamped with its own time."""
        self._check_open()
        if isinstance(item, TrialEvent):
            text = format_event(item, self._config.events)
            self._markers.push_sample([text], common.stamp(item.t, f"LSL stream {self._config.markers!r}"))
            return
        what = f"LSL stream {self._config.stream!r}"
        if item.counts.shape != (len(self._row) - 1,):
            raise StreamError(f"{what}: expected {len(self._row) - 1} counts, found shape {item.counts.shape}")
        self._row[:-1] = item.counts
        self._row[-1] = item.seq % common.SEQ_MODULUS[pylsl.cf_float32]
        self._counts.push_sample(self._row.tolist(), common.stamp(item.t, what))

    def close(self) -> None:
        """Withdraw both streams; harmless when called twice."""
        self._counts = self._markers = None

    def _check_open(self) -> None:
        if self._counts is None:
            raise StreamError(f"LSL stream {self._config.stream!r}: expected an open stream, found a closed one")


class LslRigInlet:
    """Hears the decoded velocity."""

    def __init__(self, config: SinkConfig) -> None:
        self._config = config
        self._what = f"LSL stream {config.stream!r}"
        self._inlet: Any = None

    def open(self, timeout_s: float) -> tuple[str, ...]:
        """Find the decoder's output and connect; gives the output names."""
        deadline = time.monotonic() + timeout_s
        found = common.find(self._config.stream, common.VELOCITY, deadline, timeout_s)
        inlet, info = common.connect(found, deadline, timeout_s)
        labels = tuple(label for label, _ in common.labels_of(info))
        k = len(labels) - len(common.TAIL)
        if k < 1 or labels[k:] != common.TAIL or info.channel_count() != len(labels):
            raise StreamError(f"{self._what}: expected outputs and then {', '.join(common.TAIL)}, found {', '.join(labels)}")
        if info.channel_format() != pylsl.cf_double64:
            raise StreamError(f"{self._what}: expected double64 channels, found LSL format {info.channel_format()}")
        self._buffer = np.empty((_CHUNK, len(labels)))
        self._inlet, self._outputs = inlet, k
        time.sleep(_SETTLE_S)
        return labels[:k]

    def read(self, timeout_s: float) -> list[Decoded]:
        """Everything that has arrived, waiting at most ``timeout_s``; :class:`StreamError` when the decoder is gone."""
        if self._inlet is None:
            raise StreamError(f"{self._what}: expected an open stream, found a closed one")
        buffer, k = self._buffer, self._outputs
        with common.lost_means(self._what):
            # One, then the rest: liblsl waits until a chunk is full.
            _, stamps = self._inlet.pull_chunk(timeout=timeout_s, max_samples=1, dest_obj=buffer)
            if not stamps:
                return []
            _, more = self._inlet.pull_chunk(timeout=0.0, max_samples=_CHUNK - 1, dest_obj=buffer[1:])
        if not np.isfinite(buffer[: 1 + len(more), k:]).all():
            raise StreamError(f"{self._what}: expected whole numbers in {', '.join(common.TAIL)}, found NaN or infinity")
        return [
            Decoded(int(row[k]), t, row[:k].copy(), int(row[k + 1]), Flags(int(row[k + 2])))
            for row, t in zip(buffer, [*stamps, *more], strict=False)
        ]

    def close(self) -> None:
        """Disconnect; harmless when called twice."""
        self._inlet = None
