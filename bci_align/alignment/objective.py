"""What alignment minimises: the denoising term under the frozen prior, and a Gaussian KL that keeps the latents' spread."""

from __future__ import annotations

import torch
from torch import Tensor


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
