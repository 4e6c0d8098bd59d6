"""ZeroMQ, both sides: counts and events from one PUB socket, decoded samples to another; see :mod:`bci_align.streams.wire`.

Sequence numbers come through as they were sent: a gap is the consumer's to flag.
"""

from __future__ import annotations

import time
import uuid
from typing import TypeVar

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError, StreamError, WrongStream
from bci_align.streams import wire
from bci_align.streams.contract import Bin, Decoded, StreamSpec, TrialEvent
from bci_align.streams.events import EventReader, check_names, event_payload
from bci_align.streams.ordering import EventOrder
from bci_align.streams.zmq_sockets import Publisher, Subscriber

S = TypeVar("S", Publisher, Subscriber)


class ZmqSource:
    """Bins and trial events from the PUB socket at ``config.address``.

    A message that cannot be understood, or that does not fit the stream's spec, is counted and left out.
    """

    def __init__(self, config: SourceConfig) -> None:
        _check_topics(config)
        self._config = config
        self.events = EventReader(config.events)
        self.malformed_bins = 0
        self.last_malformed = ""
        self._socket: Subscriber | None = None
        self._fault = ""

    @property
    def malformed_events(self) -> int:
        """Events that could not be understood."""
        return self.events.malformed

    def open(self, timeout_s: float) -> StreamSpec:
        """Connect and wait for the rig's spec."""
        c = self._config
        self.close()
        self._socket = Subscriber(c.address, (c.stream, c.markers), c.curve, "source.curve")
        hello = self._socket.await_hello(c.stream + wire.SPEC_SUFFIX, timeout_s)
        try:
            spec, events = wire.decode_spec(hello)
        except StreamError as e:
            raise WrongStream(f"ZeroMQ address {c.address!r}: {e}") from None
        if events != c.markers:
            found = "a rig that sends none" if events is None else f"a rig that sends them on {events!r}"
            raise WrongStream(f"no trial events: ZeroMQ address {c.address!r}: expected events on {c.markers!r}, found {found}")
        self._spec, self._fault = spec, ""
        self._order = EventOrder(f"ZeroMQ topic {c.stream!r}", spec.bin_s)
        return spec

    def read(self, timeout_s: float) -> list[Bin | TrialEvent]:
        """See :class:`~bci_align.streams.contract.Source`. An event that arrives ahead of its bin is kept back until that bin."""
        socket = _opened(self._socket, self._config.address)
        bins: list[Bin] = []
        events: list[TrialEvent] = []
        deadline = time.monotonic() + timeout_s
        while not self._fault:
            try:
                messages = socket.receive(max(deadline - time.monotonic(), 0.0))
            except StreamError as e:
                self._fault = str(e)
                break
            self._take(messages, bins, events)
            if bins or events or time.monotonic() >= deadline:  # a greeting alone is nothing to return for
                break
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
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _take(self, messages: list[list[bytes]], bins: list[Bin], events: list[TrialEvent]) -> None:
        """Sort ``messages`` into ``bins`` and ``events``, up to the first that shows another sender."""
        c = self._config
        counts, markers, spec = c.stream.encode(), c.markers.encode(), (c.stream + wire.SPEC_SUFFIX).encode()
        arrived = time.monotonic()
        for frames in messages:
            try:
                if frames[0] == counts:
                    bins.append(wire.decode_counts(frames, self._spec, arrived))
                elif frames[0] == spec:
                    self._fault = self._another(wire.decode_spec(frames)[0])
                    if self._fault:
                        return
            except StreamError as e:  # a rig's slip must not stop the decoder
                self.malformed_bins += 1
                self.last_malformed = f"ZeroMQ topic {c.stream!r}: {e}"
            if frames[0] == markers:
                event = self._event(frames)
                if event is not None:
                    events.append(event)

    def _another(self, found: StreamSpec) -> str:
        """What tells that ``found`` is not the stream that was opened; empty when it is."""
        if found == self._spec:
            return ""
        if found.uid != self._spec.uid:
            return _restarted(self._config.address, self._spec.uid, found.uid)
        return f"ZeroMQ address {self._config.address!r}: the stream was lost: its sender announces another spec"

    def _event(self, frames: list[bytes]) -> TrialEvent | None:
        try:
            t, payload = wire.decode_event(frames)
        except StreamError:
            self.events.reject()
            return None
        return self.events.read(t, payload)


