"""What alignment may minimise beside the denoising term: distances to the source's latents, and today's spikes' likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bci_align.alignment.block import Block, encode
from bci_align.diffusion.process import Diffusion
from bci_align.models.encoder import SourceModel

MOST_WINDOWS = 64
"""Trials of which the objective takes a window each: it only has to tell a few read-ins apart."""


def gaussian_kl_to_source(latents: Tensor) -> Tensor:
    """KL(N(m, S) || N(0, I)) in nats, m and S the mean and covariance of ``latents`` (n, d); the source's are 0 and I (whitened).

    The denoising term alone pulls every trial into the densest part of the prior (see the ablation in the README's benchmark);
    this term is what a collapse costs.
    """
    mean = latents.mean(0)
    centred = latents - mean
    eye = torch.eye(latents.shape[1])
    cov = centred.T @ centred / len(latents) + 1e-4 * eye
    return 0.5 * (cov.trace() + mean @ mean - latents.shape[1] - torch.logdet(cov))


def sinkhorn(x: Tensor, y: Tensor, blur: float = 0.5, iterations: int = 50) -> Tensor:
    """Debiased Sinkhorn divergence between the clouds ``x`` (n, d) and ``y`` (m, d), in squared units of the latents.

    ``S = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`` for the cost |x - y|^2 with entropic weight ``2 blur^2`` (Feydy et al. 2019).
    ``blur`` is the standard deviation of the kernel: S tends to W2^2 as it shrinks and to the squared distance of the means as
    it grows; it is zero for equal clouds, and does not see the order of the points. ``iterations`` of the averaged log-domain
    updates: in the first half the entropic weight falls from the largest cost to its value, in the second it stays.
    Differentiable in ``x`` and ``y`` by the envelope theorem, exact at convergence: nothing is unrolled. Cost and memory
    O((n + m)^2).
    """
    if blur <= 0:
        raise ValueError(f"expected a blur above 0, found {blur}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"expected clouds of shapes (n, d) and (m, d), found {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.no_grad():
        start = max(float(_cost(x, y).max()), 2 * blur**2)
    forth, back = _potentials(x, y, blur, start, iterations)
    alone_x, _ = _potentials(x, x, blur, start, iterations)
    alone_y, _ = _potentials(y, y, blur, start, iterations)
    return (forth - alone_x).mean() + (back - alone_y).mean()


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (n, m); by the product, which takes no (n, m, d) array, and clamped against its cancellation."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def _softmin(cost: Tensor, potential: Tensor, weight: float) -> Tensor:
    """Entropic c-transform (n,) of ``potential`` (m,) on uniformly weighted points, for ``cost`` (n, m)."""
    log_m = torch.log(torch.tensor(float(cost.shape[1]), device=cost.device))
    return -weight * (torch.logsumexp((potential - cost) / weight, 1) - log_m)


def _potentials(x: Tensor, y: Tensor, blur: float, start: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Dual potentials (n,), (m,), frozen after the iterations, then transformed once more with a gradient to their own point."""
    final = 2 * blur**2
    with torch.no_grad():
        cost = _cost(x, y)
        f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
        fall = max(iterations // 2, 1)
        for i in range(iterations):
            weight = max(start * (final / start) ** (i / fall), final)
            # Both sides at once, averaged: equal clouds keep equal potentials, so that S is zero before convergence, too.
            f, g = (f + _softmin(cost, g, weight)) / 2, (g + _softmin(cost.T, f, weight)) / 2
    return _softmin(_cost(x, y.detach()), g, final), _softmin(_cost(y, x.detach()), f, final)


def reconstruction(
    head: nn.Linear,
    latents: Tensor,
    counts: Tensor,
    lengths: Sequence[int],
    run_in: int | Sequence[int] = 0,
    logvar: Tensor | None = None,
    whiten: Tensor | None = None,
) -> Tensor:
    """-E_q[log p(counts | z; psi)] of Poisson counts, nats per bin and channel, up to a constant of the counts (ERDiff's LVM).

    ``latents`` (B, T, d): posterior mean, whitened; ``counts`` (B, T, C) spikes per bin, padded behind ``lengths``; bins before
    ``run_in`` (one for all trials, or one per trial) and behind the length do not count. ``head`` maps latents to log rates per
    bin: the source's ``spikes``, which supposes that today's channels are the source's, or one of :func:`target_spike_head`.
    ``logvar`` (B, T, d) and ``whiten`` (d, d), the core's: with both, the expectation over q is taken in closed form,
    E exp(r) = exp(mean r + var r / 2); without, at the posterior mean. Any invertible linear map of the latents with a refitted
    head gives the same value: the term keeps what the latents know of the spikes, and says nothing of where they lie.
    """
    if (logvar is None) != (whiten is None):
        raise ValueError("the posterior's variance is given before whitening: pass logvar and whiten, or neither")
    log_rate = head(latents)
    exponent = log_rate
    if logvar is not None and whiten is not None:
        exponent = log_rate + 0.5 * logvar.exp() @ (whiten @ head.weight.T).square()
    bins = torch.arange(counts.shape[1], device=counts.device)
    firsts = torch.tensor([run_in] * len(counts) if isinstance(run_in, int) else list(run_in), device=counts.device)
    ends = torch.tensor(list(lengths), device=counts.device)
    used = (bins >= firsts[:, None]) & (bins < ends[:, None])
    if not used.any():
        raise ValueError(f"expected trials with bins behind their run-in, found none (longest trial: {max(lengths)} bins)")
    return (exponent.exp() - counts * log_rate)[used].mean()


SILENT = 0.5
"""Spikes in the whole block that a channel without any is taken to have fired: its log rate stays finite."""


@torch.no_grad()
def target_spike_head(latents: Tensor, counts: Tensor, ridge: float = 1e-3, iterations: int = 25) -> nn.Linear:
    """Fit log rates of today's ``counts`` (n, C), spikes per bin, to ``latents`` (n, d): a Poisson regression, without labels.

    Newton's method in float64, every channel at once, with halved steps where a full one does not descend; the penalised
    likelihood is convex, so start and order do not matter. ``ridge`` multiplies half the squared weights (not the bias), in nats
    per bin. A silent channel gets weights of zero. The head's parameters can be trained on.
    """
    n, d = latents.shape
    if len(counts) != n:
        raise ValueError(f"expected as many bins of counts as of latents ({n}), found {len(counts)}")
    z = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).double()
    y = counts.double()
    penalty = torch.full((d + 1,), ridge, dtype=torch.float64, device=z.device)
    penalty[-1] = 0
    total = y.sum(0)
    w = torch.zeros(y.shape[1], d + 1, dtype=torch.float64, device=z.device)
    w[:, -1] = (total.clamp(min=SILENT) / n).log()

    def loss(w: Tensor) -> Tensor:
        r = z @ w.T
        return (r.exp() - y * r).mean(0) + 0.5 * (penalty * w.square()).sum(1)

    value = loss(w)
    for _ in range(iterations):
        mu = (z @ w.T).exp()
        gradient = (mu - y).T @ z / n + penalty * w
        gradient[total == 0] = 0
        hessian = torch.einsum("nc,ni,nj->cij", mu, z, z) / n + torch.diag(penalty + 1e-9)
        step = torch.linalg.solve(hessian, gradient)
        # The decrement bounds what is left to gain, nats per bin.
        if float((step * gradient).sum(1).max()) < 1e-10:
            break
        scale = torch.ones_like(value)
        for _ in range(30):
            moved = w - scale[:, None] * step
            new = loss(moved)
            worse = ~(new <= value)
            if not worse.any():
                break
            scale = torch.where(worse, scale / 2, scale)
        better = new <= value
        w, value = torch.where(better[:, None], moved, w), torch.where(better, new, value)
    head = nn.Linear(d, y.shape[1], device=latents.device, dtype=latents.dtype)
    head.weight.copy_(w[:, :-1])
    head.bias.copy_(w[:, -1])
    return head


class Objective:
    """Prior's denoising loss + ``kl`` * Gaussian KL with always the same windows and noise: lower is better."""

    def __init__(self, model: SourceModel, prior: Diffusion, block: Block, window: int, kl: float) -> None:
        self.model, self.prior, self.block, self.window, self.kl = model, prior, block, window, kl

    @torch.no_grad()
    def parts(self) -> dict[str, float]:
        """Both terms by name."""
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        half = (0, max(self.prior.steps // 2, 1))
        chunks, burn = self.block.chunks(self.window, rng, self.block.fill(self.window)[:MOST_WINDOWS])
        loss = float(self.prior.loss(encode(self.model, chunks)[:, burn:], generator, half))
        inside = encode(self.model, self.block.x)[self.block.inside]
        return {"denoising": round(loss, 5), "kl": round(float(gaussian_kl_to_source(inside)), 5)}

    def __call__(self) -> float:
        parts = self.parts()
        return parts["denoising"] + self.kl * parts["kl"]
