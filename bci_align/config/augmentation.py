"""Settings of generated trials: the code model, and retraining with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bci_align.config.base import Strict


class AugmentConfig(Strict):
    """A code-conditioned diffusion model of trials. Times in seconds from the trial's go cue (its start where it has none)."""

    before_s: float = Field(0.6, ge=0, le=10, description="how long before the go cue a trial's window begins, seconds")
    after_s: float = Field(1.1, gt=0, le=30, description="how long after the go cue it ends, seconds")
    smoothing_s: float = Field(
        0.05, gt=0, le=1, description="standard deviation of the Gaussian that makes rates of counts, seconds"
    )
    code: int = Field(16, ge=2, le=128, description="numbers in a trial's code")
    width: int = Field(16, ge=8, le=256, multiple_of=8, description="channels of the networks' finest level (multiple of 8)")
    linear_trunk: bool = Field(True, description="start code and trial means from a linear map; false: convolutions alone")
    sees_kinematics: bool = Field(True, description="whether codes are read off rates and kinematics, or off rates alone")
    steps: int = Field(200, ge=10, le=4000, description="diffusion steps T_d")
    updates: int = Field(200, ge=1, le=1_000_000, description="optimisation steps, whatever the number of trials")
    batch: int = Field(48, ge=2, le=4096, description="trials per optimisation step; the MMD is one batch's")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule")
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the averaged weights that are kept")
    mmd_weight: float = Field(0.1, ge=0, description="weight of the codes' MMD to a standard normal")
    snr_clip: float = Field(5.0, gt=0, description="largest signal-to-noise weight of the reconstruction loss")
    jitter: float = Field(0.3, ge=0, description="noise on what the code is read off while training, channel standard deviations")
    sampling: int = Field(25, ge=2, le=1000, description="DDIM strides of a sample")
    temperature: float = Field(
        0.0, ge=0, le=1, description="noise that a sample starts from, in what training noised with; 0: the likeliest trial"
    )
    min_trials: int = Field(8, ge=4, description="fewest rewarded trials to train on")


class RetrainConfig(Strict):
    """Refitting a bundle's decoder on labelled trials of a day, with generated trials or without."""

    validation: float = Field(0.25, gt=0, le=0.5, description="share of the trials that choose the ratio")
    ratios: tuple[Annotated[float, Field(ge=0, le=20)], ...] = Field(
        (0.0, 0.25, 0.5, 1.0, 2.0), min_length=1, description="generated trials per real one, tried"
    )
    confidence: float = Field(
        0.9, ge=0.5, lt=1, description="confidence, over all ratios, that the best's paired gain on validation trials is above 0"
    )
    members: int = Field(3, ge=2, le=20, description="decoders of the ensemble that filters generated trials")
    tolerance: float = Field(
        1.0, gt=0, description="largest disagreement of ensemble and label that is let through, in standard deviations of both"
    )
