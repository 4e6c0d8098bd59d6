"""Noise schedules: how much of the signal is left after each step of the forward process.

The forward process is variance preserving: ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`` (Ho et al. 2020, Eq. 4).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["cosine", "linear"]


def abar(kind: Kind, steps: int) -> Tensor:
    """Return the cumulative signal share abar_t of steps 1..T, shape (T,) float32, falling from near 1 to near 0.

    ``cosine`` is Nichol & Dhariwal 2021 (Eq. 17, offset 0.008); ``linear`` is Ho et al. 2020 scaled to ``steps``.
    """
    if steps < 2:
        raise ValueError(f"a schedule needs at least 2 steps, found {steps}")
    if kind == "cosine":
        s = 0.008
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    elif kind == "linear":
        scale = 1000 / steps
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=0.999)
    else:
        raise ValueError(f"unknown schedule {kind!r}; known are 'cosine' and 'linear'")
    return torch.cumprod(1 - beta, 0).float()
