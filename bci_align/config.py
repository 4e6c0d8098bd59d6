"""One frozen configuration tree, read from YAML. Every field has a unit and says what it does; unknown keys are refused.

YAML examples lie in ``configs/``. ``load(Model, path)`` turns every fault of a file into one sentence that names the key.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bci_align.errors import ConfigError


class Strict(BaseModel):
    """Base of every configuration: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class SourceConfig(Strict):
    """Where the counts come from."""

    kind: str = Field("lsl", description="entry point in bci_align.sources: lsl, zmq, or a plug-in's name")
    stream: str = Field("bci_align_counts", description="LSL: source_id of the counts stream; ZeroMQ: topic")
    markers: str = Field("bci_align_events", description="LSL: source_id of the marker stream; ZeroMQ: topic of events")
    address: str = Field("tcp://127.0.0.1:5571", description="ZeroMQ: where the rig's PUB socket is bound")
    connect_timeout_s: float = Field(10.0, gt=0, description="seconds to wait for the stream before giving up")
    events: EventNames = EventNames()


class SinkConfig(Strict):
    """Where the decoded samples go."""

    kind: str = Field("lsl", description="entry point in bci_align.sinks: lsl, zmq, or a plug-in's name")
    stream: str = Field("bci_align_velocity", description="LSL: source_id of the output stream; ZeroMQ: topic")
    address: str = Field("tcp://127.0.0.1:5572", description="ZeroMQ: address to bind for the output")


class TrainConfig(Strict):
    """Source-day training. Times in bins or epochs; the README says how the defaults were chosen."""

    hidden: int = Field(64, ge=4, le=1024, description="units of the recurrent core (GRU)")
    latents: int = Field(16, ge=2, le=128, description="latent dimensions d")
    run_in: int = Field(10, ge=0, description="bins before each trial that settle the recurrent state and are not scored")
    validation: float = Field(0.2, gt=0, le=0.5, description="share of the rewarded trials held out by seed")
    window: int = Field(120, ge=20, description="bins of a training window of the source model")
    epochs: int = Field(100, ge=1, description="passes over the source day for the source model")
    batch: int = Field(32, ge=1, description="windows per optimisation step")
    learning_rate: float = Field(4e-3, gt=0, description="peak of the one-cycle schedule")
    dropout: float = Field(0.4, ge=0, lt=1, description="dropout on the core's output")
    spike_weight: float = Field(0.1, ge=0, description="weight of the Poisson term beside the squared error of the kinematics")
    kl_weight: float = Field(1e-3, ge=0, description="weight of the latents' KL to a standard normal")
    augment_dropout: float = Field(0.3, ge=0, lt=1, description="largest share of channels silenced per window")
    augment_gain: float = Field(0.2, ge=0, description="standard deviation of log gain per channel and window")
    augment_offset: float = Field(
        0.2, ge=0, description="standard deviation of the offset per channel and window, in channel SDs"
    )
    augment_turnover: float = Field(
        0.0, ge=0, lt=1, description="largest share of channels that carry another one's counts per window"
    )
    prior_epochs: int = Field(60, ge=1, description="passes over the training trials for the diffusion prior")
    prior_width: int = Field(32, ge=4, le=512, multiple_of=4, description="width of the prior's tokens (multiple of 4)")
    prior_blocks: int = Field(2, ge=1, le=32, description="STBlocks of the prior")
    prior_layers: Literal["both", "spatial", "temporal"] = Field(
        "both", description="attention layers of every STBlock; one alone is an ablation"
    )
    prior_steps: int = Field(100, ge=2, le=4000, description="diffusion steps of the prior")
    min_trials: int = Field(20, ge=5, description="fewest rewarded trials to train on")


