"""What steers a sample besides the denoiser itself: a condition with its classifier-free weight, and a guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Guide:
    """A likelihood that pulls a sample while it is drawn (Dhariwal & Nichol 2021; through the net: Chung et al. 2023, DPS).

    ``log_p(x0_hat (B, ...), t (B,)) -> (B,)``, nats, of the clean sample that the net predicts at step ``t``; each entry may
    depend on its own sample alone. Its gradient with respect to x_t, taken *through* the net, times ``scale`` is added to the
    score. ``window`` (first, last), shares of the schedule from 0 (clean) to 1 (noise), both included: outside it the guide is
    silent.
    """

    log_p: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)

    def active(self, t: int, steps: int) -> bool:
        """Whether the guide speaks at step ``t`` of a schedule of ``steps``."""
        return self.window[0] <= t / max(steps - 1, 1) <= self.window[1]


@dataclass(frozen=True)
class Condition:
    """What the net is told: ``value`` (B, ...); ``null`` (B, ...) or (...) stands for "nothing told".

    With a ``weight`` w other than 1 the noise is ``eps(null) + w (eps(value) - eps(null))`` (Ho & Salimans 2022): 0 is
    unconditional, above 1 leans on the condition harder than the data did. That needs a net trained with ``null`` too.
    """

    value: Tensor
    null: Tensor | None = None
    weight: float = 1.0


def predict(net: nn.Module, x: Tensor, t: Tensor, cond: Tensor | Condition | None) -> Tensor:
    """Noise that ``net`` sees in ``x`` (B, ...) at step ``t`` (B,) under ``cond``; same shape as ``x``."""
    if cond is None:
        return net(x, t)
    if isinstance(cond, Tensor):
        return net(x, t, cond)
    if cond.weight == 1.0:
        return net(x, t, cond.value)
    if cond.null is None:
        raise ValueError(f"classifier-free weight {cond.weight}: expected a null condition beside it, found none")
    null = cond.null.expand_as(cond.value)
    nothing = net(x, t, null)
    return nothing + cond.weight * (net(x, t, cond.value) - nothing)


def guided(
    net: Callable[[Tensor], Tensor], clean: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, guide: Guide, sigma: Tensor
) -> Tensor:
    """Noise (B, ...) whose score has the guide's gradient added: ``eps - sigma * scale * grad_x log_p``.

    ``net(x)`` gives eps, ``clean(x, eps)`` the clean sample; ``sigma`` = sqrt(1 - abar_t), since the score is -eps / sigma.
    Works inside ``torch.no_grad`` and gives a tensor without a graph.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        eps = net(x)
        (gradient,) = torch.autograd.grad(guide.log_p(clean(x, eps), t).sum(), x)
    return eps.detach() - sigma * guide.scale * gradient
