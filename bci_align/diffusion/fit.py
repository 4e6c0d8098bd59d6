"""One training loop for every diffusion model of the project."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bci_align.diffusion.process import Diffusion


def fit(
    diffusion: Diffusion,
    draw: Callable[[], Tensor],
    epochs: int,
    generator: torch.Generator,
    learning_rate: float = 3e-3,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train ``diffusion`` in place and give the mean loss of every epoch.

    ``draw()`` gives one epoch's samples (n, ...) and is called anew each epoch, so it may cut fresh windows. AdamW, one-cycle
    learning rate, gradient norm at most 1. ``progress(done, total)`` is called after every epoch.
    """
    optimiser = torch.optim.AdamW(diffusion.parameters(), learning_rate)
    schedule = None
    history = []
    for epoch in range(epochs):
        x = draw()
        if schedule is None:
            total = epochs * math.ceil(len(x) / batch)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=total)
        losses = []
        for rows in torch.split(torch.randperm(len(x), generator=generator), batch):
            loss = diffusion.loss(x[rows], generator)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        history.append(sum(losses) / len(losses))
        if progress:
            progress(epoch + 1, epochs)
    return history
