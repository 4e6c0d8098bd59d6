"""The one diffusion core: noising, denoising loss, DDIM sampling and inversion, projection.

Used by alignment, augmentation and interpretation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.diffusion.guide import Condition, Guide, guided, predict
from bci_align.diffusion.schedule import Kind, abar

Weight = Literal["uniform", "likelihood"]
"""w(t) of the denoising loss: 1, or the one that makes it a bound of the likelihood."""


def log_snr(abar: Tensor) -> Tensor:
    """Give the log signal-to-noise ratio log(abar / (1 - abar)) of ``abar`` (T,) in float64, same shape."""
    a = abar.double()
    return a.log() - torch.log1p(-a)


def likelihood_weight(abar: Tensor) -> Tensor:
    """Give the likelihood weighting (T,) of the squared error of eps, beta(t) / sigma_t^2 with sigma_t^2 = 1 - abar_t, mean 1.

    Song et al. 2021, "Maximum likelihood training of score-based diffusion models", weigh the score's error by
    g(t)^2 = beta(t), and the score is -eps / sigma_t. Because ``beta / sigma^2 dt = -d log_snr``, a step's weight is its share
    of the fall of :func:`log_snr` from the first step to the last (trapezoid rule): the mean over t is the integral over time
    up to a constant, and no infinite weight stands at the clean end.
    """
    fall = -log_snr(abar).diff()
    w = F.pad(fall, (0, 1)) + F.pad(fall, (1, 0))
    return (w / w.mean()).to(abar.dtype)


class Denoiser(Protocol):
    """A network that predicts the noise in ``x`` (B, ...) at step ``t`` (B,) int64; same shape out.

    A conditional one takes a condition (B, ...) as its third argument, and is called with three whenever there is one.
    """

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor = ..., /) -> Tensor: ...


@dataclass(frozen=True)
class Noised:
    """One batch on its way through the loss: ``x0`` and ``x_t``, ``eps`` and the net's ``eps_hat`` (B, ...), ``t`` (B,).

    ``cond`` is what the net was told, None for an unconditional one.
    """

    x0: Tensor
    x_t: Tensor
    t: Tensor
    eps: Tensor
    eps_hat: Tensor
    cond: Tensor | None


class Diffusion(nn.Module):
    """A denoiser with its schedule.

    Parameters
    ----------
    net : Denoiser
        Predicts eps from (x_t, t), or from (x_t, t, cond).
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
        weight: Weight | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """Denoising score matching ``E w(t) ||eps - eps_theta(x_t, t)||^2`` per element; the gradient reaches ``x0``.

        ``x0`` (B, ...); ``t`` is drawn evenly from ``t_range`` (default: all steps), stratified over the batch so that
        the estimate varies less. ``cond`` (B, ...) is handed to the net. Returns a scalar, or (B,) with ``reduce=False``.

        ``weight`` is w(t), the *square* of the w in ERDiff's DSM term: ``uniform`` (also None) is 1; ``likelihood`` is
        beta(t) / sigma_t^2 (:func:`likelihood_weight`), divided by its mean over ``t_range``, so
        that both have the same scale. Likelihood weighting leans on the clean end, and on the last step, where a cosine
        schedule destroys what is left at once.
        """
        if weight not in (None, "uniform", "likelihood"):
            raise ValueError(f"unknown weight {weight!r}; known are 'uniform' and 'likelihood'")
        lo, hi = t_range or (0, self.steps)
        seen = self.noised(x0, generator, cond, (lo, hi))
        err = (seen.eps_hat - seen.eps).square().flatten(1).mean(1)
        if weight == "likelihood":
            w = likelihood_weight(self.abar)
            err = err * w[seen.t] / w[lo:hi].mean()
        return err.mean() if reduce else err

    def noised(
        self, x0: Tensor, generator: torch.Generator, cond: Tensor | None = None, t_range: tuple[int, int] | None = None
    ) -> Noised:
        """Draw steps and noise for ``x0`` (B, ...) as :meth:`loss` does, and let the net predict the noise."""
        lo, hi = t_range or (0, self.steps)
        b = x0.shape[0]
        strata = (torch.arange(b) + torch.rand(b, generator=generator)) / b
        t = (lo + strata * (hi - lo)).long().clamp(max=hi - 1)[torch.randperm(b, generator=generator)].to(x0.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        x_t = self.q_sample(x0, t, eps)
        return Noised(x0, x_t, t, eps, predict(self.net, x_t, t, cond), cond)

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        steps: int = 50,
        eta: float = 0.0,
        *,
        x_T: Tensor | None = None,
        cond: Tensor | Condition | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Draw samples of ``shape`` (B, ...) by DDIM (Song et al. 2021, Eq. 12) in ``steps`` strides.

        ``x_T`` (broadcast to ``shape``) is the noise to begin with, else ``generator``'s; one noise shared by a batch shows what
        ``cond`` alone changes. ``guide`` pulls every stride in its window (:class:`~bci_align.diffusion.guide.Guide`).
        """
        x = torch.randn(shape, generator=generator).to(self.abar.device) if x_T is None else x_T.expand(shape).clone()
        return self._ddim(x, self._strides(steps), generator, eta, cond, guide)

    def _strides(self, steps: int) -> list[int]:
        return torch.linspace(self.steps - 1, 0, steps).round().long().tolist()

    @torch.no_grad()
    def invert(self, x0: Tensor, steps: int = 50, cond: Tensor | Condition | None = None, iterations: int = 8) -> Tensor:
        """Give the noise x_T (B, ...) from which :meth:`sample` (eta 0, the same ``steps`` and ``cond``) draws ``x0`` (B, ...).

        Each stride of DDIM is solved backwards: x_next with ``ddim(x_next, t_next -> t) = x``, where noise, both alphas and
        the step that the net is told belong to t_next, as they do in sampling. The usual inversion evaluates the net at (x, t)
        instead and is off by one stride; that is only the first guess here, and ``iterations`` of a fixed point follow (Pan et
        al. 2023, AIDI). A net whose Jacobian is large against a stride needs more strides.
        """
        x, a, t = x0, x0.new_ones(()), 0
        for t_next in reversed(self._strides(steps)):
            a_next = self.abar[t_next]
            told = torch.full((len(x),), t_next, device=x.device)
            eps = predict(self.net, x, torch.full_like(told, t), cond)
            for i in range(iterations + 1):
                found = a_next.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_next).sqrt() * eps
                if i < iterations:
                    eps = predict(self.net, found, told, cond)
            x, a, t = found, a_next, t_next
        return x

    def step_at(self, level: float) -> int:
        """Give the step nearest ``level``, a time in (0, 1] at which step t lies at (t + 1) / steps."""
        if not 0 < level <= 1:
            raise ValueError(f"expected a noise level above 0 and at most 1, found {level}")
        return max(round(level * self.steps) - 1, 0)

    @torch.no_grad()
    def project(self, x0: Tensor, level: float, generator: torch.Generator, steps: int = 8, draws: int = 4) -> Tensor:
        """Pull ``x0`` (B, ...) towards the data: noise it to ``level``, denoise it by DDIM in ``steps`` strides; same shape.

        ``level`` in (0, 1] is the share of the schedule (0.25: the first quarter of the steps): the higher, the more of
        ``x0`` is forgotten and the more of the prior's mean comes back. The mean over ``draws`` noises (run as one batch of
        ``draws * B``) approaches the projection's expectation. Denoising from an intermediate time is SDEdit (Meng et al.
        2022); here it makes labels out of trajectories that lie near, not on, the prior.
        """
        t = self.step_at(level)
        x = x0.repeat(draws, *([1] * (x0.ndim - 1)))
        eps = torch.randn(x.shape, generator=generator).to(x.device)
        x = self.q_sample(x, torch.full((len(x),), t, device=x.device), eps)
        ts = torch.linspace(t, 0, min(steps, t + 1)).round().long().tolist()
        return self._ddim(x, ts, generator).reshape(draws, *x0.shape).mean(0)

    def _ddim(
        self,
        x: Tensor,
        ts: list[int],
        generator: torch.Generator,
        eta: float = 0.0,
        cond: Tensor | Condition | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Denoise ``x`` (B, ...) from step ``ts[0]`` over the falling steps ``ts``; the last stride ends on the clean sample."""
        for t, t_next in pairwise(ts):
            tb = torch.full((len(x),), t, device=x.device)
            eps = self._eps(x, tb, t, cond, guide)
            x0 = self.x0_hat(x, tb, eps)
            a, a_next = self.abar[t], self.abar[t_next]
            sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
            noise = torch.randn(x.shape, generator=generator).to(x.device) if eta > 0 else 0.0
            x = a_next.sqrt() * x0 + (1 - a_next - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise
        tb = torch.full((len(x),), ts[-1], device=x.device)
        return self.x0_hat(x, tb, self._eps(x, tb, ts[-1], cond, guide))

    def _eps(self, x: Tensor, tb: Tensor, t: int, cond: Tensor | Condition | None, guide: Guide | None) -> Tensor:
        """Noise in ``x`` at step ``t``, with the guide's pull where it has one."""
        if guide is None or not guide.active(t, self.steps):
            return predict(self.net, x, tb, cond)
        return guided(
            lambda y: predict(self.net, y, tb, cond),
            lambda y, eps: self.x0_hat(y, tb, eps),
            x, tb, guide, (1 - self.abar[t]).sqrt(),
        )  # fmt: skip
