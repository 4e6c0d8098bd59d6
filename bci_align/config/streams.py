"""Where counts come from and where decoded samples go."""

from __future__ import annotations

from pydantic import Field

from bci_align.config.base import Strict


class EventNames(Strict):
    """The rig's names for trial events (defaults: BRAND's)."""

    start: str = Field("start_time", description="event that starts a trial")
    go: str = Field("go_cue_time", description="go cue")
    end: str = Field("end_time", description="event that ends a trial")
    success: str = Field(
        "trial_success",
        description="key of an end event's JSON payload (true/false), or a bare marker sent before the end of a rewarded trial",
    )
    assume_success: bool = Field(
        False, description="count a trial whose end says nothing of success as rewarded (rigs without that marker)"
    )


class CurveConfig(Strict):
    """CURVE keys of one ZeroMQ socket, in certificate files as pyzmq writes them; ``bci-align keys DIR`` makes some.

    Without them a socket stays on this machine.
    """

    secret: str = Field(description="file of our own keys: NAME.key_secret, readable by its owner alone")
    peers: str = Field(
        description="public keys, NAME.key: that of the side that binds, or those that may connect to us (a file or a directory)"
    )


class SourceConfig(Strict):
    """Where the counts come from."""

    kind: str = Field("lsl", description="entry point in bci_align.sources: lsl, zmq, or a plug-in's name")
    stream: str = Field("bci_align_counts", description="LSL: source_id of the counts stream; ZeroMQ: topic")
    markers: str = Field("bci_align_events", description="LSL: source_id of the marker stream; ZeroMQ: topic of events")
    address: str = Field("tcp://127.0.0.1:5571", description="ZeroMQ: where the rig's PUB socket is bound")
    curve: CurveConfig | None = Field(None, description="ZeroMQ: keys; none: loopback and ipc only")
    connect_timeout_s: float = Field(10.0, gt=0, description="seconds to wait for the stream before giving up")
    events: EventNames = EventNames()


class SinkConfig(Strict):
    """Where the decoded samples go."""

    kind: str = Field("lsl", description="entry point in bci_align.sinks: lsl, zmq, or a plug-in's name")
    stream: str = Field("bci_align_velocity", description="LSL: source_id of the output stream; ZeroMQ: topic")
    address: str = Field("tcp://127.0.0.1:5572", description="ZeroMQ: address to bind for the output")
    curve: CurveConfig | None = Field(None, description="ZeroMQ: keys; none: loopback and ipc only")
