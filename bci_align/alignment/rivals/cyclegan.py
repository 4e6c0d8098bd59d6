"""Cycle-GAN on single bins (Ma et al. 2023, from the paper's description): two maps between the days, each other's inverse.

Three things differ from the paper. The generators add to their input what they have learned, and start with nothing, so that
the first map is re-normalisation and not noise: without it, the latents of a simulated day ended far from the source day's. The
bins are not smoothed, since the paper's filter looks ahead and a decoder cannot. The weights of the losses are not known to us.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bci_align.alignment.rivals.protocol import checked, normalised, to_source_counts
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError
from bci_align.models.read_in import Array, ReadIn
from bci_align.session.types import UnlabelledTrials

STEPS = 2000
BATCH = 256
"""Bins of each day in a step."""
GENERATOR_RATE, DISCRIMINATOR_RATE = 1e-3, 1e-3
CYCLE, IDENTITY = 1.0, 0.5
"""Weights of the two L1 losses beside the adversarial one, in the proportion of Zhu et al. (2017). Their 10 and 5 hold generators
that start as the identity fast in its kink: nothing moves in 2000 steps on bins that are plainly mixed."""


@dataclass(frozen=True)
class GeneratedCounts:
    """Counts (T, C) -> source-like counts (T, C): today's normaliser, the generator bin by bin, back through the source's.

    ``source`` and ``start`` are the source day's and the re-normalised read-in; ``layers`` pairs of weight (in, out) and bias.
    """

    source: ReadIn
    start: ReadIn
    layers: tuple[tuple[Array, Array], ...]

    def __call__(self, counts: Array) -> Array:
        x = ((counts - self.start.mean) * self.start.gain).astype(np.float32)
        h = x
        for weight, bias in self.layers[:-1]:
            h = np.maximum(h @ weight + bias, 0)
        weight, bias = self.layers[-1]
        return to_source_counts(self.source, x + (h @ weight + bias).astype(np.float32))


@checked
def cycle_gan(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> GeneratedCounts:
    """Train on the two days' bins, drawn independently, and keep the generator from today to the source day."""
    n = normalised(bundle, source, trials)
    target, reference = (torch.from_numpy(x.astype(np.float32)) for x in (n.target, n.source))
    to_source, _ = train(target, reference, seed)
    layers = tuple((m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in to_source.linear())
    return GeneratedCounts(bundle.read_in, n.start, layers)


class Generator(nn.Module):
    """Normalised counts (n, C) of one day -> the other's, three layers of C units added to their input; at first the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last)

    def linear(self) -> list[nn.Linear]:
        """Give the three layers."""
        return [m for m in self.net if isinstance(m, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def train(
    target: Tensor, source: Tensor, seed: int, cycle: float = CYCLE, identity: float = IDENTITY
) -> tuple[Generator, Generator]:
    """Train on normalised bins (n, C) and (m, C) with least-squares adversaries: maps target -> source and source -> target."""
    c = target.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        forth, back = Generator(c), Generator(c)
        critics = [nn.Sequential(nn.Linear(c, c), nn.LeakyReLU(0.2), nn.Linear(c, 1)) for _ in range(2)]
        makers = torch.optim.Adam([*forth.parameters(), *back.parameters()], GENERATOR_RATE, betas=(0.5, 0.999))
        judges = torch.optim.Adam([p for d in critics for p in d.parameters()], DISCRIMINATOR_RATE, betas=(0.5, 0.999))
        for step in range(STEPS):
            x, y = (day[torch.randint(len(day), (BATCH,))] for day in (target, source))
            to_y, to_x = forth(x), back(y)
            fakes = ((critics[0], y, to_y), (critics[1], x, to_x))
            loss = sum(((d(made) - 1).square().mean() for d, _, made in fakes), torch.zeros(()))
            loss = loss + cycle * ((back(to_y) - x).abs().mean() + (forth(to_x) - y).abs().mean())
            loss = loss + identity * ((forth(y) - y).abs().mean() + (back(x) - x).abs().mean())
            if not torch.isfinite(loss):
                raise AlignmentError(f"the Cycle-GAN's loss became {float(loss.detach())} in step {step + 1}; it offers nothing")
            makers.zero_grad()
            loss.backward()
            makers.step()
            judged = [(d(real) - 1).square().mean() + d(made.detach()).square().mean() for d, real, made in fakes]
            judges.zero_grad()
            torch.stack(judged).sum().backward()  # type: ignore[no-untyped-call]
            judges.step()
    return forth.eval(), back.eval()
