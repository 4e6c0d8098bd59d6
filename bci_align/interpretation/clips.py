"""Learn to film: a codec, an encoder from frames to factors, a diffusion of clips, and a regression from factors to frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bci_align.config import FilmConfig
from bci_align.diffusion import windows
from bci_align.diffusion.fit import Conditioning
from bci_align.diffusion.fit import fit as fit_diffusion
from bci_align.diffusion.process import Diffusion
from bci_align.errors import InterpretationError
from bci_align.interpretation.codec import fidelity, fit_codec
from bci_align.interpretation.guide import fit_encoder
from bci_align.models.clip_denoiser import ClipDenoiser, FrameEncoder, FrameRegressor
from bci_align.models.frame_codec import ConvCodec, FrameCodec, PcaCodec
from bci_align.models.video_unet import VideoUNet
from bci_align.threads import one_thread

Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

REGRESSION_STEPS = 400
REGRESSION_RATE = 4e-3
AVERAGE = 0.995
"""Decay of the averaged weights that films are drawn with."""


class Filming(nn.Module):
    """Everything that a film is made with; all of it is in ``state_dict``.

    ``z_mean``, ``z_sd`` (D,) standardise factors; ``caps`` (D,) are the real clips' percentiles of the variance of the *encoded*
    factors; ``lead`` (L, D) for each factor the trajectory of the real clip whose variance lies at
    the percentile: what naive manipulation and classifier-free guidance let the factor do.
    """

    z_mean: Tensor
    z_sd: Tensor
    caps: Tensor
    lead: Tensor

    def __init__(self, codec: FrameCodec, codes: int, factors: int, length: int, config: FilmConfig) -> None:
        super().__init__()
        self.codec: FrameCodec = codec
        self.codes, self.factors, self.length, self.config = codes, factors, length, config
        self.encoder = FrameEncoder(codes, factors, config.window)
        # Linear: the cosine schedule's last step is so large that DDIM's first stride multiplies the net's error by sixty.
        self.diffusion = Diffusion(_denoiser(codes, factors, config), "linear", config.steps)
        self.regressor = FrameRegressor(factors, codes)
        self.register_buffer("z_mean", torch.zeros(factors))
        self.register_buffer("z_sd", torch.ones(factors))
        self.register_buffer("caps", torch.ones(factors))
        self.register_buffer("lead", torch.zeros(length, factors))

    def sample_shape(self) -> tuple[int, ...]:
        """Shape of what is diffused, without the batch: codes (L, k), or pixels (L, H, W) filled up to multiples of 2^levels."""
        if self.config.space == "codes":
            return self.length, self.codes
        part = 2 ** (self.config.blocks - 1)
        return self.length, *(-(-s // part) * part for s in self.codec.shape)

    def to_sample(self, frames: Tensor, codes: Tensor) -> Tensor:
        """Clips (n, L, ...) as they are diffused, of frames (n, L, H, W) in 0..1 and their ``codes`` (n, L, k)."""
        if self.config.space == "codes":
            return codes
        _, height, width = self.sample_shape()
        return nn.functional.pad(2 * frames - 1, (0, width - frames.shape[-1], 0, height - frames.shape[-2]), value=-1.0)

    def to_codes(self, sample: Tensor) -> Tensor:
        """Codes (n, L, k) of what is diffused; differentiable, the guide's gradient runs through it."""
        return sample if self.config.space == "codes" else self.codec.encode(self._cropped(sample))

    def to_frames(self, sample: Tensor) -> Tensor:
        """Frames (n, L, H, W) of what is diffused."""
        return self.codec.decode(sample) if self.config.space == "codes" else self._cropped(sample)

    def _cropped(self, sample: Tensor) -> Tensor:
        height, width = self.codec.shape
        return (sample[..., :height, :width] + 1) / 2

    @classmethod
    def empty(cls, shape: tuple[int, int], codes: int, factors: int, length: int, config: FilmConfig) -> Filming:
        """Build one to be filled from a ``state_dict``; frames are ``shape`` (H, W)."""
        codec = PcaCodec(*shape, codes) if config.codec == "pca" else ConvCodec(*shape, codes)
        return cls(codec.requires_grad_(False), codes, factors, length, config)


def _denoiser(codes: int, factors: int, config: FilmConfig) -> nn.Module:
    if config.space == "codes":
        return ClipDenoiser(codes, factors, config.width, config.blocks)
    return VideoUNet(factors, config.width, config.blocks)


def device_of(config: FilmConfig) -> torch.device:
    """Pixels are diffused on a GPU where there is one; codes are so small that the way there costs more."""
    return torch.device("cuda" if config.space == "pixels" and torch.cuda.is_available() else "cpu")


