"""Settings of the source day's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bci_align.config.base import Strict


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
