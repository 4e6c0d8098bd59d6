"""Maximum mean discrepancy of codes to a standard normal: what makes the codes' space one that can be walked in."""

from __future__ import annotations

import torch
from torch import Tensor

BANDS = (0.5, 1.0, 2.0, 4.0)
"""Squared bandwidths of the kernels, in units of the number of dimensions (one wide kernel sees only the mean)."""


def mmd(codes: Tensor, normal: Tensor) -> Tensor:
    """Squared MMD (Gretton et al. 2012, unbiased) of ``codes`` (n, L) to ``normal`` (m, L), a sum of Gaussian kernels; a scalar.

    Kernels ``exp(-|a - b|^2 / (2 s L))``, s in :data:`BANDS`. Unbiased: around zero, and below it too, for equal distributions.
    """
    n, m, dims = len(codes), len(normal), codes.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return sum((torch.exp(-distance / (2 * s * dims)) for s in BANDS), torch.zeros(()))

    within = kernel(codes, codes)
    among = kernel(normal, normal)
    own = (within.sum() - within.diagonal().sum()) / (n * (n - 1))
    theirs = (among.sum() - among.diagonal().sum()) / (m * (m - 1))
    return own + theirs - 2 * kernel(codes, normal).mean()
