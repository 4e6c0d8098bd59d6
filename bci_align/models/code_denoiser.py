"""Networks of a code-conditioned diffusion model of trials: an encoder to a code, and a 1-D U-Net denoiser that is told the code.

GNOCCHI (McCart et al.) and InfoDiffusion (Wang et al. 2023): convolutional ResBlocks, attention at the coarsest level, mean-pool
and a linear map to the code; time and code by adaptive group norm (Dhariwal & Nichol 2021), a tail that begins at zero.

Ours is the *trunk*: a linear map from the code to the trial's mean, around which the U-Net denoises. A net's answer to a code
that it never saw is anybody's guess; a linear one goes on as it began, which is what cortical tuning does to first order. The
U-Net then only has the residual to learn, and training is short.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.models.denoiser import Attention, sinusoids

GROUPS = 8
"""Groups of every norm; widths are multiples of it."""


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside the identity: (B, inside, T) -> (B, out, T).

    With ``told`` > 0 the second norm is scaled and shifted by what an embedding (B, told) asks for.
    """

    def __init__(self, inside: int, out: int, told: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, inside), nn.Conv1d(inside, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, out), nn.Conv1d(out, out, 3, padding=1)
        self.tell = nn.Linear(told, 2 * out) if told else None
        self.same = nn.Identity() if inside == out else nn.Conv1d(inside, out, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.tell is not None:
            scale, shift = self.tell(told)[..., None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.same(x) + self.conv2(F.silu(h))


class CodeEncoder(nn.Module):
    """A trial's code: ``x (B, T, C) -> (B, L)``.

    A linear projection of the whole trial (:meth:`start` sets it) and a convolutional net beside it. ``sees`` is how many of
    the C channels, from the first on, it is shown: a code of rates alone knows nothing of kinematics that lie behind them.
    """

    def __init__(
        self, bins: int, channels: int, code: int, width: int = 32, mult: Sequence[int] = (1, 2), sees: int | None = None
    ) -> None:
        super().__init__()
        self.sees = channels if sees is None else sees
        widths = [width * m for m in mult]
        self.trunk = nn.Linear(bins * self.sees, code)
        self.first = nn.Conv1d(self.sees, widths[0], 3, padding=1)
        levels: list[nn.Module] = []
        for before, after in zip([widths[0], *widths[:-1]], widths, strict=True):
            levels += [ResBlock(before, after)] + ([] if after == widths[-1] else [nn.Conv1d(after, after, 3, 2, 1)])
        self.levels = nn.ModuleList(levels)
        self.attention = Attention(widths[-1], 4)
        self.out = nn.Linear(widths[-1], code)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def start(self, projection: Tensor, mean: Tensor) -> None:
        """Begin as ``projection`` (T * sees, L) of what z-scored trials are beyond the ``mean`` trial (T, C)."""
        self.trunk.weight.data = projection.T.contiguous()
        self.trunk.bias.data = -(mean[:, : self.sees].flatten() @ projection)

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., : self.sees]
        h = self.first(x.transpose(1, 2))
        for level in self.levels:
            h = level(h)
        h = self.attention(h.transpose(1, 2))
        return self.trunk(x.flatten(1)) + self.out(h.mean(1))


class CodeDenoiser(nn.Module):
    """Noise of a trial that has a code: ``(x (B, T, C), t (B,), c (B, L)) -> (B, T, C)``.

    It is the exact denoiser of ``N(trunk(c), v)``, v one variance per channel, plus a U-Net of the residual. ``signal`` (steps,)
    is the schedule's abar. Without ``linear`` the trunk is zero: the paper's denoiser, for comparison.
    """

    signal: Tensor

    def __init__(
        self,
        bins: int,
        channels: int,
        code: int,
        signal: Tensor,
        width: int = 32,
        mult: Sequence[int] = (1, 2),
        linear: bool = True,
    ) -> None:
        super().__init__()
        self.bins, self.width, self.linear = bins, width, linear
        self.register_buffer("signal", signal.clone(), persistent=False)
        widths = [width * m for m in mult]
        told = 2 * width
        self.trunk = nn.Linear(code, bins * channels)
        self.log_variance = nn.Parameter(torch.full((channels,), -1.0))
        nn.init.zeros_(self.trunk.weight)
        nn.init.zeros_(self.trunk.bias)
        self.step = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        self.code = nn.Linear(code, told)
        self.first = nn.Conv1d(channels, widths[0], 3, padding=1)
        pairs = list(zip([widths[0], *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(ResBlock(a, b, told) for a, b in pairs)
        self.shrink = nn.ModuleList(nn.Conv1d(w, w, 3, 2, 1) for w in widths[:-1])
        self.attention = Attention(widths[-1], 4)
        self.middle = ResBlock(widths[-1], widths[-1], told)
        self.up = nn.ModuleList(ResBlock(2 * b, a, told) for a, b in reversed(pairs))
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.out = nn.Conv1d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def start(self, loadings: Tensor, mean: Tensor) -> None:
        """Begin with ``loadings`` (L, T * C) around the ``mean`` trial (T, C) as the trunk."""
        self.trunk.weight.data = loadings.T.contiguous()
        self.trunk.bias.data = mean.flatten().clone()

    def mean(self, code: Tensor) -> Tensor:
        """Mean trial (B, T, C) that the trunk gives a code (B, L)."""
        return self.trunk(code).reshape(len(code), self.bins, -1)

    def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
        a = self.signal[t][:, None, None]
        if self.linear:
            x = x - a.sqrt() * self.mean(code)
        gaussian = x * (1 - a).sqrt() / (a * self.log_variance.exp() + 1 - a)
        told = F.silu(self.step(sinusoids(t, self.width)) + self.code(code))
        h = self.first(x.transpose(1, 2))
        kept = []
        for i, block in enumerate(self.down):
            h = block(h, told)
            kept.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        h = self.middle(self.attention(h.transpose(1, 2)).transpose(1, 2), told)
        for block, skip in zip(self.up, reversed(kept), strict=True):
            if h.shape[2] != skip.shape[2]:
                h = F.interpolate(h, size=skip.shape[2])
            h = block(torch.cat([h, skip], 1), told)
        return gaussian + self.out(F.silu(self.norm(h))).transpose(1, 2)
