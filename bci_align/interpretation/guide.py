"""What activates one factor: the contrast of its variance against all others', read off the predicted clean clip (Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bci_align.diffusion.guide import Guide
from bci_align.models.clip_denoiser import FrameEncoder

WINDOW = (0.0, 0.5)
"""Shares of the schedule in which the guide speaks: beyond, less than 8 % of the signal's variance is left, and the gradient
through the net is the small difference of two large numbers."""


MOST_PULL = 0.1
"""Largest norm of the gradient at one clean clip: three times what it is on a well-behaved way. Without it, where the encoder
sees more variance than any real clip has, every stride overshoots further than the last."""


def contrast(factors: Tensor, chosen: int, temperature: float, cap: Tensor) -> Tensor:
    """Log-probability (B,) that ``chosen`` is the active factor of trajectories (B, L, D) (BeNeDiff, Eq. 8).

    ``log [exp(f_d / tau) / (exp(f_d / tau) + sum_j exp(f_j / tau))]`` with f the variance over the clip. All other factors are
    negatives (the paper samples K of them: with a handful of factors there is nothing to save). The chosen factor's variance
    counts up to ``cap`` (a scalar), so that a film shows no more movement than real ones do.
    """
    f = factors.var(1)
    others = torch.cat([f[:, :chosen], f[:, chosen + 1 :]], dim=1)
    mine = torch.minimum(f[:, chosen], cap)
    return mine / temperature - torch.cat([mine[:, None], others], dim=1).div(temperature).logsumexp(1)


def factor_guide(see: Callable[[Tensor], Tensor], chosen: int, temperature: float, scale: float, cap: Tensor) -> Guide:
    """Guide of the one diffusion core: the gradient of :func:`contrast` at the *predicted clean* clip, through the net.

    ``see`` gives the factors (B, L', D) of what is diffused (B, L, ...): the linear encoder, behind the codec where pixels are.
    Taken at the noisy Y_t literally, as Eq. 5 reads, the encoder sees frames that it never saw in training and the gradient
    breaks the pictures.
    """

    def log_p(x0: Tensor, t: Tensor) -> Tensor:
        if x0.requires_grad:
            x0.register_hook(_held)  # type: ignore[no-untyped-call]
        return contrast(see(x0), chosen, temperature, cap)

    return Guide(log_p, scale, WINDOW)


def _held(gradient: Tensor) -> Tensor:
    """Shorten every clip's gradient (B, ...) to :data:`MOST_PULL`."""
    norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient * (MOST_PULL / norm).clamp(max=1.0).reshape(-1, *([1] * (gradient.ndim - 1)))


def fit_encoder(encoder: FrameEncoder, codes: list[Tensor], factors: list[Tensor], ridge: float = 1.0) -> None:
    """Fit ``encoder`` by ridge on whole trials of codes (T_i, k) and factors (T_i, D), each of a window's length or more."""
    reach = encoder.window // 2
    x, y = [], []
    for c, z in zip(codes, factors, strict=True):
        if len(c) >= encoder.window:
            x.append(encoder.windows(c[None])[0].double())
            y.append(z[reach : len(z) - reach].double())
    a, b = torch.cat(x), torch.cat(y)
    centre, level = a.mean(0), b.mean(0)
    a, b = a - centre, b - level
    gram = a.T @ a + ridge * torch.eye(a.shape[1], dtype=a.dtype)
    weight = torch.linalg.solve(gram, a.T @ b)
    encoder.weight.copy_(weight.T.float())
    encoder.bias.copy_((level - centre @ weight).float())
