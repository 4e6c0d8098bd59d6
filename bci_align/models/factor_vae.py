"""The factor VAE: counts -> Gaussian factors, some of which each carry one behaviour -> counts (BeNeDiff, Section 3.1).

Offline only: its GRUs read a trial in both directions (Schuster and Paliwal 1997), so nothing here can run in a decoder.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bci_align.models.layers import Head

START = -5.0
"""Log-variance that factors begin with. From a wide start the decoder learns to do without the free factors, which say little
until they are learnt, and they stay unused (posterior collapse)."""


class FactorVAE(nn.Module):
    """q(Z | X) and p(X, U | Z) of whole trials.

    The paper writes q(Z | X, U). Here the labels reach the factors through the label head alone: an encoder that is given a
    behaviour need not find it in the activity, and what is reported of held-out trials would be their own labels.

    Parameters
    ----------
    channels, behaviours
        C and B.
    free
        Factors beside those of the behaviours; D = B + free, the labelled ones first.
    hidden
        Units of each direction of both GRUs.
    head
        ``diagonal``: factor d tells behaviour d alone, ``u_d = w_d z_d + b_d``. ``full``: every behaviour is told by all
        factors. ``none``: labels are not used.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, channels: int, behaviours: int, free: int = 2, hidden: int = 48, head: Head = "diagonal") -> None:
        super().__init__()
        if head not in get_args(Head):
            raise ValueError(f"unknown head {head!r}; known are {', '.join(map(repr, get_args(Head)))}")
        self.behaviours, self.factors, self.head = behaviours, behaviours + free, head
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("gain", torch.ones(channels))
        self.encoder = nn.GRU(channels, hidden, batch_first=True, bidirectional=True)
        self.posterior = nn.Linear(2 * hidden, 2 * self.factors)
        nn.init.constant_(self.posterior.bias[self.factors :], START)
        self.decoder = nn.GRU(self.factors, hidden, batch_first=True, bidirectional=True)
        self.activity = nn.Linear(2 * hidden, channels)
        self.weight = nn.Parameter(torch.ones(behaviours))
        self.bias = nn.Parameter(torch.zeros(behaviours))
        self.mixing = nn.Linear(self.factors, behaviours) if head == "full" else None

    def normalise(self, mean: NDArray[np.float32], gain: NDArray[np.float32]) -> None:
        """Set the per-channel normaliser (C,), (C,)."""
        self.mean.copy_(torch.from_numpy(mean))
        self.gain.copy_(torch.from_numpy(gain))

    def normalised(self, counts: Tensor) -> Tensor:
        """Normalise counts (B, T, C)."""
        return (counts - self.mean) * self.gain

    def forward(self, activity: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance (B, T, D) of *normalised* counts (B, T, C)."""
        h, _ = self.encoder(activity)
        mean, logvar = self.posterior(h).chunk(2, dim=-1)
        return mean, logvar.clamp(-8, 4)

    def reconstruct(self, factors: Tensor) -> Tensor:
        """Normalised counts (B, T, C) that ``factors`` (B, T, D) explain."""
        h, _ = self.decoder(factors)
        return self.activity(h)

    def labels(self, factors: Tensor) -> Tensor:
        """Behaviours (B, T, B'), in their standard deviations, that ``factors`` (B, T, D) tell."""
        if self.mixing is not None:
            return self.mixing(factors)
        return self.weight * factors[..., : self.behaviours] + self.bias