@one_thread()
def fit_filming(
    frames: Sequence[Array],
    factors: Sequence[NDArray[np.float64]],
    held_out: tuple[Sequence[Array], Sequence[NDArray[np.float64]]],
    config: FilmConfig,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Filming, dict[str, Any]]:
    """Learn from training trials of ``frames`` (T_i, H, W) and ``factors`` (T_i, D).

    Gives the networks in eval mode and what is known of them on the ``held_out`` trials (frames, factors): the codec's share of
    the variance, and the encoder's R2 of every factor. :class:`InterpretationError` for trials too short for a clip.
    """
    length = min(config.length, windows.window_length([len(f) for f in frames], [0] * len(frames)))
    least = max(length, config.window + 1)  # a window's answers must be two or more: their variance in a clip is what guides
    if length < least or length > max(len(f) for f in frames):
        raise InterpretationError(f"film: expected trials of at least {least} bins, found shorter ones")
    codec = fit_codec(np.concatenate(frames), config, seed, _stage(progress, "frame codec"))
    z_all = np.concatenate(factors)
    mean, sd = z_all.mean(0), np.maximum(z_all.std(0), 1e-6)
    with torch.no_grad():
        codes = [codec.encode(torch.from_numpy(f)) for f in frames]
    scaled = [torch.from_numpy(((z - mean) / sd).astype(np.float32)) for z in factors]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Filming(codec, codes[0].shape[1], z_all.shape[1], length, config)
    made.z_mean.copy_(torch.from_numpy(mean.astype(np.float32)))
    made.z_sd.copy_(torch.from_numpy(sd.astype(np.float32)))
    fit_encoder(made.encoder, codes, scaled)
    shown = [made.to_sample(torch.from_numpy(f), c).flatten(1) for f, c in zip(frames, codes, strict=True)]
    parts = [shown[0].shape[1], made.codes, made.factors]
    joined, lengths = windows.pad([torch.cat(p, 1).numpy() for p in zip(shown, codes, scaled, strict=True)])
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    none = [0] * len(lengths)

    def clips() -> tuple[Tensor, Tensor]:
        _, c, z = torch.split(windows.cut(joined, lengths, none, length, rng), parts, dim=-1)
        return c, z

    device = device_of(config)

    def samples() -> tuple[Tensor, Tensor]:
        x, _, z = torch.split(windows.cut(joined, lengths, none, length, rng), parts, dim=-1)
        return x.reshape(-1, *made.sample_shape()).to(device), told(z).to(device)

    _limits(made, [clips() for _ in range(8)])
    _regress(made, clips, generator, config.batch, _stage(progress, "factors to frames"))
    history = fit_diffusion(
        made.diffusion.to(device),
        samples,
        math.ceil(config.updates / math.ceil(sum(n >= length for n in lengths) / config.batch)),
        generator,
        config.learning_rate,
        config.batch,
        _stage(progress, "clip diffusion"),
        conditioning=Conditioning(drop=config.drop, null=torch.zeros(length, made.factors + 1)),
        ema=AVERAGE,
    )
    made.to("cpu")
    record = {
        "clip": length,
        "codes": made.codes,
        "codec_r2": fidelity(codec, np.concatenate(held_out[0])),
        "encoder_r2": _seen(made, *held_out),
        "diffusion_loss": [round(v, 5) for v in history],
        "clip_parameters": sum(p.numel() for p in made.diffusion.parameters()),
    }
    return made.eval().requires_grad_(False), record


def told(factors: Tensor) -> Tensor:
    """Condition (n, L, D + 1) of factors (n, L, D): see :class:`~bci_align.models.clip_denoiser.ClipDenoiser`."""
    return torch.cat([factors, factors.new_ones(*factors.shape[:2], 1)], -1)


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(stage, done, total)) if progress else None


@torch.no_grad()
def _limits(made: Filming, drawn: list[tuple[Tensor, Tensor]]) -> None:
    """Percentiles of the variance in real clips, and for each factor the clip that lies there."""
    seen = torch.cat([made.encoder(c).var(1) for c, _ in drawn])
    made.caps.copy_(torch.quantile(seen, made.config.cap / 100, dim=0))
    z = torch.cat([z for _, z in drawn])
    variance = z.var(1)
    at = (variance - torch.quantile(variance, made.config.cap / 100, dim=0)).abs().argmin(0)
    made.lead.copy_(torch.stack([z[int(i), :, d] for d, i in enumerate(at)], dim=1))


def _regress(
    made: Filming,
    clips: Callable[[], tuple[Tensor, Tensor]],
    generator: torch.Generator,
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Squared error of the codes that the factors tell."""
    total = min(REGRESSION_STEPS, made.config.updates)
    optimiser = torch.optim.AdamW(made.regressor.parameters(), REGRESSION_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, REGRESSION_RATE, total_steps=total)
    done = 0
    while done < total:
        c, z = clips()
        for rows in torch.split(torch.randperm(len(c), generator=generator), batch)[: total - done]:
            loss = (made.regressor(z[rows]) - c[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
        if progress:
            progress(done, total)


@torch.no_grad()
def _seen(made: Filming, frames: Sequence[Array], factors: Sequence[NDArray[np.float64]]) -> list[float]:
    """R2 of every factor as the frame encoder sees it, on trials that trained nothing."""
    reach = made.encoder.window // 2
    error, square = torch.zeros(made.factors), torch.zeros(made.factors)
    for f, z in zip(frames, factors, strict=True):
        if len(f) >= made.encoder.window:
            told = made.encoder(made.codec.encode(torch.from_numpy(f))[None])[0]
            true = ((torch.from_numpy(z.astype(np.float32)) - made.z_mean) / made.z_sd)[reach : len(z) - reach]
            error += (true - told).square().sum(0)
            square += true.square().sum(0)
    return (1 - error / square).tolist()
