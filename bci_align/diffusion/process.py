"""The one diffusion core: noising, the denoising loss, DDIM sampling. Shared by alignment, augmentation and interpretation."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from bci_align.diffusion.schedule import Kind, abar


class Denoiser(Protocol):
    """A network that predicts the noise in ``x`` (B, ...) at step ``t`` (B,) int64; same shape out."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


class Diffusion(nn.Module):
    """A denoiser with its schedule.

    Parameters
    ----------
    net : Denoiser
        Predicts eps from (x_t, t).
    kind, steps
        The schedule; ``t`` runs from 0 (almost clean) to ``steps - 1`` (almost noise).
    """

    abar: Tensor

    def __init__(self, net: nn.Module, kind: Kind = "cosine", steps: int = 100) -> None:
        super().__init__()
        self.net = net
        self.steps = steps
        self.register_buffer("abar", abar(kind, steps), persistent=False)

    def _at(self, t: Tensor, x: Tensor) -> Tensor:
        """Share of signal at ``t`` (B,), shaped to multiply ``x`` (B, ...)."""
        return self.abar[t].reshape(-1, *([1] * (x.ndim - 1)))

    def q_sample(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Noise ``x0`` (B, ...) to step ``t`` (B,) with ``eps`` (same shape as ``x0``)."""
        a = self._at(t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * eps

    def x0_hat(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Give the clean sample that ``eps`` implies for ``x`` at step ``t``."""
        a = self._at(t, x)
        return (x - (1 - a).sqrt() * eps) / a.sqrt()

    def loss(
        self,
        x0: Tensor,
        generator: torch.Generator,
        t_range: tuple[int, int] | None = None,
        reduce: bool = True,
    ) -> Tensor:
        """Denoising score matching ``E ||eps - eps_theta(x_t, t)||^2`` per element; the gradient reaches ``x0``.

        ``x0`` (B, ...); ``t`` is drawn evenly from ``t_range`` (default: all steps), stratified over the batch so that
        the estimate varies less. Returns a scalar, or (B,) with ``reduce=False``. (ERDiff, the DSM term, w(t) = 1.)
        """
        lo, hi = t_range or (0, self.steps)
        b = x0.shape[0]
        strata = (torch.arange(b) + torch.rand(b, generator=generator)) / b
        t = (lo + strata * (hi - lo)).long().clamp(max=hi - 1)[torch.randperm(b, generator=generator)].to(x0.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        err = (self.net(self.q_sample(x0, t, eps), t) - eps).square().flatten(1).mean(1)
        return err.mean() if reduce else err

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], generator: torch.Generator, steps: int = 50, eta: float = 0.0) -> Tensor:
        """Draw samples of ``shape`` (B, ...) by DDIM (Song et al. 2021, Eq. 12) in ``steps`` strides."""
        x = torch.randn(shape, generator=generator).to(self.abar.device)
        ts = torch.linspace(self.steps - 1, 0, steps).round().long().tolist()
        for i, t in enumerate(ts):
            tb = torch.full((shape[0],), t, device=x.device)
            eps = self.net(x, tb)
            x0 = self.x0_hat(x, tb, eps)
            if i == len(ts) - 1:
                return x0
            a, a_next = self.abar[t], self.abar[ts[i + 1]]
            sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
            noise = torch.randn(shape, generator=generator).to(x.device) if eta > 0 else 0.0
            x = a_next.sqrt() * x0 + (1 - a_next - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise
        return x
