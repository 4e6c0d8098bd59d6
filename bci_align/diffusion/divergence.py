"""The divergence term of ERDiff's bound, by its closed form and by the Hutchinson-Skilling probe, and the bound itself.

The forward process is the variance-preserving SDE ``dx = f(x, t) dt + g(t) dw`` with the linear drift ``f = -beta(t) x / 2`` and
``g^2 = beta(t)`` (Song et al. 2021, "Score-based generative modeling through SDEs", Eq. 11). **The divergence of this drift,
-beta(t) n / 2, is the same at every Z**: its gradient is zero, so the divergence term of the slides cannot steer an alignment.
It is a constant that makes the bound a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bci_align.diffusion.process import Diffusion, likelihood_weight, log_snr

Probe = Literal["rademacher", "gaussian"]


def rate(abar: Tensor) -> Tensor:
    """Give the rate beta (T,) of the SDE, per step, from the signal shares ``abar`` (T,).

    It is held constant within a step, so that SDE and chain agree at every step: ``abar_t = exp(-(beta_0 + ... + beta_t))``.
    """
    fall = -abar.double().log()
    return fall.diff(prepend=fall.new_zeros(1)).to(abar.dtype)


def _shaped(beta: Tensor, x: Tensor) -> Tensor:
    return beta.reshape(-1, *([1] * (x.ndim - 1)))


def drift(x: Tensor, beta: Tensor) -> Tensor:
    """Drift -beta x / 2 of the forward SDE at ``x`` (B, ...), per step; ``beta`` (B,) or a scalar, per step."""
    return -0.5 * _shaped(beta, x) * x


def drift_divergence(x: Tensor, beta: Tensor) -> Tensor:
    """Exact divergence (B,) of :func:`drift`: -beta n / 2, n the elements of one sample. It does not depend on ``x``'s values."""
    return -0.5 * beta * x[0].numel() * torch.ones(len(x), dtype=x.dtype, device=x.device)


def hutchinson(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    generator: torch.Generator,
    probe: Probe = "rademacher",
    draws: int = 1,
) -> Tensor:
    """Estimate the divergence (B,) of ``function`` at ``x`` (B, ...) by E[v^T J v] (Skilling 1989, Hutchinson 1990); unbiased.

    ``function`` maps (B, ...) to the same shape and treats the samples of a batch independently. One product v^T J per draw by
    reverse-mode autograd; for a matrix J the variance of a draw is ``2 |S|^2`` with Gaussian and ``2 |S|^2 - 2 sum S_ii^2`` with
    Rademacher probes, S the symmetric part of J: never more, and zero for a diagonal J. Differentiable in ``x`` wherever
    ``function`` is twice (PyTorch's fused CPU attention is not: use ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``).
    """
    if probe not in ("rademacher", "gaussian"):
        raise ValueError(f"unknown probe {probe!r}; known are 'rademacher' and 'gaussian'")
    result = torch.func.vjp(function, x)
    y, pull = result[0], result[1]
    if y.shape != x.shape:
        raise ValueError(f"a divergence needs a function that keeps the shape {tuple(x.shape)}, found {tuple(y.shape)}")
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for _ in range(draws):
        if probe == "gaussian":
            v = torch.randn(x.shape, generator=generator)
        else:
            v = 2.0 * torch.randint(2, x.shape, generator=generator) - 1.0
        v = v.to(x)
        total = total + (pull(v)[0] * v).flatten(1).sum(1)
    return total / draws


def elbo_bound(diffusion: Diffusion, x0: Tensor, generator: torch.Generator, draws: int = 16) -> Tensor:
    """Upper bound (B,) of -log p(x0; theta) in nats, estimated by Monte Carlo; the gradient reaches ``x0`` (B, ...).

    ERDiff's bound with its constants (Song et al. 2021, "Maximum likelihood training of score-based diffusion models",
    Theorem 3)::

        -E[log pi(x_T)] + 1/2 int E[ beta |s_theta - s|^2 - beta |s|^2 - 2 div f ] dt,  s = -eps / sigma_t

    where s is the score of x_t given x0. The slides write the bracket with w(t)^2 = beta / sigma_t^2, without the factor 1/2, and
    without ``beta |s|^2``, which is constant in x0 as div f is. Here:

    - prior term, pi = N(0, I), ``beta E|s|^2`` and div f: closed forms;
    - the denoising term: ``draws`` steps per sample, drawn in proportion to the likelihood weighting and stratified, each with a
      noise and its opposite, and with abar_t^2 (|eps|^2 - n) as control variate: all that varies for a standard normal;
    - the integral begins at step 0 of the schedule, because it diverges at t = 0; the way from there to x0 is one Gaussian
      denoising step (their Appendix on the starting time).

    It is tight, at every x0, where the denoiser is exact and x_T is pi; time is replaced by the steps (trapezoid
    rule: off by about 0.003 nats per element with 100 steps, either way).
    """
    b, n = len(x0), x0[0].numel()
    snr = log_snr(diffusion.abar)
    first, last = diffusion.abar[0].double(), diffusion.abar[-1].double()
    prior = 0.5 * (n * math.log(2 * math.pi) + last * x0.flatten(1).square().sum(1) + n * (1 - last))
    # int beta |s|^2 dt = n int beta / sigma^2 dt = n (fall of the log SNR); int 2 div f dt = -n int beta dt = n log(last / first)
    constant = 0.5 * n * (-(snr[0] - snr[-1]) - (last / first).log())

    cumulative = likelihood_weight(diffusion.abar).double().cumsum(0)
    strata = (torch.arange(draws) + torch.rand(b, draws, generator=generator)) / draws
    t = torch.searchsorted(cumulative, strata.to(cumulative) * cumulative[-1], right=True).clamp(max=diffusion.steps - 1)
    # One more evaluation per sample, at step 0, serves the last Gaussian step.
    t = torch.cat([t, t.new_zeros(b, 1)], 1)
    eps = torch.randn((b * (draws + 1), *x0.shape[1:]), generator=generator).to(x0)
    eps, at, x = torch.cat([eps, -eps]), t.flatten().repeat(2), x0.repeat_interleave(draws + 1, 0)
    x = diffusion.q_sample(torch.cat([x, x]), at, eps)
    error = (diffusion.net(x, at) - eps).square() - diffusion.abar[at].square().reshape(-1, *([1] * (x.ndim - 1))) * (eps**2 - 1)
    error = error.flatten(1).sum(1).reshape(2, b, draws + 1).mean(0)
    denoising = 0.5 * (snr[0] - snr[-1]) * error[:, :draws].mean(1)
    step = 0.5 * (error[:, draws] - n) - 0.5 * n * first.log()
    return (prior + constant + denoising + step).to(x0.dtype)
