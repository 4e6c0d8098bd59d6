"""Fit the codec that makes codes of frames and frames of codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.config import FilmConfig
from bci_align.models.frame_codec import ConvCodec, FrameCodec, PcaCodec

KEPT = 0.98
"""Share of the frames' variance that principal components keep, if there are enough of them."""
MOST_FRAMES = 20_000
"""Frames that a codec is fitted on."""


def fit_codec(
    frames: NDArray[np.float32], config: FilmConfig, seed: int, progress: Callable[[int, int], None] | None = None
) -> FrameCodec:
    """Fit a codec on training ``frames`` (n, H, W); its codes are standardised on them."""
    rng = np.random.default_rng(seed)
    if len(frames) > MOST_FRAMES:
        frames = frames[np.sort(rng.choice(len(frames), MOST_FRAMES, replace=False))]
    x = torch.from_numpy(np.ascontiguousarray(frames))
    codec = _principal(x, config) if config.codec == "pca" else _convolutional(x, config, seed, progress)
    return codec.eval().requires_grad_(False)


def _principal(x: torch.Tensor, config: FilmConfig) -> PcaCodec:
    flat = x.flatten(1).double()
    mean = flat.mean(0)
    value, vector = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    value, vector = value.flip(0).clamp(min=0), vector.flip(1)
    share = value.cumsum(0) / value.sum()
    k = min(int((share < KEPT).sum()) + 1, config.components, int((value > 1e-9 * value[0]).sum()))
    codec = PcaCodec(x.shape[1], x.shape[2], k)
    codec.mean.copy_(mean.float())
    codec.components.copy_(vector[:, :k].T.float())
    codec.sd.copy_(value[:k].sqrt().float())
    return codec


def _convolutional(x: torch.Tensor, config: FilmConfig, seed: int, progress: Callable[[int, int], None] | None) -> ConvCodec:
    """Squared error of the frames; the last layer begins at the mean frame's level."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = ConvCodec(x.shape[1], x.shape[2], config.components)
    optimiser = torch.optim.AdamW(codec.parameters(), 2e-3)
    batches = torch.split(torch.arange(len(x)), config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=config.codec_epochs * len(batches))
    for epoch in range(config.codec_epochs):
        for rows in torch.split(torch.randperm(len(x), generator=generator), config.batch):
            loss = (codec.decode(codec.encode(x[rows])) - x[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if progress:
            progress(epoch + 1, config.codec_epochs)
    with torch.no_grad():
        codes = torch.cat([codec.encode(x[rows]) for rows in batches])
        codec.mean.copy_(codes.mean(0))
        codec.sd.copy_(codes.std(0).clamp(min=1e-6))
    return codec


@torch.no_grad()
def fidelity(codec: FrameCodec, frames: NDArray[np.float32]) -> float:
    """Share of the variance of ``frames`` (n, H, W) that comes back through the codec."""
    x = torch.from_numpy(np.ascontiguousarray(frames))
    back = torch.cat([codec.decode(codec.encode(part)) for part in torch.split(x, 1024)])
    return float(1 - (x - back).square().sum() / (x - x.mean(0)).square().sum())
