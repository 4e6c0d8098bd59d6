"""Train a factor VAE on whole trials, and read factors out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.config.interpretation import FactorConfig
from bci_align.diffusion import windows
from bci_align.errors import InterpretationError
from bci_align.interpretation.data import Array, FactorTrials, scale
from bci_align.interpretation.objective import loss
from bci_align.models.factor_vae import FactorVAE
from bci_align.signal import normaliser
from bci_align.threads import one_thread

Floats = NDArray[np.float64]


@one_thread()
def fit_factors(
    trials: FactorTrials,
    config: FactorConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    where: str = "training trials",
) -> tuple[FactorVAE, dict[str, float]]:
    """Train a :class:`FactorVAE` on ``trials``; gives it in eval mode with the last epoch's terms of the objective.

    Windows of the length that nearly every trial fills are cut at random places, anew every epoch. Behaviours are learnt in
    standard deviations about their mean over the training trials. The same trials, configuration and seed give the same network.
    :class:`InterpretationError` for a constant behaviour, trials too short for a window, and a loss that is not finite.
    """
    mean, sd = scale(trials, where)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    none = [0] * len(trials)
    window = min(windows.window_length(trials.lengths(), none), max(trials.lengths()))
    channels, labels = trials.counts[0].shape[1], len(trials.names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FactorVAE(channels, labels, config.free, config.hidden, config.head)
    model.normalise(*normaliser.fit(trials.counts))
    both, lengths = windows.pad([_joined(c, b, mean, sd) for c, b in zip(trials.counts, trials.behaviours, strict=True)])
    batches = math.ceil(sum(n >= window for n in lengths) / config.batch)
    optimiser = torch.optim.Adam(model.parameters(), config.learning_rate)
    epochs = math.ceil(config.updates / batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=epochs * batches)
    terms: dict[str, float] = {}
    for epoch in range(epochs):
        x = windows.cut(both, lengths, none, window, rng)
        warm = min(1.0, (epoch + 1) / max(config.warm_up * epochs, 1))
        for rows in torch.split(torch.randperm(len(x), generator=generator), config.batch):
            counts, u = torch.split(x[rows], [channels, labels], dim=-1)
            labelled = torch.isfinite(u)
            u = torch.where(labelled, u, 0.0)
            parts = loss(model, counts, u, labelled, config, warm, len(x) * window, generator)
            total = torch.stack(list(parts.values())).sum()
            if not torch.isfinite(total):
                raise InterpretationError(
                    f"{where}: the loss became {float(total.detach())} in epoch {epoch + 1}; lower learning_rate"
                )
            optimiser.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            terms = {name: float(value.detach()) for name, value in parts.items()}
        if progress:
            progress(epoch + 1, epochs)
    return model.eval(), terms


def _joined(counts: Array, behaviours: Array, mean: Floats, sd: Floats) -> Array:
    """Counts and standardised behaviours side by side (T, C + B), so that one window cuts both."""
    return np.concatenate([counts, ((behaviours - mean) / sd).astype(np.float32)], axis=1)


@torch.no_grad()
@one_thread()
def read_factors(model: FactorVAE, counts: Sequence[Array]) -> tuple[list[Floats], list[Floats]]:
    """Posterior means (T_i, D) of whole trials of counts (T_i, C), and what they reconstruct (T_i, C), normalised.

    Trials of one length are read together: padding would be read backwards into a shorter one.
    """
    factors: list[Floats] = [np.empty(0)] * len(counts)
    activity: list[Floats] = [np.empty(0)] * len(counts)
    lengths = np.array([len(c) for c in counts])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length).tolist()
        z, _ = model(model.normalised(torch.from_numpy(np.stack([counts[i] for i in rows]))))
        x = model.reconstruct(z)
        for i, a, b in zip(rows, z.double().numpy(), x.double().numpy(), strict=True):
            factors[i], activity[i] = a, b
    return factors, activity
