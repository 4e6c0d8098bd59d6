"""Trial-length windows of latents, cut from trials of different lengths: what the prior is trained on and aligned through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHORTEST, LONGEST = 8, 512
"""Bounds of a window, bins."""


def pad(trials: Sequence[NDArray[np.float32]]) -> tuple[Tensor, list[int]]:
    """Stack trials (T_i, C) as one (n, max T, C) tensor, zeros behind the end, and give their lengths."""
    lengths = [len(t) for t in trials]
    out = np.zeros((len(trials), max(lengths), trials[0].shape[1]), np.float32)
    for row, t in zip(out, trials, strict=True):
        row[: len(t)] = t
    return torch.from_numpy(out), lengths


def window_length(lengths: Sequence[int], run_in: Sequence[int]) -> int:
    """Choose a window (bins) that nearly every trial fills: the 5th percentile of trial lengths without their run-in.

    ``lengths`` and ``run_in`` have one entry per trial, bins; the length counts the run-in in.

    Between ``SHORTEST`` (a structure in time needs some) and ``LONGEST`` (attention over time costs its square).
    """
    return min(max(int(np.percentile([n - r for n, r in zip(lengths, run_in, strict=True)], 5)), SHORTEST), LONGEST)


def cut(latents: Tensor, lengths: Sequence[int], run_in: Sequence[int], window: int, rng: np.random.Generator) -> Tensor:
    """Cut one window (window, d) per trial from ``latents`` (n, T, d) at a random place inside the trial: (n, window, d).

    ``lengths`` and ``run_in`` have one entry per trial, bins; the length counts the run-in in.
    The run-in's bins are used only by trials shorter than the window. Trials shorter even with it are left out.
    """
    out = []
    for z, n, before in zip(latents, lengths, run_in, strict=True):
        if n >= window:
            first = min(before, n - window)
            start = int(rng.integers(first, n - window + 1))
            out.append(z[start : start + window])
    return torch.stack(out)
