"""The factor VAE's objective: reconstruction, behaviours where they are labelled, KL, total correlation (BeNeDiff, Eq. 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bci_align.config.interpretation import FactorConfig
from bci_align.models.encoder import gaussian_kl
from bci_align.models.factor_vae import FactorVAE

FRAMES = 512
"""Frames of a batch among which minibatch-weighted sampling compares: its cost is their square."""


def gaussian_total_correlation(mean: Tensor, logvar: Tensor) -> Tensor:
    """Total correlation, nats, of the Gaussian with the moments of the aggregate posterior of frames (n, D), (n, D).

    ``1/2 (sum_d log S_dd - log det S)`` with S the covariance of the means plus the mean of the variances: exact for Gaussians,
    a lower bound of what else the factors may share, and without the bias of sampling.
    """
    centred = mean - mean.mean(0)
    s = centred.T @ centred / len(mean) + torch.diag(logvar.exp().mean(0))
    return 0.5 * (s.diagonal().log().sum() - torch.linalg.slogdet(s)[1])


def minibatch_total_correlation(z: Tensor, mean: Tensor, logvar: Tensor, size: int) -> Tensor:
    """Total correlation, nats, by minibatch-weighted sampling (Chen et al. 2018, "Isolating sources of disentanglement", Eq. 6).

    ``z``, ``mean``, ``logvar`` (m, D): draws and posteriors of m frames out of ``size``. ``log q(z) ~ log 1/(m size) sum_j
    q(z | x_j)`` and likewise for every factor alone. Biased (Chen et al. say so): it is a penalty, not a measurement.
    """
    difference = z[:, None] - mean
    each = -0.5 * (difference.square() * (-logvar).exp() + logvar + math.log(2 * math.pi))  # (m, m, D)
    norm = math.log(len(z) * size)
    joint = each.sum(-1).logsumexp(1) - norm
    alone = (each.logsumexp(1) - norm).sum(-1)
    return (joint - alone).mean()


def loss(
    model: FactorVAE,
    counts: Tensor,
    behaviours: Tensor,
    labelled: Tensor,
    config: FactorConfig,
    warm: float,
    size: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Weighted terms of the objective on windows; their sum is what is minimised.

    ``counts`` (B, T, C); ``behaviours`` (B, T, B') in standard deviations, with any finite value where ``labelled`` (B, T, B')
    is False: there they carry no loss. ``warm`` is the share of the KL's weight, ``size`` the frames of the whole set. The
    means are over channels, labels and frames; the KL's is over channels, so that it stays in proportion to the reconstruction.
    """
    x = model.normalised(counts)
    mean, logvar = model(_some_of(x, config.dropout, generator))
    z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
    terms = {
        "reconstruction": (model.reconstruct(z) - x).square().mean(),
        "kl": config.kl_weight * warm * gaussian_kl(mean, logvar).sum(-1).mean() / x.shape[-1],
    }
    if config.head != "none":
        error = torch.where(labelled, model.labels(z) - behaviours, 0.0).square().sum()
        terms["behaviours"] = config.label_weight * error / labelled.sum().clamp(min=1)
    if config.correlation_weight:
        flat = [a.flatten(0, 1) for a in (z, mean, logvar)]
        if config.correlation == "minibatch":
            rows = torch.randperm(len(flat[0]), generator=generator)[:FRAMES]
            total = minibatch_total_correlation(flat[0][rows], flat[1][rows], flat[2][rows], size)
        else:
            total = gaussian_total_correlation(flat[1], flat[2])
        terms["correlation"] = config.correlation_weight * total / x.shape[-1]
    return terms


def _some_of(x: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """``x`` without a share of its values, the others larger by as much: a factor must not hang on a few channels' noise."""
    if not dropout:
        return x
    kept = torch.rand(x.shape, generator=generator) >= dropout
    return x * kept / (1 - dropout)