class ZmqSink:
    """Decoded samples to a PUB socket bound at ``config.address``.

    A listener that falls behind by the socket's high-water mark loses samples, which ``seq_in`` shows it; the decoder
    never waits.
    """

    def __init__(self, config: SinkConfig) -> None:
        self._config = config
        self._socket: Publisher | None = None

    def open(self, names: tuple[str, ...], units: tuple[str, ...], rate_hz: float) -> None:
        """Bind and start to announce the outputs."""
        if len(names) != len(units):
            raise StreamError(f"ZeroMQ sink: expected a unit per output, found {names} and {units}")
        try:
            output = wire.OutputSpec(names=names, units=units, rate_hz=rate_hz, uid=uuid.uuid4().hex)
        except ValueError as e:
            raise StreamError(f"ZeroMQ sink: outputs that cannot be announced: {' '.join(str(e).split())}") from None
        self.close()
        self._encode = wire.SampleEncoder(self._config.stream, names, units)
        hello = wire.encode_output(self._config.stream, output)
        self._socket = Publisher(self._config.address, hello, lossless=False, curve=self._config.curve, key="sink.curve")

    def write(self, sample: Decoded) -> None:
        """Publish one sample; never blocks."""
        socket = _opened(self._socket, self._config.address)
        socket.send(self._encode(sample))

    def close(self) -> None:
        """Send what is queued (at most a second) and unbind; harmless when called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class ZmqRigOutlet:
    """Publishes counts and events from a socket bound at ``config.address``, in the order they are pushed."""

    def __init__(self, config: SourceConfig) -> None:
        _check_topics(config)
        check_names(config.events)
        self._config = config
        self._socket: Publisher | None = None

    def open(self, spec: StreamSpec) -> None:
        """Bind and start to announce the stream; an empty ``spec.uid`` is replaced by a fresh one."""
        c = self._config
        self.close()
        self._spec = StreamSpec(spec.channels, spec.bin_s, spec.name, spec.uid or uuid.uuid4().hex, "float32")
        hello = wire.encode_spec(c.stream, self._spec, c.markers)
        self._socket = Publisher(c.address, hello, lossless=True, curve=c.curve, key="source.curve")

    def wait_for_decoder(self, timeout_s: float) -> None:
        """Block until counts and events each have a subscriber; :class:`StreamError` names what is missing."""
        _opened(self._socket, self._config.address).wait_for((self._config.stream, self._config.markers), timeout_s)

    def push(self, item: Bin | TrialEvent) -> None:
        """Publish one bin or event; :class:`StreamError` when the decoder is so far behind that it would be lost."""
        c = self._config
        socket = _opened(self._socket, c.address)
        if isinstance(item, TrialEvent):
            socket.send(wire.encode_event(c.markers, item.t, event_payload(item, c.events)))
            return
        if item.counts.shape != (len(self._spec.channels),):
            raise StreamError(
                f"ZeroMQ topic {c.stream!r}: expected {len(self._spec.channels)} counts, found shape {item.counts.shape}"
            )
        socket.send(wire.encode_counts(c.stream, item, self._spec.bin_s))

    def close(self) -> None:
        """Send what is queued (at most a second) and unbind; harmless when called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class ZmqRigInlet:
    """Hears the decoded samples from the sink at ``config.address``."""

    def __init__(self, config: SinkConfig) -> None:
        self._config = config
        self._socket: Subscriber | None = None

    def open(self, timeout_s: float) -> tuple[str, ...]:
        """Connect and wait until the sink has greeted us: from then on no sample is lost. Gives the output names."""
        c = self._config
        self.close()
        self._socket = Subscriber(c.address, (c.stream,), c.curve, "sink.curve")
        output = wire.decode_output(self._socket.await_hello(c.stream + wire.SPEC_SUFFIX, timeout_s))
        self._uid, self._outputs = output.uid, len(output.names)
        return output.names

    def read(self, timeout_s: float) -> list[Decoded]:
        """Everything that has arrived, waiting at most ``timeout_s``; :class:`StreamError` when the decoder is gone."""
        c = self._config
        socket = _opened(self._socket, c.address)
        samples: list[Decoded] = []
        deadline = time.monotonic() + timeout_s
        while True:
            for frames in socket.receive(max(deadline - time.monotonic(), 0.0)):
                if frames[0] == c.stream.encode():
                    samples.append(wire.decode_sample(frames))
                    found = len(samples[-1].values)
                    if found != self._outputs:
                        raise StreamError(f"ZeroMQ topic {c.stream!r}: expected {self._outputs} values, found {found}")
                elif frames[0] == (c.stream + wire.SPEC_SUFFIX).encode():
                    uid = wire.decode_output(frames).uid
                    if uid != self._uid:
                        raise StreamError(_restarted(c.address, self._uid, uid))
            if samples or time.monotonic() >= deadline:  # a greeting alone is nothing to return for
                break
        return samples

    def close(self) -> None:
        """Disconnect; harmless when called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _check_topics(config: SourceConfig) -> None:
    if config.stream == config.markers or not config.stream or not config.markers:
        raise ConfigError(f"source: expected two topics for stream and markers, found {config.stream!r} and {config.markers!r}")


def _restarted(address: str, expected: str, found: str) -> str:
    return (
        f"ZeroMQ address {address!r}: the stream was lost: its sender was restarted: expected uid {expected!r}, found {found!r}"
    )


def _opened(socket: S | None, address: str) -> S:
    if socket is None:
        raise StreamError(f"ZeroMQ address {address!r}: expected an open stream, found a closed one")
    return socket
