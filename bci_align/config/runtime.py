"""Processes, promotion, control, recording: how the live system itself behaves."""

from __future__ import annotations

from pydantic import Field

from bci_align.config.base import Strict
from bci_align.config.streams import CurveConfig


class PromotionConfig(Strict):
    """From an accepted candidate to a committed generation. Bins are bins of the stream."""

    shadow_bins: int = Field(100, ge=0, description="live bins that a candidate decodes beside the incumbent before it leads")
    automatic: bool = Field(True, description="promote by itself after the shadow; false waits for the order 'promote'")
    blend_bins: int = Field(0, ge=0, description="bins over which the output moves from the old to the new generation")
    probation_bins: int = Field(500, ge=0, description="bins in which a promoted generation may be taken back; 0 commits at once")
    spread: tuple[float, float] = Field(
        (0.33, 3.0), description="allowed ratio of the candidate's output spread to the incumbent's, in shadow and probation"
    )
    most_clamped: float = Field(0.05, ge=0, le=1, description="largest share of bins whose output is clamped, in both")
    most_jump: float = Field(
        6.0, gt=0, description="largest change of output between two bins, in source-day standard deviations, in both"
    )


class DriftConfig(Strict):
    """When to recalibrate: the label-free drift score of the running latents."""

    align_from: float = Field(
        1.0, ge=0, description="drift score, about the points of R2 lost, below which a day is not aligned; 0 always aligns"
    )


class SupervisorConfig(Strict):
    """How processes are watched and started again."""

    heartbeat_s: float = Field(1.0, gt=0, description="silence after which the decoder counts as hung, seconds")
    aligner_heartbeat_s: float = Field(120.0, gt=0, description="the same for the aligner, whose steps are long, seconds")
    standby: bool = Field(True, description="keep a second decoder loaded that takes over when the first one dies")
    restarts: int = Field(5, ge=0, description="most restarts of one process within restart_window_s")
    restart_window_s: float = Field(60.0, gt=0, description="time after which an old restart no longer counts, seconds")
    back_off_s: float = Field(0.5, ge=0, description="wait before the second restart in a row, doubled for each further one")
    real_time: bool = Field(True, description="ask for SCHED_FIFO and locked memory for the decoder")
    decoder_core: int | None = Field(None, ge=0, description="core that the decoder is kept on; none: any")
    background_cores: tuple[int, ...] | None = Field(None, description="cores of aligner and recorder; none: any")


class ControlConfig(Strict):
    """Orders from outside and what can be read from outside."""

    address: str | None = Field("tcp://127.0.0.1:5573", description="ZeroMQ REP socket of the control; none: no control")
    curve: CurveConfig | None = Field(
        None, description="keys of the socket, and of who may give orders; none: loopback and ipc only"
    )
    metrics_port: int | None = Field(None, ge=0, le=65535, description="port of the Prometheus page on 127.0.0.1; none: no page")


class RecordConfig(Strict):
    """Recording of what the decoder lived through."""

    enabled: bool = Field(True, description="record bins, events, outputs and decisions to OUT/recording-*.h5")
    flush_s: float = Field(0.5, gt=0, description="longest time that a bin waits before it is on the disk, seconds")
    leave_mb: float = Field(
        50.0, ge=0, description="room left on the disk for generations and decisions, MB; with less, recording ends"
    )
