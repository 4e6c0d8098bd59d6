"""Which registration an alignment starts from: the one asked for, or the one that the evidence asks for; or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from bci_align.alignment import registration as reg
from bci_align.alignment.block import Block, encode
from bci_align.alignment.objective import Objective
from bci_align.alignment.registration import Registration
from bci_align.alignment.registration.types import Float
from bci_align.alignment.start import check, renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.errors import AlignmentError
from bci_align.session.types import UnlabelledTrials

UNTOLD = "today's channels cannot be told from the source day's"
ROTATION_TRIALS = 40
"""Fewer trials offer no rotation: those of two halves of a real day agreed poorly with 48 each, and with 24 not at all, while
the margin over the next best said otherwise."""


def register(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, config: AlignConfig, seed: int) -> Registration:
    """Find how today's channels relate to the source day's.

    ``identity``: the labels must be the bundle's. ``order``: units in the same order, lost and gained between. ``rotation``:
    neither. ``auto``: identity where the labels agree; else order and rotation, each taken as a candidate only if its own
    evidence is clear. Where both are and decode today's trials alike they confirm each other, and their mean is taken; where
    they contradict each other the prior must tell them apart by ``config.registration_margin``.

    Raises :class:`AlignmentError` where nothing can be told, :class:`MismatchError` where identity is asked for and labels
    differ.
    """
    asked = config.registration
    if asked == "identity":
        check(bundle, trials, config.min_trials)
    if asked == "identity" or (asked == "auto" and trials.channels == bundle.manifest.channels):
        return _same_channels(bundle, source, trials)
    found, doubts = _candidates(bundle, source, trials, config, seed)
    if not found:
        raise AlignmentError(f"{UNTOLD}: {'; '.join(doubts)}")
    choice = reg.choose(found, *_by_prior(bundle, trials, config.kl), config.registration_margin)
    if not choice.sure:
        raise AlignmentError(
            f"{UNTOLD}: {choice.best.method} and {choice.runner_up} contradict each other, and the prior prefers the first by "
            f"{choice.margin:.3f}, expected {config.registration_margin:g}"
        )
    if len(found) > 1 and choice.margin is None:
        return reg.combined(*found)
    told = {"scores": {name: round(score, 4) for name, score in choice.scores.items()}, "margin": choice.margin}
    return replace(choice.best, record=choice.best.record | told)


def _candidates(
    bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, config: AlignConfig, seed: int
) -> tuple[list[Registration], list[str]]:
    """Registrations whose own evidence is clear, and what speaks against the others."""
    read_in, asked = bundle.source_read_in(), config.registration
    found, doubts = [], []
    if asked in ("auto", "order"):
        in_order = reg.order_preserving(source, trials, read_in, seed=seed)
        confidence = in_order.record["confidence"]
        if confidence is not None and confidence >= config.order_confidence:
            found.append(in_order)
        doubts.append(f"their order explains the day by {confidence} standard deviations, expected {config.order_confidence:g}")
    if asked in ("auto", "rotation"):
        least = min(len(source), len(trials))
        if least < ROTATION_TRIALS:
            doubts.append(f"a rotation takes {ROTATION_TRIALS} trials on both days, found {least}")
            return found, doubts
        rotation = reg.rotation(source, trials, read_in, seed=seed)
        margin = rotation.record["confidence"]
        if margin is None or margin >= config.rotation_margin:
            found.append(rotation)
        else:
            doubts.append(f"the best rotation beats the next by {margin:.3f} of its cost, expected {config.rotation_margin:g}")
    return found, doubts


def _by_prior(
    bundle: Bundle, trials: UnlabelledTrials, kl: float
) -> tuple[Callable[[Registration], float], Callable[[Registration], Float]]:
    """Score (lower is likelier) and decoded movement (n, K) of a registration, through the frozen core."""
    model, prior = bundle.models()
    window = bundle.manifest.prior.window

    def score(r: Registration) -> float:
        model.set_read_in(r.read_in)
        return Objective(model, prior, Block.of(trials, r.read_in), window, kl)()

    def decoded(r: Registration) -> Float:
        model.set_read_in(r.read_in)
        block = Block.of(trials, r.read_in)
        with torch.no_grad():
            return model.kinematics(encode(model, block.x))[block.inside].double().numpy()

    return score, decoded


def _same_channels(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials) -> Registration:
    """Re-normalise: from the source's read-in, so that errors do not add up over generations.

    From the bundle's own where an earlier generation had to be registered: its correspondence holds for today, too.
    """
    if trials.channels == source.channels:
        return reg.identity(source, trials, bundle.source_read_in())
    before = (bundle.manifest.alignment or {}).get("registration", {})
    matched = before.get("matched")
    return Registration(
        renormalise(bundle.read_in, trials),
        "identity",
        None if matched is None else np.array(matched, np.intp),
        {"method": "identity", "matched": matched, "with": "the generation before"},
    )
