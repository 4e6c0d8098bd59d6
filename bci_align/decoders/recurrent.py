"""Recurrent decoder: a small GRU on latents with a linear readout beside a direct linear path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bci_align.decoders.protocol import Arrays, Floats

WINDOW = 60
"""Bins per training window; the first ``BURN`` only settle the state."""
BURN = 10


class _Net(nn.Module):
    def __init__(self, latents: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(latents, hidden, batch_first=True)
        self.out = nn.Linear(hidden + latents, outputs)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(torch.cat([self.gru(z)[0], z], dim=-1))
        return y


class Recurrent:
    """GRU (torch's gate order r, z, n) of ``hidden`` units; every array as torch names it, stepped in NumPy."""

    kind = "recurrent"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_out", "bias_out")

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = {name: arrays[name].astype(np.float64) for name in self.names}
        self.hidden = self._arrays["weight_hh"].shape[1]

    @classmethod
    def fit(
        cls,
        latents: Floats,
        kinematics: Floats,
        rows: NDArray[np.intp],
        seed: int = 0,
        hidden: int = 32,
        steps: int = 360,
        breaks: Sequence[int] = (),
    ) -> Recurrent:
        """Fit by least squares on ``rows`` (bin indices) of ``latents`` (T, d), ``kinematics`` (T, K).

        ``breaks`` are bins before which lies a gap. Windows lie inside one stretch; one that begins with its stretch begins in
        the true state and needs no burn-in.
        """
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
        p = {name: t.detach().numpy().copy() for name, t in net.named_parameters()}
        keys = ("gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0", "out.weight", "out.bias")
        return cls({name: p[key] for name, key in zip(cls.names, keys, strict=True)})

    @classmethod
    def load(cls, arrays: Arrays) -> Recurrent:
        """Rebuild from :meth:`arrays`."""
        return cls(arrays)

    def state0(self) -> Floats:
        """Give the hidden state before the first bin (hidden,)."""
        return np.zeros(self.hidden)

    def step(self, state: Floats, latents: Floats) -> tuple[Floats, Floats]:
        """Take one GRU step and read out."""
        a = self._arrays
        i = a["weight_ih"] @ latents + a["bias_ih"]
        h = a["weight_hh"] @ state + a["bias_hh"]
        n = self.hidden
        gates = 1.0 / (1.0 + np.exp(-(i[: 2 * n] + h[: 2 * n])))
        reset, update = gates[:n], gates[n:]
        new = np.tanh(i[2 * n :] + reset * h[2 * n :])
        state = (1.0 - update) * new + update * state
        return state, a["weight_out"] @ np.concatenate([state, latents]) + a["bias_out"]

    def arrays(self) -> Arrays:
        """Give the six weight arrays."""
        return {name: a.astype(np.float32) for name, a in self._arrays.items()}
