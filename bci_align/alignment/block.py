"""A block of unlabelled trials as the gradient sees it: normalised, padded, and cut into windows of the prior's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bci_align.diffusion.windows import pad
from bci_align.models.encoder import ReadIn, SourceModel
from bci_align.session.types import UnlabelledTrials

BURN = 10
"""Bins before a window in which the core settles from its zero state. The source model is trained to forget how it began in as
many, so that a step need not run through whole trials."""


@dataclass(frozen=True)
class Block:
    """Trials (n, T, C), normalised and padded, and which of their bins count.

    ``inside`` (n, T) is true in a trial's own bins, false in its run-in and behind its end; ``lengths`` and ``run_in`` (n,).
    """

    x: Tensor
    inside: Tensor
    lengths: tuple[int, ...]
    run_in: tuple[int, ...]

    @classmethod
    def of(cls, trials: UnlabelledTrials, read_in: ReadIn) -> Block:
        """Normalise ``trials`` by ``read_in``'s mean and gain."""
        x, lengths = pad(trials.counts)
        x = (x - torch.from_numpy(read_in.mean)) * torch.from_numpy(read_in.gain)
        bins = torch.arange(x.shape[1])
        inside = (bins >= torch.tensor(trials.run_in)[:, None]) & (bins < torch.tensor(lengths)[:, None])
        return cls(x, inside, tuple(lengths), tuple(trials.run_in))

    def __len__(self) -> int:
        return len(self.lengths)

    def burn(self, window: int) -> int:
        """Bins that every trial whose body fills ``window`` has before its body, at most :data:`BURN`."""
        return min((min(r, BURN) for n, r in zip(self.lengths, self.run_in, strict=True) if n - r >= window), default=0)

    def fill(self, window: int) -> list[int]:
        """Trials that are long enough for a window and the bins before it."""
        least = window + self.burn(window)
        return [i for i, n in enumerate(self.lengths) if n >= least]

    def chunks(self, window: int, rng: np.random.Generator, rows: Sequence[int] | None = None) -> tuple[Tensor, int]:
        """Cut one stretch of ``burn + window`` bins per trial at a random place: (m, burn + window, C), and ``burn``.

        Trials (of ``rows``, by default all) that are too short are left out.
        """
        burn = self.burn(window)
        chosen, starts = [], []
        for i in range(len(self)) if rows is None else rows:
            last = self.lengths[i] - window - burn
            if last >= 0:
                first = min(max(self.run_in[i] - burn, 0), last)
                chosen.append(i)
                starts.append(int(rng.integers(first, last + 1)))
        bins = torch.tensor(starts)[:, None] + torch.arange(burn + window)
        return self.x[torch.tensor(chosen)[:, None], bins], burn


def encode(model: SourceModel, x: Tensor) -> Tensor:
    """Whitened latents (n, T, d) of *normalised* counts (n, T, C), each trial from the zero state."""
    z: Tensor = model.core(model.readin(x))[0]
    return z
