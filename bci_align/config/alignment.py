"""Settings of alignment and of the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from bci_align.config.base import Strict
from bci_align.config.runtime import DriftConfig


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
    unsteady: float = Field(
        4.0,
        ge=0,
        description="largest common deviation of the calibration trials over the source day's: of two days, or as they change",
    )
    agreement: float = Field(
        0.25, ge=-1, le=1, description="least cosine of the channels' tuning, measured without labels, with the source day's"
    )
    fall: float = Field(
        0.2, ge=0, le=2, description="most by which the cosine of the tuning to one output may be less than under the incumbent"
    )
    information: tuple[float, float] = Field(
        (0.6, 2.0), description="allowed ratio of what channels say of each other's counts to the source day's"
    )
    halves: float = Field(
        0.4, ge=0, description="least correlation of what two halves of the channels decode, over the source day's: is it any use"
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


Gates = Annotated[tuple[str, ...], Field(min_length=1, description="entry points in bci_align.gates, all of which must accept")]


class RecalibrateConfig(Strict):
    """Settings of ``bci-align recalibrate``."""

    align: AlignConfig = AlignConfig()
    gate: GateConfig = GateConfig()
    gates: Gates = ("standard",)
    drift: DriftConfig = DriftConfig()
