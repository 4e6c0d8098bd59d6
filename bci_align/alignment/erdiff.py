"""Label-free alignment to a new day: registration, tuning transfer, refinement under the frozen diffusion prior, self-labelling.

Every stage sees the bundle and unlabelled trials only. What each is worth is an ablation row of
``python -m benchmarks.alignment``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.objective import Objective
from bci_align.alignment.refine import refine
from bci_align.alignment.register import register
from bci_align.alignment.registration import Registration
from bci_align.alignment.selflabel import self_label
from bci_align.alignment.start import check_size
from bci_align.alignment.tuning import Source, changes, transferred
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread

SHARES = (1.0, 0.5, 0.25, 0.0)
"""Of a transfer's way that may be gone."""
MINORITY = 0.5
"""Share of changed channels below which the others vouch for the latents that the changes are measured by."""
TOLERANCE = 0.1
"""By which the objective may grow over a transfer that is taken at its word, in units of what it was."""
ROUNDS = 2
"""Measurements of today's tuning: the second through the latents that the first transfer gave."""


@dataclass(frozen=True)
class Candidate:
    """What is offered for today.

    ``read_in`` for ``channels``; ``matched`` (C_t,) the source channel of each, -1 for none, None where they are the same;
    ``core`` is the encoder that was moved with it, None where only the read-in moved (the rule, and all that can be swapped in
    live); ``record`` is JSON-ready: how it was made.
    """

    read_in: ReadIn
    channels: tuple[str, ...]
    record: dict[str, Any]
    matched: NDArray[np.intp] | None = None
    core: SourceModel | None = None


@one_thread()
def align(
    bundle: Bundle,
    trials: UnlabelledTrials,
    config: AlignConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Candidate:
    """Align ``bundle`` to ``trials`` without labels; ``progress(done, total)`` is called all along.

    With fewer than ``config.refine_from`` trials that fill the prior's window the candidate is registered and re-normalised, no
    more. The same input and seed give the same read-in on one machine. Raises :class:`MismatchError` for trials of another bin
    width, :class:`AlignmentError` for too few trials, for units whose correspondence cannot be told, and for a loss that ceases
    to be finite.
    """
    check_size(bundle, trials, config.min_trials)
    total = 1 + ROUNDS + config.steps + config.label_rounds
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    source = bundle.source_trials()
    model, prior = bundle.models()
    model_of_source = copy.deepcopy(model)
    model_of_source.set_read_in(bundle.source_read_in())
    reference = Block.of(source, bundle.source_read_in())
    window = bundle.manifest.prior.window
    registration = register(bundle, source, trials, config, seed)
    tick()

    model.set_read_in(registration.read_in)
    for module in (model, model_of_source, prior):
        module.requires_grad_(False)
    block = Block.of(trials, registration.read_in)
    objective = Objective(model, prior, block, window, config.kl)
    stages: list[dict[str, Any]] = [{"stage": registration.method} | (objective.parts() if block.fill(window) else {})]
    probability = None
    enough = len(block.fill(window)) >= config.refine_from
    if enough and config.transfer:
        source_day = Source.of(model_of_source, reference)
        for _ in range(ROUNDS):
            share, probability = _transfer(model, block, source_day, registration, objective)
            stages.append({"stage": "tuning transfer", "share": share} | objective.parts())
            tick()
    if enough:
        with torch.no_grad():
            of_source = encode(model_of_source, reference.x)[reference.inside]
    if enough and config.steps:
        refine(model, prior, block, window, config, seed, of_source, tick)
        stages.append({"stage": f"refinement, {config.steps} steps"} | objective.parts())
    if enough and config.label_rounds:
        with torch.no_grad():
            movement = model_of_source.kinematics(of_source)
        self_label(model, bundle.movement_prior(), block, window, movement, config, seed, tick)
        stages.append({"stage": f"self-labelling, {config.label_rounds} rounds"} | objective.parts())
    if progress:
        progress(total, total)

    record = {
        "method": "ERDiff",
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "trials": len(trials),
        "registration": registration.record | {"matched": _listed(registration.matched)},
        "stages": stages,
        "changed_channels": _changed(trials.channels, probability),
    }
    matched = registration.matched
    if matched is None:
        matched = np.full(len(trials.channels), -1)
    elif trials.channels == source.channels:
        matched = None
    core = None if config.moves == "read-in" else model
    return Candidate(model.read_in(), trials.channels, record, matched, core)


def _transfer(
    model: SourceModel, block: Block, source: Source, registration: Registration, objective: Objective
) -> tuple[float, Tensor]:
    """Move the read-in towards what today's tunings ask for; return what share of the way, and each channel's probability."""
    start = torch.from_numpy(registration.read_in.weight)
    gone = torch.full((len(start),), -1) if registration.matched is None else torch.from_numpy(registration.matched)
    alive = torch.from_numpy(registration.read_in.gain > 0)
    rows, probability = transferred(model, block, source, gone, alive)
    values = {}
    for share in SHARES:
        model.readin.weight.data = (start + share * (rows - start)).T.contiguous()
        values[share] = objective()
    own = registration.matched is not None and not registration.averaged
    share = how_far(values, own and float(changes(probability).float().mean()) < MINORITY)
    model.readin.weight.data = (start + share * (rows - start)).T.contiguous()
    return share, probability


def how_far(values: Mapping[float, float], trusted: bool) -> float:
    """Choose the share of a transfer's way from the objective's ``values`` at each; share 0 is among them.

    A change of tuning is an estimate that its own evidence has shrunk already. It is ``trusted`` while most matched channels are
    as they were, for they vouch for the latents by which the others are measured: then it is taken whole, or as far as the
    objective grows by no more than :data:`TOLERANCE`. Where most have changed the latents themselves may differ, or the match may
    be wrong: there, after a rotation, which matches none, and where rows hold half of a rotation's, which a whole transfer would
    put away, the way is gone on which the objective falls the most.
    """
    best = min(values, key=lambda share: values[share])
    return max(s for s in values if s == best or (trusted and values[s] <= (1 + TOLERANCE) * values[0.0]))


def _listed(matched: NDArray[np.intp] | None) -> list[int] | None:
    return None if matched is None else matched.tolist()


def _changed(channels: Sequence[str], probability: Tensor | None) -> list[str]:
    """Labels of the channels whose tuning has changed."""
    return [] if probability is None else [c for c, yes in zip(channels, changes(probability).tolist(), strict=True) if yes]
