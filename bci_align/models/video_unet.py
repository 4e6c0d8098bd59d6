"""A U-Net of pixels: convolutions over space, then over time, and attention over space where the picture is small.

BeNeDiff's video diffusion (Ho et al. 2022, "Video diffusion models", factorised over space and time). For a GPU: at 128 x 128 x
189 frames every convolution touches three million pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.models.denoiser import Attention, sinusoids


class _Layer(nn.Module):
    """Convolution over space, shift and scale by the step, convolution over time; residual."""

    def __init__(self, before: int, width: int, step: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, before), before)
        self.space = nn.Conv3d(before, width, (1, 3, 3), padding=(0, 1, 1))
        self.step = nn.Linear(step, 2 * width)
        self.norm_out = nn.GroupNorm(8, width)
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        nn.init.zeros_(self.time.weight)
        self.skip = nn.Conv3d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        h = self.space(F.silu(self.norm(x)))
        scale, shift = self.step(step)[:, :, None, None, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift
        return self.skip(x) + self.time(F.silu(h))


class _SpatialAttention(nn.Module):
    """Self-attention over the pixels of each frame."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = self.attention(x.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, c))
        return y.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)


class VideoUNet(nn.Module):
    """Noise of pixel clips: ``(x (B, T, H, W), t (B,), cond (B, T, D + 1)) -> (B, T, H, W)``; H, W divisible by 2^(levels - 1).

    ``cond`` as in :class:`~bci_align.models.clip_denoiser.ClipDenoiser`: the factors of every frame, and 1 where they are told.

    Every level halves H and W, never T, and doubles the width: 32, 64, 128 as in the paper. Attention is on the last level.
    """

    def __init__(self, factors: int, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        self.width, self.levels = width, levels
        self.told = nn.Linear(factors + 1, width)
        widths = [width * 2**i for i in range(levels)]
        step = 4 * width
        self.step = nn.Sequential(nn.Linear(width, step), nn.SiLU(), nn.Linear(step, step), nn.SiLU())
        self.start = nn.Conv3d(1, width, (1, 3, 3), padding=(0, 1, 1))
        self.down = nn.ModuleList(_Layer(widths[max(i - 1, 0)], w, step) for i, w in enumerate(widths))
        self.middle = nn.ModuleList([_SpatialAttention(widths[-1]), _Layer(widths[-1], widths[-1], step)])
        self.up = nn.ModuleList(
            _Layer(widths[i] + widths[min(i + 1, levels - 1)], widths[i], step) for i in reversed(range(levels))
        )
        self.straight = nn.Linear(step, 1)
        self.norm = nn.GroupNorm(8, width)
        self.out = nn.Conv3d(width, 1, (1, 3, 3), padding=(0, 1, 1))
        for part in self.out.parameters():
            nn.init.zeros_(part)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        halvings = 2 ** (self.levels - 1)
        if x.shape[-1] % halvings or x.shape[-2] % halvings:
            raise ValueError(f"expected a height and width divisible by {halvings}, found {tuple(x.shape[-2:])}")
        step = self.step(sinusoids(t, self.width))
        h, kept = self.start(x[:, None]), []
        if cond is None:
            cond = x.new_zeros(len(x), x.shape[1], self.told.in_features)
        h = h + self.told(cond).transpose(1, 2)[..., None, None]
        for i, layer in enumerate(self.down):
            h = layer(F.avg_pool3d(h, (1, 2, 2)) if i else h, step)
            kept.append(h)
        attention, layer = self.middle
        h = layer(attention(h), step)
        for i, layer in enumerate(self.up):
            before = kept[self.levels - 1 - i]
            if i:
                h = h.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
            h = layer(torch.cat([h, before], dim=1), step)
        return self.straight(step)[:, None, None] * x + self.out(F.silu(self.norm(h)))[:, 0]
