"""The source model: counts -> read-in -> causal recurrent core -> Gaussian latents -> spikes and kinematics.

A sequential latent variable model q(Z | X), p(X | Z) (ERDiff, problem formulation) whose inference network is causal, so that
the very same weights decode live. A day's part is the *read-in* (normaliser and linear map); everything after it is the *core*.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.models.read_in import Array, ReadIn


class Core(nn.Module):
    """The frozen part: GRU and linear latent head, whitened by ``whiten`` (d, d) and ``centre`` (d,).

    ``forward`` takes read-in activity (B, T, H) and a state (B, H) and gives the posterior mean of the whitened latents
    (B, T, d), the log-variance before whitening (B, T, d) and the last state.
    """

    whiten: Tensor
    centre: Tensor

    def __init__(self, hidden: int, latents: int) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.mean = nn.Linear(hidden, latents)
        self.logvar = nn.Linear(hidden, latents)
        self.register_buffer("whiten", torch.eye(latents))
        self.register_buffer("centre", torch.zeros(latents))

    def forward(self, activity: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        h, last = self.gru(activity, None if state is None else state[None])
        return self.whitened(self.mean(h)), self.logvar(h).clamp(-8, 4), last[0]

    def whitened(self, latents: Tensor) -> Tensor:
        """Whiten raw latents (..., d)."""
        return (latents - self.centre) @ self.whiten


class SourceModel(nn.Module):
    """Read-in, core, Poisson spike decoder and kinematics head, trained together on the source day.

    ``normalise(mean, gain)`` sets the read-in's normaliser; ``forward(counts (B, T, C))`` gives the whitened posterior mean.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, channels: int, hidden: int, latents: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("gain", torch.ones(channels))
        self.readin = nn.Linear(channels, hidden)
        self.core = Core(hidden, latents)
        self.spikes = nn.Linear(latents, channels)
        self.kinematics = nn.Linear(latents, outputs)

    def normalise(self, mean: Array, gain: Array) -> None:
        """Set the per-channel normaliser (C,), (C,)."""
        self.mean.copy_(torch.from_numpy(mean))
        self.gain.copy_(torch.from_numpy(gain))

    def activity(self, counts: Tensor) -> Tensor:
        """Read-in activity (B, T, H) of counts (B, T, C)."""
        return self.readin((counts - self.mean) * self.gain)

    def forward(self, counts: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.core(self.activity(counts), state)

    def log_rate(self, latents: Tensor) -> Tensor:
        """Log of expected spikes per bin (B, T, C) for latents (B, T, d)."""
        return self.spikes(latents)

    def whiten(self, latents: Tensor) -> None:
        """Fold a whitening of ``latents`` (n, d) into the core and its inverse into the decoders; outputs do not change.

        Directions with less than 1e-4 of the largest variance are scaled as if they had that much: a dead direction must not
        be blown up into noise.
        """
        centre = latents.mean(0)
        cov = (latents - centre).T @ (latents - centre) / len(latents)
        value, vector = torch.linalg.eigh(cov.double())
        value = value.clamp(min=1e-4 * float(value.max()))
        w = (vector * value.rsqrt()) @ vector.T
        inverse = ((vector * value.sqrt()) @ vector.T).float()
        self.core.whiten.copy_(w.float())
        self.core.centre.copy_(centre)
        for head in (self.spikes, self.kinematics):
            head.bias.data += head.weight.data @ centre
            head.weight.data = head.weight.data @ inverse

    def read_in(self) -> ReadIn:
        """Copy the day's part out as plain arrays."""
        return ReadIn(
            self.mean.detach().numpy().copy(),
            self.gain.detach().numpy().copy(),
            self.readin.weight.detach().numpy().T.copy(),
            self.readin.bias.detach().numpy().copy(),
        )

    def set_read_in(self, r: ReadIn) -> None:
        """Put a day's part in, of however many channels; the spike decoder keeps the source day's."""
        self.mean, self.gain = torch.from_numpy(r.mean.copy()), torch.from_numpy(r.gain.copy())
        self.readin.weight.data = torch.from_numpy(np.ascontiguousarray(r.weight.T))
        self.readin.bias.data = torch.from_numpy(r.bias.copy())
        self.readin.in_features = len(r.weight)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) per element, nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def poisson_nll(log_rate: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of counts up to a constant, per element, nats."""
    return F.poisson_nll_loss(log_rate, counts, log_input=True, full=False, reduction="none")
