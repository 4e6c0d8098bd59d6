"""Self-labelling by the prior: what today's decoder makes of today's trials, projected onto how the source day moved, and learnt.

Decoded movement is rescaled to the source day's spread, noised part of the way and denoised under a diffusion prior of the source
day's *kinematics* (partial noising and denoising: Meng et al. 2022, SDEdit); the encoder is fitted to what comes back, and
decodes anew. The prior moves labels towards movements that were made, the many trials average what it leaves wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.refine import moved
from bci_align.config import AlignConfig
from bci_align.diffusion.process import Diffusion
from bci_align.models.encoder import SourceModel

PASSES = 5
"""Over the trials, per round."""
STRIDES, DRAWS = 4, 2
"""Of a projection."""


def self_label(
    model: SourceModel,
    movement: Diffusion,
    block: Block,
    window: int,
    source_movement: Tensor,
    config: AlignConfig,
    seed: int,
    progress: Callable[[], None] | None = None,
) -> None:
    """Run ``config.label_rounds`` rounds on ``block``, in place; ``progress()`` after each.

    ``source_movement`` (m, K): what the source decoder makes of the source day's trials, in source SDs; its mean and spread are
    those that labels are brought to.
    """
    if not config.label_rounds:
        return
    parameters = moved(model, config.moves)
    optimiser = torch.optim.Adam(parameters, config.learning_rate)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    mean, sd = source_movement.mean(0), source_movement.std(0)
    for _ in range(config.label_rounds):
        with torch.no_grad():
            decoded = model.kinematics(encode(model, block.x))
            inside = decoded[block.inside]
            decoded = (decoded - inside.mean(0)) / inside.std(0).clamp(min=1e-6) * sd + mean
            labels, labelled = project(movement, decoded, block, window, config.label_noise, generator)
        for _ in range(PASSES):
            for rows in torch.from_numpy(rng.permutation(len(block))).split(config.batch):  # type: ignore[no-untyped-call]
                chosen = labelled[rows]
                loss = (model.kinematics(encode(model, block.x[rows])) - labels[rows])[chosen].square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        if progress:
            progress()
    for p in parameters:
        p.requires_grad_(False)


def project(
    movement: Diffusion, decoded: Tensor, block: Block, window: int, level: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Project ``decoded`` (n, T, K) window by window, half overlapping, averaged where they overlap.

    Gives labels (n, T, K), and where there are any (n, T).
    """
    rows, starts = [], []
    for i, (n, before) in enumerate(zip(block.lengths, block.run_in, strict=True)):
        if n >= window:
            last = n - window
            begin = [*range(min(before, last), last, max(window // 2, 1)), last]
            rows += [i] * len(begin)
            starts += begin
    index = torch.tensor(rows)[:, None].expand(-1, window), torch.tensor(starts)[:, None] + torch.arange(window)
    total, times = torch.zeros_like(decoded), torch.zeros(decoded.shape[:2])
    batches = decoded[index].split(128)  # type: ignore[no-untyped-call]
    projected = [movement.project(w, level, generator, STRIDES, DRAWS) for w in batches]
    total.index_put_(index, torch.cat(projected), accumulate=True)
    times.index_put_(index, torch.ones(index[1].shape), accumulate=True)
    return total / times.clamp(min=1)[..., None], (times > 0) & block.inside
