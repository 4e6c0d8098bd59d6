"""Label-free alignment of the read-in: per-channel re-normalisation, then refinement under the frozen diffusion prior.

``loss = E ||eps - eps_theta(a_t Z + s_t eps, t)||^2 + kl * KL(target latents || source latents)`` (ERDiff, maximum-likelihood
alignment, with the Gaussian KL as the term against collapse). The core and the prior stay frozen; only the read-in moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.diffusion.process import Diffusion
from bci_align.diffusion.windows import cut, pad
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.score import difference
from bci_align.models.encoder import ReadIn, SourceModel
from bci_align.session.types import UnlabelledTrials
from bci_align.signal import normaliser
from bci_align.threads import one_thread

HELD_OUT = 0.2
"""Share of the calibration trials that only the stop rule sees."""


@dataclass(frozen=True)
class Candidate:
    """A read-in offered for today, and the record of how it was made."""

    read_in: ReadIn
    record: dict[str, Any]


def renormalise(read_in: ReadIn, trials: UnlabelledTrials) -> ReadIn:
    """Per-channel re-normalisation: the source's linear map behind a normaliser fitted on today's trials.

    A channel that was silent on the source day stays silent: its weights have never seen a spike.
    """
    mean, gain = normaliser.fit(trials.bodies())
    gain = np.where(read_in.gain > 0, gain, np.float32(0))
    return ReadIn(mean, gain, read_in.weight, read_in.bias)


def check(bundle: Bundle, trials: UnlabelledTrials, least: int) -> None:
    """Refuse trials that cannot be aligned on: another rig's channels or bin width, or too few of them."""
    m = bundle.manifest
    if trials.channels != m.channels:
        raise MismatchError(f"calibration trials: {difference(m.channels, trials.channels)}")
    if abs(trials.bin_s - m.bin_s) > 1e-9:
        raise MismatchError(f"calibration trials: expected bins of {m.bin_s:g} s as in the bundle, found {trials.bin_s:g} s")
    if len(trials) < least:
        raise AlignmentError(f"expected at least {least} calibration trials, found {len(trials)}")


@one_thread()
def align(
    bundle: Bundle,
    trials: UnlabelledTrials,
    config: AlignConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Candidate:
    """Align ``bundle``'s read-in to ``trials`` without labels.

    Every ``config.check_every`` steps the objective is taken on held-out calibration trials with always the same noise; the
    read-in with the lowest value is kept and the search ends after ``config.patience`` checks without a better one.
    ``progress(step, steps)`` is called after every step. The same input and seed give the same read-in on one machine.
    """
    check(bundle, trials, config.min_trials)
    window = bundle.manifest.prior.window
    long = [t for t in trials.counts if len(t) >= window]
    if len(long) < config.min_trials:
        raise AlignmentError(
            f"expected at least {config.min_trials} calibration trials of {window} bins or more, found {len(long)}"
        )
    start = renormalise(bundle.read_in, trials)
    source, prior = bundle.models()
    source.requires_grad_(False)
    prior.requires_grad_(False)
    source.set_read_in(start)
    moved = [source.readin.weight.requires_grad_(True), source.readin.bias.requires_grad_(True)]

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(long))
    held = max(round(HELD_OUT * len(long)), 1)
    fit_on, stop_on = [long[i] for i in order[held:]], [long[i] for i in order[:held]]
    objective = _Objective(source, prior, trials.run_in, window, config.kl)
    padded, lengths = pad(fit_on)
    padded_stop, lengths_stop = pad(stop_on)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(moved, config.learning_rate)
    best, best_step, curve = _copy(moved), 0, []
    for step in range(config.steps + 1):
        if step % config.check_every == 0 or step == config.steps:
            with torch.no_grad():
                value = objective.held_out(padded_stop, lengths_stop, seed)
            curve.append([step, round(value, 5)])
            if len(curve) == 1 or value < min(v for _, v in curve[:-1]):
                best, best_step = _copy(moved), step
            elif step - best_step >= config.patience * config.check_every:
                break
        if step == config.steps:
            break
        rows = rng.choice(len(fit_on), min(config.batch, len(fit_on)), replace=False)
        loss = objective(padded[rows], [lengths[i] for i in rows], rng, generator)
        if not torch.isfinite(loss):
            raise AlignmentError(f"the alignment loss became {float(loss)} in step {step + 1}; no candidate is offered")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if progress:
            progress(step + 1, config.steps)
    if progress:
        progress(config.steps, config.steps)
    with torch.no_grad():
        for p, b in zip(moved, best, strict=True):
            p.copy_(b)
    record = {
        "method": "re-normalisation, then denoising term + Gaussian KL on the read-in",
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "trials": len(trials),
        "trials_refined_on": len(fit_on),
        "trials_of_stop_rule": len(stop_on),
        "steps": best_step,
        "objective": curve,
    }
    return Candidate(source.read_in(), record)


class _Objective:
    """The loss on a batch of padded trials (n, T, C)."""

    def __init__(self, source: SourceModel, prior: Diffusion, run_in: int, window: int, kl: float) -> None:
        self.source, self.prior, self.run_in, self.window, self.kl = source, prior, run_in, window, kl

    def __call__(self, padded: Tensor, lengths: list[int], rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        latents, _, _ = self.source(padded)
        bins = torch.cat([z[self.run_in : n] for z, n in zip(latents, lengths, strict=True)])
        cuts = cut(latents, lengths, self.run_in, self.window, rng)
        return self.prior.loss(cuts, generator) + self.kl * gaussian_kl_to_source(bins)

    def held_out(self, padded: Tensor, lengths: list[int], seed: int, draws: int = 4) -> float:
        """Give the mean over ``draws`` of windows and noise that are the same at every call."""
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        return float(np.mean([float(self(padded, lengths, rng, generator)) for _ in range(draws)]))


def _copy(parameters: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]
