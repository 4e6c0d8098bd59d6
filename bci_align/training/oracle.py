"""The supervised oracle: what a block of instructed movements would have bought. A control, never a method.

It sees the calibration trials' kinematics, so it lives with training and not with alignment, and nothing that aligns imports it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle, save_source
from bci_align.config import TrainConfig
from bci_align.decoders import Wiener
from bci_align.errors import TrainingError
from bci_align.evaluation.score import check, rows
from bci_align.session.types import Session, unlabelled
from bci_align.signal import normaliser
from bci_align.threads import one_thread
from bci_align.training import source


@one_thread()
def supervised(bundle: Bundle, session: Session, trials: NDArray[np.intp], seed: int, path: Path) -> Bundle:
    """Fine-tune every weight of ``bundle`` on the labelled ``trials`` (indices) of ``session`` and write it to ``path``.

    Starts from per-channel re-normalisation, trains as on the source day at a quarter of its learning rate for half as long,
    refits the Wiener decoder. Nothing after the last of ``trials`` is seen. For a ``session`` with other units than the source
    day's the spike decoder, which knows the source's, starts afresh.
    """
    check(bundle, session)
    if session.kinematics is None:
        raise TrainingError(f"session {session.name!r}: kinematics: expected some for the supervised oracle, found none")
    config = TrainConfig.model_validate(bundle.manifest.training["config"])
    config = config.model_copy(update={"learning_rate": config.learning_rate / 4, "epochs": max(config.epochs // 2, 1)})
    stop = max(session.trial_bins(int(i))[1] for i in trials)
    counts = session.counts[:stop].astype(np.float32)
    kinematics = session.kinematics[:stop] / np.array(bundle.manifest.scale)
    labelled = rows(session, trials)
    weight = np.zeros(stop, np.float32)
    weight[labelled] = 1.0
    breaks = tuple(b for b in session.breaks if b < stop)
    stretches = list(pairwise((0, *breaks, stop)))
    block = unlabelled(session, trials, bundle.manifest.run_in)
    model, prior = bundle.models()
    model.normalise(*normaliser.fit(block.bodies()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if session.channels != bundle.manifest.source_channels:
            model.spikes = torch.nn.Linear(bundle.manifest.latents, len(session.channels))
        source.fit(model, source.TrainingData(counts, kinematics.astype(np.float32), weight, stretches), config, seed)
    latents = source.latents(model, counts, stretches).double().numpy()
    decoder = Wiener.fit(latents, kinematics, labelled, breaks=breaks)
    manifest = bundle.manifest.model_copy(
        update={
            "source_channels": session.channels,
            "decoder": decoder.kind,
            "parent": bundle.identity,
            "alignment": {"method": "supervised oracle", "seed": seed},
        }
    )
    return save_source(path, manifest, model, (prior, bundle.movement_prior()), decoder, block)
