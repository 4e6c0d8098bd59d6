"""A sequential variational autoencoder in the manner of LFADS (Pandarinath et al. 2018): the rival of code-conditioned diffusion.

A bidirectional GRU reads the trial, its last states give the posterior of an initial condition, which is the trial's code; a GRU
runs from there without any input to factors, and factors give the trial by one linear map (here of z-scored activity, with a
Gaussian likelihood, so that both models are given and judged on the same numbers).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bci_align.models.encoder import gaussian_kl


class SequentialVae(nn.Module):
    """``forward(x (B, T, C)) -> (reconstruction (B, T, C), mean (B, L), logvar (B, L))``; ``generate`` decodes codes.

    ``sees`` as in :class:`~bci_align.models.code_denoiser.CodeEncoder`.
    """

    def __init__(self, bins: int, channels: int, code: int, hidden: int = 64, factors: int = 20, sees: int | None = None) -> None:
        super().__init__()
        self.bins, self.sees = bins, channels if sees is None else sees
        self.reader = nn.GRU(self.sees, hidden, batch_first=True, bidirectional=True)
        self.mean = nn.Linear(2 * hidden, code)
        self.logvar = nn.Linear(2 * hidden, code)
        self.begin = nn.Linear(code, hidden)
        self.generator = nn.GRU(1, hidden, batch_first=True)
        self.factors = nn.Linear(hidden, factors, bias=False)
        self.out = nn.Linear(factors, channels)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, L) of the initial condition."""
        _, last = self.reader(x[..., : self.sees])
        both = torch.cat([last[0], last[1]], 1)
        return self.mean(both), self.logvar(both).clamp(-8, 4)

    def generate(self, code: Tensor) -> Tensor:
        """Trial (B, T, C) that runs from ``code`` (B, L); nothing else goes in."""
        nothing = code.new_zeros(len(code), self.bins, 1)
        h, _ = self.generator(nothing, torch.tanh(self.begin(code))[None].contiguous())
        return self.out(self.factors(h))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.posterior(x)
        return self.generate(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)), mean, logvar

    def loss(self, x: Tensor, kl_weight: float) -> Tensor:
        """Squared error per number plus ``kl_weight`` times the KL to N(0, I), per number of the trial."""
        y, mean, logvar = self(x)
        return (y - x).square().mean() + kl_weight * gaussian_kl(mean, logvar).sum(1).mean() / x[0].numel()
