"""Variants of our own aligner: its parts one by one, what was tried and not kept, and a day whose units are in no known order."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bci_align.alignment import erdiff
from bci_align.alignment.block import Block, encode
from bci_align.alignment.gate import judge
from bci_align.bundle.networks import new_prior
from bci_align.bundle.store import Bundle, save_source
from bci_align.comparison.pairs import Pair
from bci_align.config import AlignConfig, GateConfig, TrainConfig
from bci_align.diffusion.fit import fit
from bci_align.diffusion.windows import cut
from bci_align.errors import AlignmentError
from bci_align.models.layers import Layers
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread

REGISTRATION = "registration and re-normalisation only"
DESTROYED = "ours, order of units destroyed"
GATE_REFUSES = "refused by the gate"

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    REGISTRATION: {"transfer": False, "steps": 0},
    "tuning transfer only": {"steps": 0},
    "refinement only": {"transfer": False},
    "refinement: Gaussian KL alone": {"prior": 0.0},
    "refinement: ERDiff's denoising term": {"objective": "denoising"},
    "refinement: denoising, likelihood w(t)": {"objective": "denoising", "weight": "likelihood"},
    "refinement: difference of two scores": {"objective": "difference"},
    "refinement without the KL": {"kl": 0.0},
    "refinement: Sinkhorn in the KL's place": {"kl": 0.0, "sinkhorn": 0.1},
    "refinement and reconstruction of today's spikes": {"reconstruction": 1.0},
    "refinement without the pull": {"pull": 0.0},
    "and self-labelling, 2 rounds": {"label_rounds": 2},
    "prior without temporal layers": {"layers": "spatial"},
    "prior without spatial layers": {"layers": "temporal"},
    "moving the latent head (affine)": {"moves": "affine"},
    "moving the whole encoder": {"moves": "whole"},
}
"""Settings of each variant; what is not named is the default. ``layers``: of a prior trained anew on the same source latents."""

FEW_TRIALS: dict[str, dict[str, Any]] = {
    "refinement with a tenth of the pull": {"pull": 100.0},
    "refinement, 200 steps": {"steps": 200},
    "refinement: three times the KL": {"kl": 0.3},
    "refinement: a third of the KL": {"kl": 0.033},
    "refinement: Sinkhorn beside the KL": {"sinkhorn": 0.1},
}
"""What was tried for few trials and not kept; rows of ``--ablations --trials N`` beside :data:`VARIANTS`."""

TRAINING: dict[str, dict[str, float]] = {
    "without_augmentation": {"augment_dropout": 0.0, "augment_gain": 0.0, "augment_offset": 0.0},
    "with_turnover": {"augment_turnover": 0.2},
}
"""Settings of the source day's training that differ from a pair's own."""


def trained_otherwise(pair: Pair, name: str) -> Pair:
    """The same pair, all its unlabelled trials, after one of :data:`TRAINING`."""
    train = TrainConfig.model_validate(pair.train.model_dump() | TRAINING[name])
    return replace(pair, name=f"{pair.name}-{name}", unlabelled_counts=pair.unlabelled_counts[-1:], train=train)


def variant(name: str, bundle: Bundle, trials: UnlabelledTrials, seed: int) -> erdiff.Candidate:
    """Align with the settings of one of :data:`VARIANTS` or :data:`FEW_TRIALS`."""
    settings = dict((VARIANTS | FEW_TRIALS)[name])
    layers = settings.pop("layers", None)
    with tempfile.TemporaryDirectory() as folder:
        if layers is not None:
            bundle = with_layers(bundle, layers, seed, Path(folder) / "bundle")
        return erdiff.align(bundle, trials, AlignConfig.model_validate(settings), seed)


@one_thread()
def with_layers(bundle: Bundle, layers: Layers, seed: int, path: Path) -> Bundle:
    """The same source model beside a prior with other attention layers, trained as the bundle's was."""
    model, _ = bundle.models()
    model.set_read_in(bundle.source_read_in())
    source = bundle.source_trials()
    block = Block.of(source, bundle.source_read_in())
    with torch.no_grad():
        latents = encode(model, block.x)
    shape = bundle.manifest.prior.model_copy(update={"layers": layers})
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = new_prior(bundle.manifest.latents, shape)
        draw = partial(cut, latents, block.lengths, block.run_in, shape.window, rng)
        fit(prior, draw, int(bundle.manifest.training["config"]["prior_epochs"]), torch.Generator().manual_seed(seed))
    manifest = bundle.manifest.model_copy(update={"prior": shape, "channels": bundle.manifest.source_channels})
    return save_source(path, manifest, model, (prior, bundle.movement_prior()), bundle.decoder(), source)


def destroyed(bundle: Bundle, trials: UnlabelledTrials, seed: int) -> erdiff.Candidate:
    """Align to the same day with its units in an order drawn by ``seed`` and under other labels, and have the gate judge it.

    What comes back is for the day's own order, so that it decodes the same counts as every other method. Raises
    :class:`AlignmentError` where the registration or the gate refuses.
    """
    order = np.random.default_rng(seed).permutation(len(trials.channels))
    unknown = replace(
        trials,
        counts=tuple(np.ascontiguousarray(t[:, order]) for t in trials.counts),
        channels=tuple(f"unknown {i}" for i in range(len(order))),
    )
    found = erdiff.align(bundle, unknown, AlignConfig(), seed)
    verdict = judge(bundle, bundle.read_in, found.read_in, unknown, GateConfig(), found.matched, found.core)
    if not verdict.accepted:
        raise AlignmentError(f"{GATE_REFUSES}: {verdict.reason}")
    r, back = found.read_in, np.argsort(order)
    read_in = replace(r, mean=r.mean[back], gain=r.gain[back], weight=r.weight[back])
    return replace(found, read_in=read_in, channels=trials.channels, matched=None)
