"""Training of the source model on windows from the stretches of the source day."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bci_align.config import TrainConfig
from bci_align.errors import TrainingError
from bci_align.models.encoder import SourceModel, gaussian_kl, poisson_nll

BURN = 10
"""First bins of every window, there to settle the state: they carry no loss."""
BETWEEN = 0.3
"""Weight of bins between trials. The decoder runs there too; without them it learns to live from trial to trial only."""


@dataclass(frozen=True)
class TrainingData:
    """The source day as the trainer sees it.

    ``counts`` (T, C) float32, ``kinematics`` (T, K) float32 in source standard deviations, ``weight`` (T,): 1 in training
    trials, ``BETWEEN`` outside trials, 0 in validation trials (which are never fitted, neither kinematics nor spikes);
    ``stretches``: first bin and one past the last of every stretch without a gap, together all T bins.
    """

    counts: NDArray[np.float32]
    kinematics: NDArray[np.float32]
    weight: NDArray[np.float32]
    stretches: Sequence[tuple[int, int]]


def augment(activity: Tensor, config: TrainConfig) -> Tensor:
    """Make normalised counts (B, T, C) survive another day: gain, offset, dropout and turnover per channel and window.

    This is what lets a frozen core decode after re-normalisation; the sizes are those of a few weeks' drift. Turnover: a channel
    carries another channel's counts, as an electrode does that has lost its unit to a neighbour.
    """
    b, _, c = activity.shape
    if config.augment_turnover:
        lost = torch.rand(b, 1, c) < config.augment_turnover * torch.rand(b, 1, 1)
        other = torch.rand(b, c).argsort(1)[:, None].expand_as(activity)
        activity = torch.where(lost, activity.gather(2, other), activity)
    activity = activity * torch.exp(config.augment_gain * torch.randn(b, 1, c)) + config.augment_offset * torch.randn(b, 1, c)
    return activity * (torch.rand(b, 1, c) > config.augment_dropout * torch.rand(b, 1, 1))


def fit(
    model: SourceModel, data: TrainingData, config: TrainConfig, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Train ``model`` in place; give the last epoch's losses (nats per channel and bin, squared standard deviations).

    Loss per bin: squared error of the kinematics + ``spike_weight`` * Poisson negative log-likelihood per channel +
    ``kl_weight`` * KL(q(z|x) || N(0, I)) with a warm-up. Windows start anywhere in a stretch and the state starts at zero there,
    so the core learns to forget how it began: that is what keeps it right on an endless stream. A stretch shorter than
    ``config.window`` is one window.
    """
    rng = np.random.default_rng(seed)
    x, y, w = (torch.from_numpy(a) for a in (data.counts, data.kinematics, data.weight))
    stretches = [(a, b) for a, b in data.stretches if data.weight[a:b].any()]
    window = min(config.window, max(b - a for a, b in stretches))
    batches = math.ceil(sum(max((b - a) // window, 1) for a, b in stretches) / config.batch)
    begins, ends = [a for a, _ in data.stretches], np.empty(len(x), np.intp)
    for a, b in data.stretches:
        ends[a:b] = b
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.epochs * batches)
    losses = {"kinematics": math.nan, "spikes": math.nan, "kl": math.nan}
    model.train()
    for epoch in range(config.epochs):
        starts = np.concatenate([_starts(a, b, window, rng) for a, b in stretches])
        rng.shuffle(starts)
        warm = min(1.0, epoch / max(0.3 * config.epochs, 1))
        for batch in np.array_split(starts, batches):
            if not len(batch):
                continue
            index = batch[:, None] + np.arange(window)
            bins = torch.from_numpy(np.minimum(index, ends[batch][:, None] - 1))
            weight = w[bins]
            # With its stretch a window begins in the true state. A continuous day has one such bin: not worth a special case.
            settled = np.isin(batch, begins) & (len(begins) > 1)
            weight[:, :BURN][torch.from_numpy(~settled)] = 0
            weight[torch.from_numpy(index >= ends[batch][:, None])] = 0
            h, _ = model.core.gru(model.readin(augment((x[bins] - model.mean) * model.gain, config)))
            h = torch.nn.functional.dropout(h, config.dropout)
            mean, logvar = model.core.mean(h), model.core.logvar(h).clamp(-8, 4)
            z = model.core.whitened(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
            per_bin = {
                "kinematics": (model.kinematics(z) - y[bins]).square().sum(-1),
                "spikes": poisson_nll(model.log_rate(z), x[bins]).mean(-1),
                "kl": gaussian_kl(mean, logvar).sum(-1),
            }
            total = weight.sum().clamp(min=1)
            parts = {name: (value * weight).sum() / total for name, value in per_bin.items()}
            loss = parts["kinematics"] + config.spike_weight * parts["spikes"] + config.kl_weight * warm * parts["kl"]
            if not torch.isfinite(loss):
                raise TrainingError(f"source model: the loss became {float(loss)} in epoch {epoch + 1}; lower learning_rate")
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses = {name: float(value.detach()) for name, value in parts.items()}
        if progress:
            progress(epoch + 1, config.epochs)
    model.eval()
    return losses


def _starts(first: int, stop: int, window: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Starts of windows end to end from a random place of one stretch on; its first bin where it holds no more than one."""
    if stop - first <= window:
        return np.array([first], np.intp)
    places = stop - first - window + 1
    return np.arange(first + int(rng.integers(min(window, places))), first + places, window)


@torch.no_grad()
def latents(model: SourceModel, counts: NDArray[np.float32], stretches: Sequence[tuple[int, int]]) -> Tensor:
    """Whitened posterior mean (T, d) of ``counts`` (T, C), the state at zero where a stretch begins."""
    return torch.cat([model(torch.from_numpy(counts[a:b])[None])[0][0] for a, b in stretches])


@torch.no_grad()
def latents_of_another_day(
    model: SourceModel, counts: NDArray[np.float32], stretches: Sequence[tuple[int, int]], config: TrainConfig
) -> Tensor:
    """Latents (T, d) of the same day through an array that drifted: one draw of :func:`augment` for all of it.

    Draws from torch's global generator.
    """
    drifted = augment(((torch.from_numpy(counts) - model.mean) * model.gain)[None], config)
    return torch.cat([model.core(model.readin(drifted[:, a:b]))[0][0] for a, b in stretches])


@torch.no_grad()
def active_dimensions(
    model: SourceModel,
    counts: NDArray[np.float32],
    stretches: Sequence[tuple[int, int]],
    rows: NDArray[np.intp],
    nats: float = 0.1,
) -> int:
    """Count latent dimensions that carry information: mean KL(q(z_j|x) || N(0, 1)) over ``rows`` above ``nats``.

    Taken before whitening, axis by axis; a collapsed posterior (Lucas et al. 2019) has KL 0.
    """
    h = torch.cat([model.core.gru(model.activity(torch.from_numpy(counts[a:b])[None]))[0][0] for a, b in stretches])
    kl = gaussian_kl(model.core.mean(h), model.core.logvar(h).clamp(-8, 4))[torch.from_numpy(rows)].mean(0)
    return int((kl > nats).sum())
