"""Noise of clips: of their codes by convolutions over time, and a recurrent map from factors to codes beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bci_align.models.denoiser import sinusoids


class _Block(nn.Module):
    """Two convolutions over time around a shift and scale by the step and a shift by the condition; residual."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.step = nn.Linear(width, 2 * width)
        self.norm_out = nn.GroupNorm(8, width)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, step: Tensor, told: Tensor) -> Tensor:
        h = self.first(nn.functional.silu(self.norm(x))) + told
        scale, shift = self.step(step)[:, :, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift
        return x + self.second(nn.functional.silu(h))


class ClipDenoiser(nn.Module):
    """Noise of clips of frame codes: ``(x (B, L, k), t (B,), cond (B, L, D + 1)) -> (B, L, k)``.

    ``cond`` holds the factors of every frame and, in its last column, 1 where they are told: all zeros, or none at all, is
    "nothing told", which mean factors are not. Dilations double from block to block, so that four blocks see 31 frames.

    A share of ``x`` itself, learnt for every step, goes straight to the answer. Near pure noise the noise *is* x, normalisation
    layers lose its scale, and what is missing there is divided by sqrt(abar) on the way to the clean clip.
    """

    def __init__(self, codes: int, factors: int, width: int = 96, blocks: int = 4) -> None:
        super().__init__()
        self.width, self.told_width = width, factors + 1
        self.start = nn.Conv1d(codes, width, 3, padding=1)
        self.told = nn.Conv1d(factors + 1, width, 5, padding=2)
        self.step = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width, 2**i) for i in range(blocks))
        self.straight = nn.Linear(width, 1)
        self.norm = nn.GroupNorm(8, width)
        self.out = nn.Conv1d(width, codes, 3, padding=1)
        for part in self.out.parameters():
            nn.init.zeros_(part)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        if cond is None:
            cond = x.new_zeros(len(x), x.shape[1], self.told_width)
        step = self.step(sinusoids(t, self.width))
        told = self.told(cond.transpose(1, 2))
        h = self.start(x.transpose(1, 2))
        for block in self.blocks:
            h = block(h, step, told)
        return self.straight(step)[:, None] * x + self.out(nn.functional.silu(self.norm(h))).transpose(1, 2)


class FrameRegressor(nn.Module):
    """Mean of p(Y | Z): factors (B, L, D) -> frame codes (B, L, k); what naive manipulation shows."""

    def __init__(self, factors: int, codes: int, hidden: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(factors, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, codes)

    def forward(self, factors: Tensor) -> Tensor:
        h, _ = self.gru(factors)
        return self.out(h)


class FrameEncoder(nn.Module):
    """Windowed linear frame encoder: codes (B, L, k) -> factors (B, L - window + 1, D) (BeNeDiff, Eq. 7, with a window).

    Eq. 7 sees one frame, and a velocity cannot be seen in one frame. Frame l of the answer is the window's middle.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, codes: int, factors: int, window: int = 5) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"expected an odd window of at least 1 frame, found {window}")
        self.window = window
        self.register_buffer("weight", torch.zeros(factors, window * codes))
        self.register_buffer("bias", torch.zeros(factors))

    def windows(self, codes: Tensor) -> Tensor:
        """Every window of ``codes`` (B, L, k), its frames side by side: (B, L - window + 1, window k)."""
        return codes.unfold(1, self.window, 1).transpose(2, 3).flatten(2)

    def forward(self, codes: Tensor) -> Tensor:
        return self.windows(codes) @ self.weight.T + self.bias
