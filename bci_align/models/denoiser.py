"""Spatio-temporal denoiser of latent trajectories: attention over latents, then over time (ERDiff's STBlocks)."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.models.layers import Layers


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017) of ``position`` (n,) as (n, width)."""
    half = width // 2
    freq = torch.exp(-math.log(10_000.0) * torch.arange(half, device=position.device) / half)
    angle = position.float()[:, None] * freq
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Attention(nn.Module):
    """Pre-norm self-attention and a feed-forward layer over the second-to-last axis of (N, S, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_ff = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, s, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, s, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, s, w)
        x = x + self.out(y)
        return x + self.ff(self.norm_ff(x))


class STBlock(nn.Module):
    """Spatial attention (over the d latents of one bin), then temporal attention (over the L bins of one latent).

    ``layers`` leaves one of the two out; nothing takes its place.
    """

    def __init__(self, width: int, heads: int, layers: Layers = "both") -> None:
        super().__init__()
        self.step = nn.Linear(width, width)
        self.spatial = None if layers == "temporal" else Attention(width, heads)
        self.temporal = None if layers == "spatial" else Attention(width, heads)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        b, length, d, w = x.shape
        x = x + self.step(step)[:, None, None]
        if self.spatial is not None:
            x = self.spatial(x.reshape(b * length, d, w)).reshape(b, length, d, w)
        if self.temporal is not None:
            x = x.transpose(1, 2).reshape(b * d, length, w)
            x = self.temporal(x).reshape(b, d, length, w).transpose(1, 2)
        return x


class LatentDenoiser(nn.Module):
    """Noise of latent windows: ``(x (B, L, d), t (B,)) -> (B, L, d)``.

    Every scalar x[b, l, j] is one token; which latent it is and which bin it is are embedded (learnt, sinusoidal).
    With width 24 and two blocks about 27,000 parameters (ERDiff: 28,065). ``layers`` makes ERDiff's ablations: with
    ``spatial`` alone the bins, with ``temporal`` alone the latents are denoised independently of each other.
    """

    def __init__(self, latents: int, width: int = 24, blocks: int = 2, heads: int = 4, layers: Layers = "both") -> None:
        super().__init__()
        if layers not in get_args(Layers):
            raise ValueError(f"unknown layers {layers!r}; known are {', '.join(map(repr, get_args(Layers)))}")
        self.width = width
        self.value = nn.Linear(1, width)
        self.latent = nn.Parameter(torch.randn(latents, width) / math.sqrt(width))
        self.step = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(STBlock(width, heads, layers) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        step = self.step(sinusoids(t, self.width))
        place = sinusoids(torch.arange(x.shape[1], device=x.device), self.width)
        h = self.value(x[..., None]) + self.latent + place[None, :, None]
        for block in self.blocks:
            h = block(h, step)
        return self.out(self.norm(h))[..., 0]
