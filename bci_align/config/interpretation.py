"""Settings of factors and films: ``bci-align explain``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from bci_align.config.base import Strict


class BehaviourConfig(Strict):
    """One behaviour, made of columns of the session's kinematics."""

    columns: tuple[str, ...] = Field(min_length=1, description="names of the kinematics it is made of")
    how: Literal["value", "length", "speed", "mean"] = Field(
        "value",
        description="value: the one column; length: of the vector of columns; speed: length of its change per second; "
        "mean: of the columns, each in its standard deviations",
    )
    sd: tuple[PositiveFloat, ...] | None = Field(
        None, description="of a mean, those standard deviations; none takes the training trials', for later days, too"
    )


class FactorConfig(Strict):
    """The factor VAE. Its terms are per channel, label and frame, and the KL is divided by the channels."""

    hidden: int = Field(48, ge=4, le=512, description="units of each direction of the GRUs")
    free: int = Field(2, ge=0, le=64, description="factors beside those of the behaviours")
    head: Literal["diagonal", "full", "none"] = Field("diagonal", description="how behaviours hang on factors")
    correlation: Literal["gaussian", "minibatch"] = Field(
        "gaussian", description="estimator of the total correlation: closed Gaussian form, or minibatch-weighted sampling"
    )
    correlation_weight: float = Field(1.0, ge=0, description="weight of the total correlation, beta")
    label_weight: float = Field(5.0, ge=0, description="weight of the squared error of the behaviours")
    kl_weight: float = Field(
        1.0, ge=0, description="weight of the KL to a standard normal, after the warm-up; 1.3 is a likelihood's"
    )
    warm_up: float = Field(0.3, ge=0, le=1, description="share of the updates over which the KL's weight rises")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the counts that the encoder does not see while it learns")
    updates: int = Field(200, ge=1, description="optimisation steps, rounded up to whole passes over the training trials")
    batch: int = Field(64, ge=2, description="windows per optimisation step")
    learning_rate: float = Field(4e-3, gt=0, description="peak of the one-cycle schedule")
    held_out: float = Field(0.25, gt=0, le=0.5, description="share of the rewarded trials that every number is reported on")
    min_trials: int = Field(20, ge=5, description="fewest rewarded trials to train on")


class FilmConfig(Strict):
    """Films of what a factor does."""

    scene: Literal["cursor", "arm"] = Field("cursor", description="what is drawn where there is no camera")
    position: tuple[str, str] | None = Field(
        None,
        description="kinematics that move the cursor or hand, velocities integrated from the centre; none takes the first two",
    )
    levels: tuple[str, ...] | None = Field(
        None, description="behaviours drawn as bars beside it; none takes the kinematics beyond the first two, 4 at most"
    )
    size: int = Field(16, ge=8, le=256, description="pixels of a frame's shorter side")
    length: int = Field(24, ge=8, le=256, description="frames of a clip")
    codec: Literal["pca", "convolutional"] = Field("pca", description="how frames become codes; convolutional suits a camera")
    components: int = Field(32, ge=2, le=256, description="codes per frame, at most")
    codec_epochs: int = Field(30, ge=1, description="passes over the frames for a convolutional codec")
    window: int = Field(5, ge=1, le=31, description="frames that the linear frame encoder sees at once; an odd number")
    space: Literal["codes", "pixels"] = Field(
        "codes", description="what is diffused: clips of codes, or of pixels by a U-Net as in the paper, which wants a GPU"
    )
    width: int = Field(96, ge=8, le=512, multiple_of=8, description="width of the clip denoiser; 32 in the paper's U-Net")
    blocks: int = Field(4, ge=1, le=16, description="residual blocks of the clip denoiser, or levels of the U-Net")
    steps: int = Field(100, ge=2, le=4000, description="diffusion steps")
    updates: int = Field(1500, ge=1, description="optimisation steps of the clip diffusion, rounded up to whole passes")
    batch: int = Field(32, ge=1, description="clips per optimisation step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule")
    drop: float = Field(0.2, ge=0, lt=1, description="share of clips whose factors are hidden from the denoiser in training")
    strides: int = Field(100, ge=2, description="strides of the sampler")
    temperature: float = Field(4.0, gt=0, description="temperature tau of the guide")
    scale: float = Field(6000.0, ge=0, description="scale of the guide's gradient")
    cap: float = Field(95.0, gt=0, le=100, description="percentile of the real clips' variance beyond which the guide stops")
    free_weight: float = Field(2.0, ge=0, description="weight of classifier-free guidance")

    @field_validator("window")
    @classmethod
    def _fits_a_clip(cls, value: int, known: ValidationInfo) -> int:
        length = known.data.get("length", value + 1)  # a length at fault is told by itself
        if value % 2 == 0 or value >= length:
            raise ValueError(f"expected an odd number below length ({length})")
        return value


class ExplainConfig(Strict):
    """``bci-align explain train``."""

    behaviours: dict[str, BehaviourConfig] | None = Field(
        None, description="name of every behaviour and what it is made of; none takes every kinematics column and their speed"
    )
    factors: FactorConfig = FactorConfig()
    film: FilmConfig = FilmConfig()
