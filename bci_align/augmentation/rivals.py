"""Rival generators of trials: a sequential VAE, and those without a model (rotation, combination, resampling, means)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.augmentation.navigate import sense, start_from, turned
from bci_align.augmentation.spikes import poisson, resampled
from bci_align.augmentation.trials import Array, Index, Scaler, TrialSet
from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError
from bci_align.models.sequential_vae import SequentialVae
from bci_align.threads import one_thread

Floats = NDArray[np.float64]
KL_WEIGHT = 1.0
"""Of the VAE's KL, after a warm-up over the first third of its training."""
UPDATES = 4
"""Optimisation steps of the VAE for each one of ours."""
HOLD = 0.02
"""Ridge of the regressions on targets, in units of the number of trials."""


@dataclass(frozen=True)
class VaeSpace:
    """A trained sequential VAE; its codes are the posterior means of the initial condition."""

    net: SequentialVae
    scaler: Scaler
    exact: ClassVar[bool] = False

    @torch.no_grad()
    def encode(self, trials: TrialSet) -> Array:
        codes: Array = self.net.posterior(torch.from_numpy(self.scaler.to(trials)))[0].numpy()
        return codes

    @torch.no_grad()
    def decode(self, codes: Array, seed: int = 0, shared: bool = False) -> tuple[Array, Array]:
        return self.scaler.back(self.net.generate(torch.from_numpy(np.asarray(codes, np.float32))).numpy())

    def edit(self, trials: TrialSet, rows: Index, codes: Array, seed: int = 0) -> tuple[Array, Array]:
        return self.decode(codes, seed)  # its generator runs from the code alone


def vae_of_size(parameters: int, bins: int, channels: int, code: int, sees: int) -> SequentialVae:
    """The sequential VAE whose number of parameters comes nearest to ``parameters``."""

    def build(hidden: int) -> SequentialVae:
        return SequentialVae(bins, channels, code, hidden, sees=sees)

    def off(hidden: int) -> int:
        return abs(sum(p.numel() for p in build(hidden).parameters()) - parameters)

    return build(min(range(16, 257, 8), key=off))


@one_thread()
def train_vae(
    trials: TrialSet, config: AugmentConfig, seed: int, parameters: int, progress: Callable[[int, int], None] | None = None
) -> VaeSpace:
    """Train a sequential VAE of about ``parameters`` on ``trials``, with ``config``'s batch.

    It gets :data:`UPDATES` times as many updates as ``config`` gives ours: it starts from nothing, ours from a linear map.
    """
    updates = UPDATES * config.updates
    scaler = Scaler.fit(trials)
    x = torch.from_numpy(scaler.to(trials))
    n, bins, channels = x.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = vae_of_size(parameters, bins, channels, config.code, channels if config.sees_kinematics else scaler.channels)
        optimiser = torch.optim.AdamW(net.parameters(), 4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=updates)
        size = min(config.batch, n)
        rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(updates * size / n))])
        for i in range(updates):
            warm = min(1.0, 3 * i / updates)
            loss = net.loss(x[rows[i * size : (i + 1) * size]], KL_WEIGHT * warm)
            if not torch.isfinite(loss):
                raise AugmentationError("sequential VAE: the loss became infinite or NaN")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if progress:
                progress(i + 1, updates)
    return VaeSpace(net.eval().requires_grad_(False), scaler)


def _flat(trials: TrialSet) -> Floats:
    """Square-root rates and kinematics, one row per trial."""
    x = np.concatenate([np.sqrt(trials.rates), trials.kinematics], 2)
    return x.reshape(len(x), -1).astype(np.float64)


def _trials(flat: Floats, like: TrialSet, target: Floats, rng: np.random.Generator) -> TrialSet:
    c = like.rates.shape[2]
    x = flat.reshape(len(flat), like.rates.shape[1], -1).astype(np.float32)
    rates = np.square(np.maximum(x[..., :c], 0))
    return TrialSet(poisson(rates, rng), rates, x[..., c:], target)


def _on_target(trials: TrialSet) -> tuple[Floats, Floats]:
    """Least squares of whole trials on targets: mean (F,) at the origin and change (D, F) per unit."""
    t = trials.target
    scale = max(float(np.abs(t).max()), 1e-12)
    design = np.c_[np.ones(len(t)), t / scale]
    penalty = HOLD * len(t) * np.diag([0.0, *np.ones(t.shape[1])])
    b = np.linalg.solve(design.T @ design + penalty, design.T @ _flat(trials))
    return b[0], b[1:] / scale


def rotated(trials: TrialSet, targets: Floats, count: int, rng: np.random.Generator) -> TrialSet:
    """Real trials turned to ``targets`` (m, 2), ``count`` each: kinematics by the angle, rates along their tuning.

    Activity is moved along its linear regression on the target; what is the trial's own stays.
    """
    rows, to = start_from(trials, targets, count, rng)
    some = trials.of(rows)
    _, slope = _on_target(trials)
    flat = _flat(some) + (to - some.target) @ slope
    made = _trials(flat, trials, to, rng)
    return TrialSet(made.counts, made.rates, turned(trials, rows, to, sense(trials) or 1.0), to)


def combined(trials: TrialSet, targets: Floats, count: int, rng: np.random.Generator) -> TrialSet:
    """Real trials interpolated, or continued: for each target the affine combination of condition means with least weights.

    A real trial's departure from its own condition's mean is added.
    """
    known, which = trials.conditions()
    flat = _flat(trials)
    means = np.stack([flat[which == k].mean(0) for k in range(len(known))])
    constraint = np.c_[known / max(np.abs(known).max(), 1e-12), np.ones(len(known))]
    rows, to = start_from(trials, targets, count, rng)
    asked = np.c_[to / max(np.abs(known).max(), 1e-12), np.ones(len(to))]
    weights = asked @ np.linalg.pinv(constraint)
    return _trials(weights @ means + flat[rows] - means[which[rows]], trials, to, rng)


def condition_means(trials: TrialSet, targets: Floats, count: int, rng: np.random.Generator) -> TrialSet:
    """The mean trial of each target, or what a regression says of one without trials, with fresh Poisson spikes."""
    known, which = trials.conditions()
    flat = _flat(trials)
    mean, slope = _on_target(trials)
    rows = []
    for t in targets:
        own = np.flatnonzero((np.abs(known - t) < 1e-6).all(1))
        rows.append(flat[which == own[0]].mean(0) if len(own) else mean + t @ slope)
    to = np.repeat(targets, count, 0)
    return _trials(np.repeat(np.array(rows), count, 0), trials, to, rng)


def poisson_again(trials: TrialSet, targets: Floats, count: int, rng: np.random.Generator) -> TrialSet:
    """Real trials of whatever targets they have with fresh Poisson spikes, as many as asked for: it cannot make a new target."""
    return resampled(trials, count * len(targets), rng)


PLAIN: dict[str, Callable[[TrialSet, Floats, int, np.random.Generator], TrialSet]] = {
    "Poisson resampling": poisson_again,
    "rotated real trials": rotated,
    "interpolated real trials": combined,
    "condition mean + Poisson": condition_means,
}
"""Rivals that need no model: ``(trials, targets (m, D), count per target, rng) -> trials``."""