class AlignConfig(Strict):
    """Label-free alignment."""

    registration: Literal["auto", "identity", "order", "rotation"] = Field(
        "auto", description="how channels correspond: by label, in their order, not at all; auto takes the first that holds"
    )
    order_confidence: float = Field(5.0, ge=0, description="standard deviations by which an order must beat shuffled orders")
    rotation_margin: float = Field(0.1, ge=0, description="share of its cost by which a rotation must beat the next best")
    registration_margin: float = Field(
        0.05, ge=0, description="share by which the prior must prefer one of two registrations that contradict each other"
    )
    transfer: bool = Field(True, description="move read-in rows to what each channel is tuned to today, before refining")
    objective: Literal["score", "denoising", "difference"] = Field(
        "score", description="the prior's term of the refinement: see bci_align/alignment/refine.py"
    )
    weight: Literal["uniform", "likelihood"] = Field("uniform", description="w(t) of the objective 'denoising'")
    prior: float = Field(1.0, ge=0, description="weight of the prior's term; 0 leaves the Gaussian KL alone")
    kl: float = Field(0.1, ge=0, description="weight of the Gaussian KL to the source latents")
    sinkhorn: float = Field(0.0, ge=0, description="weight of the Sinkhorn divergence to the source latents")
    reconstruction: float = Field(0.0, ge=0, description="weight of today's spikes' Poisson loss, nats per bin and channel")
    pull: float = Field(1000.0, ge=0, description="weight of the squared way moved, divided by the cube of the number of trials")
    moves: Literal["read-in", "affine", "whole"] = Field(
        "read-in", description="what refinement may move; a live swap takes the read-in alone"
    )
    steps: int = Field(60, ge=0, description="optimisation steps of the refinement")
    learning_rate: float = Field(2e-3, gt=0, description="Adam step size at the start; falls to 0 as a cosine")
    batch: int = Field(32, ge=1, description="trials per optimisation step")
    label_rounds: int = Field(0, ge=0, description="rounds of self-labelling by the movement prior")
    label_noise: float = Field(0.25, gt=0, le=1, description="share of the noise schedule by which labels are projected")
    refine_from: int = Field(
        10, ge=2, description="fewest trials to do more than register and re-normalise: fewer say too little of any channel"
    )
    min_trials: int = Field(5, ge=2, description="fewest calibration trials to align on")


class GateConfig(Strict):
    """What a candidate must show, without labels, before it may decode. Chosen on simulated days that no benchmark reports."""

    min_trials: int = Field(10, ge=1, description="fewest calibration trials to trust a candidate")
    prior_margin: float = Field(
        0.02, ge=0, description="how much worse (relative) the prior's denoising loss may be than the incumbent's"
    )
    agreement: float = Field(
        0.25, ge=-1, le=1, description="least cosine of the channels' tuning, measured without labels, with the source day's"
    )
    information: tuple[float, float] = Field(
        (0.6, 2.0), description="allowed ratio of what channels say of each other's counts to the source day's"
    )
    kl: float = Field(0.8, ge=0, description="largest Gaussian KL of the latents to the source's, nats")
    diversity: float = Field(0.6, ge=0, description="least spread between trials' mean decoded movement, over the source day's")
    spread: tuple[float, float] = Field(
        (0.5, 2.0),
        description="allowed ratio of the decoded output's standard deviation to the source day's, per output",
    )
    most_stuck: float = Field(0.1, ge=0, le=1, description="largest share of channels that sit at one count")
    most_alike: float = Field(
        0.995, ge=0, le=1, description="largest correlation of decoded output with the incumbent's: beyond, no swap is worth it"
    )

    @field_validator("spread", "information")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("expected a lower bound and a larger upper bound")
        return value


class RecalibrateConfig(Strict):
    """Settings of ``bci-align recalibrate``."""

    align: AlignConfig = AlignConfig()
    gate: GateConfig = GateConfig()


class LiveConfig(Strict):
    """The live system: ``bci-align run CONFIG.yaml``."""

    bundle: str = Field(description="directory of the bundle to decode with")
    source: SourceConfig = SourceConfig()
    sink: SinkConfig = SinkConfig()
    align: AlignConfig = AlignConfig()
    gate: GateConfig = GateConfig()
    calibration_trials: int = Field(40, ge=1, description="rewarded trials to collect before aligning")
    recalibrations: int = Field(1, ge=0, description="how many times to align in one run; 0 never aligns")
    successful_only: bool = Field(True, description="calibrate on rewarded trials only")
    out: str = Field("sessions", description="directory for new generations and the log of decisions")
    seed: int = Field(0, description="seed of the alignment")
    stale_s: float = Field(0.0, ge=0, description="seconds without a bin after which the run ends; 0 waits for ever")
    log: Literal["quiet", "normal"] = Field("normal", description="how much to print")


M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path) -> object:
    """Parse one YAML file with the safe loader; :class:`ConfigError` names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read as text ({e})") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from None


def load(model: type[M], path: Path) -> M:
    """Read ``path`` into ``model``; a misspelt key is answered with the nearest known one."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise ConfigError(f"{path}: {explain(model, e)}") from None


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first fault of a validation as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys(model), n=1, cutoff=0.0)
        return f"unknown key {where!r}; the nearest known key is {near[0]!r}" if near else f"unknown key {where!r}"
    if first["type"] == "missing":
        return f"missing key {where!r}"
    return f"key {where!r}: {first['msg']}, found {first['input']!r}"


def _keys(model: type[BaseModel]) -> list[str]:
    """Every key of the tree below ``model``, optional branches (``X | None``) included."""
    keys: list[str] = []
    for name, f in model.model_fields.items():
        keys.append(name)
        for kind in (f.annotation, *get_args(f.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind)
    return keys
