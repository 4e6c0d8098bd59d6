"""The code model: encoder, code-conditioned denoiser and scaler as one generator of trials (GNOCCHI)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from bci_align.augmentation.mmd import mmd
from bci_align.augmentation.spaces import LinearSpace
from bci_align.augmentation.trials import Array, Index, Scaler, TrialSet
from bci_align.config import AugmentConfig
from bci_align.diffusion.fit import Checkpoint, Conditioning, fit
from bci_align.diffusion.process import Diffusion, Noised
from bci_align.diffusion.schedule import Kind, abar
from bci_align.errors import AugmentationError
from bci_align.models.code_denoiser import CodeDenoiser, CodeEncoder
from bci_align.threads import one_thread

SCHEDULE: Kind = "linear"


class Jittered(torch.nn.Module):
    """The encoder as training calls it: it reads the code off a noisy copy, so that a code cannot learn a trial by heart."""

    def __init__(self, encoder: CodeEncoder, jitter: float, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder, self.jitter, self.generator = encoder, jitter, generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x + self.jitter * torch.randn(x.shape, generator=self.generator))


@dataclass(frozen=True)
class CodeSpace:
    """A trained code model; ``bins`` T and ``channels`` C + K of its trials."""

    encoder: CodeEncoder
    diffusion: Diffusion
    scaler: Scaler
    config: AugmentConfig
    bins: int
    exact: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        """Channels and outputs together."""
        return len(self.scaler.mean)

    @torch.no_grad()
    def encode(self, trials: TrialSet) -> Array:
        """Codes (n, L)."""
        codes: Array = self.encoder(torch.from_numpy(self.scaler.to(trials))).numpy()
        return codes

    def noise(self, n: int, seed: int, shared: bool = False) -> torch.Tensor:
        """The noise x_T (n, T, C + K) of ``seed``, of the configured temperature; the same for every trial with ``shared``.

        Smoothed rates hold the neurons' own noise, so that a sample of temperature 1 does, too. Spikes are drawn around it once
        more: cooler samples leave that noise to them.
        """
        made = torch.randn(1 if shared else n, self.bins, self.channels, generator=torch.Generator().manual_seed(seed))
        return self.config.temperature * made.expand(n, -1, -1)

    @one_thread()
    def decode(self, codes: Array, seed: int = 0, shared: bool = False, x_T: torch.Tensor | None = None) -> tuple[Array, Array]:
        """Rates and kinematics by DDIM from ``x_T`` (n, T, C + K), by default :meth:`noise` of ``seed``."""
        c = torch.from_numpy(np.asarray(codes, np.float32))
        x_T = self.noise(len(c), seed, shared) if x_T is None else x_T
        out = [
            self.diffusion.sample(tuple(part.shape), torch.Generator(), self.config.sampling, x_T=part, cond=cond)
            for part, cond in zip(torch.split(x_T, 256), torch.split(c, 256), strict=True)
        ]
        return self.scaler.back(torch.cat(out).numpy())

    @one_thread()
    def invert(self, trials: TrialSet, iterations: int = 3) -> torch.Tensor:
        """The noise (n, T, C + K) from which :meth:`decode` with the trials' own codes gives the trials back: for exact edits."""
        x = torch.from_numpy(self.scaler.to(trials))
        return self.diffusion.invert(x, self.config.sampling, torch.from_numpy(self.encode(trials)), iterations)

    def edit(self, trials: TrialSet, rows: Index, codes: Array, seed: int = 0) -> tuple[Array, Array]:
        """The trials ``rows`` with other ``codes``: decoded from the noise that their own codes give them back from."""
        own, place = np.unique(rows, return_inverse=True)
        return self.decode(codes, x_T=self.invert(trials.of(own))[torch.from_numpy(place.reshape(-1))])


def untrained(config: AugmentConfig, bins: int, channels: int, outputs: int) -> tuple[CodeEncoder, Diffusion]:
    """Networks of ``config`` for trials of ``bins``, ``channels`` and ``outputs``."""
    sees = channels + outputs if config.sees_kinematics else channels
    encoder = CodeEncoder(bins, channels + outputs, config.code, config.width, sees=sees)
    net = CodeDenoiser(
        bins, channels + outputs, config.code, abar(SCHEDULE, config.steps), config.width, linear=config.linear_trunk
    )
    return encoder, Diffusion(net, SCHEDULE, config.steps)


@one_thread()
def train(
    trials: TrialSet,
    config: AugmentConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> CodeSpace:
    """Train a code model on ``trials``; the same trials, configuration and seed give the same bits on one machine.

    Loss: squared error of the noise, plus (1 / T_d) that of the clean sample (it is the error of the noise times (1 - abar) /
    abar, clipped at ``snr_clip``), plus ``mmd_weight`` times the codes' MMD to N(0, I). :class:`AugmentationError` for too few
    trials and for a loss that is not finite.
    """
    if len(trials) < config.min_trials:
        raise AugmentationError(f"code model: expected at least {config.min_trials} trials, found {len(trials)}")
    scaler = Scaler.fit(trials)
    x = torch.from_numpy(scaler.to(trials))
    n, bins, _ = x.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, diffusion = untrained(config, bins, scaler.channels, x.shape[2] - scaler.channels)
    if config.linear_trunk:
        start = LinearSpace.fit(trials, config.code, config.sees_kinematics, scaler)
        mean = torch.from_numpy(start.mean)
        encoder.start(torch.from_numpy(start.projection), mean)
        assert isinstance(diffusion.net, CodeDenoiser)
        diffusion.net.start(torch.from_numpy(start.loadings), mean)
        # Closed forms of small weights: an optimiser's steps, all of one size, would shake them to pieces.
        encoder.trunk.requires_grad_(False)
        diffusion.net.trunk.requires_grad_(False)
    # Few trials are seen often in an epoch, and every batch is full: the MMD is one batch's, and of one trial there is none.
    x = x.repeat(math.ceil(4 * config.batch / n), 1, 1)
    epochs = max(round(config.updates / (len(x) // config.batch)), 1)
    odds = (1 - diffusion.abar) / diffusion.abar

    def extra(seen: Noised) -> torch.Tensor:
        weight = odds[seen.t].clamp(max=config.snr_clip) / config.steps
        clean = ((seen.eps_hat - seen.eps).square().flatten(1).mean(1) * weight).mean()
        assert seen.cond is not None
        normal = torch.randn(seen.cond.shape, generator=generator)
        loss = clean + config.mmd_weight * mmd(seen.cond, normal)
        if not torch.isfinite(loss):
            raise AugmentationError("code model: the loss became infinite or NaN; lower learning_rate")
        return loss

    fit(
        diffusion,
        lambda: x,
        epochs,
        generator,
        config.learning_rate,
        config.batch,
        progress,
        conditioning=Conditioning(Jittered(encoder, config.jitter, generator)),
        extra=extra,
        ema=config.ema,
        checkpoint=checkpoint,
        whole=True,
    )
    return CodeSpace(encoder.eval().requires_grad_(False), diffusion.eval().requires_grad_(False), scaler, config, bins)
