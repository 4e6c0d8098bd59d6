"""Training of :class:`bci_align.decoders.recurrent.Recurrent` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bci_align.decoders.protocol import Arrays, Floats
from bci_align.threads import one_thread

WINDOW = 60
"""Bins per training window; the first ``BURN`` only settle the state."""
BURN = 10
_NAMES = {
    "weight_ih": "gru.weight_ih_l0",
    "weight_hh": "gru.weight_hh_l0",
    "bias_ih": "gru.bias_ih_l0",
    "bias_hh": "gru.bias_hh_l0",
    "weight_out": "out.weight",
    "bias_out": "out.bias",
}


class _Net(nn.Module):
    def __init__(self, latents: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(latents, hidden, batch_first=True)
        self.out = nn.Linear(hidden + latents, outputs)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(torch.cat([self.gru(z)[0], z], dim=-1))
        return y


@one_thread()
def fit(
    latents: Floats, kinematics: Floats, rows: NDArray[np.intp], seed: int, hidden: int, steps: int, breaks: Sequence[int]
) -> Arrays:
    """Fit as :meth:`bci_align.decoders.recurrent.Recurrent.fit` says; the six weight arrays."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Net(latents.shape[1], hidden, kinematics.shape[1])
    z, y = torch.from_numpy(latents).float(), torch.from_numpy(kinematics).float()
    weight = torch.zeros(len(z))
    weight[torch.from_numpy(rows)] = 1.0
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    stretches = list(pairwise((0, *breaks, len(z))))
    length = min(WINDOW, max(b - a for a, b in stretches))
    # A stretch shorter than a window is one window, drawn so often that its bins are seen as often as anybody's.
    places = [np.arange(a, b - length + 1) if b - a >= length else np.full(length, a) for a, b in stretches]
    starts = np.concatenate(places)
    ends = np.concatenate([np.full(len(p), b) for p, (_, b) in zip(places, stretches, strict=True)])
    settled = np.isin(starts, [a for a, _ in stretches]) if breaks else np.zeros(len(starts), bool)
    for _ in range(steps):
        drawn = rng.integers(0, len(starts), (32, 1))
        index = starts[drawn] + np.arange(length)
        bins = torch.from_numpy(np.minimum(index, ends[drawn] - 1))
        w = weight[bins]
        w[:, :BURN][torch.from_numpy(~settled[drawn[:, 0]])] = 0
        w[torch.from_numpy(index >= ends[drawn])] = 0
        loss = ((net(z[bins]) - y[bins]).square().sum(-1) * w).sum() / w.sum().clamp(min=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    p = dict(net.named_parameters())
    return {name: p[key].detach().numpy().copy() for name, key in _NAMES.items()}
