"""A block of unlabelled trials as the gradient sees it: normalised, padded, and cut into windows of the prior's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bci_align.diffusion.windows import pad
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
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

    def fill(self, window: int) -> list[int]:
        """Trials whose own bins fill ``window``."""
        return [i for i, (n, r) in enumerate(zip(self.lengths, self.run_in, strict=True)) if n - r >= window]

    def chunks(self, window: int, rng: np.random.Generator, rows: Sequence[int]) -> tuple[Tensor, int]:
        """Cut one stretch of ``burn + window`` bins out of each of ``rows`` (of :meth:`fill`) at a random place.

        Gives (m, burn + window, C) and ``burn``, the bins that every trial of :meth:`fill` has before its own, at most
        :data:`BURN`.
        """
        burn = min(min(self.run_in[i], BURN) for i in self.fill(window))
        starts = [int(rng.integers(self.run_in[i] - burn, self.lengths[i] - window - burn + 1)) for i in rows]
        bins = torch.tensor(starts)[:, None] + torch.arange(burn + window)
        return self.x[torch.tensor(rows)[:, None], bins], burn


def encode(model: SourceModel, x: Tensor) -> Tensor:
    """Whitened latents (n, T, d) of *normalised* counts (n, T, C), each trial from the zero state."""
    z: Tensor = model.core(model.readin(x))[0]
    return z
