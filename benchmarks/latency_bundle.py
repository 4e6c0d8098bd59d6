"""Bundles that only time is measured with: of the right size, not trained, made in seconds.

Core (a GRU of 64 units, 16 latents), read-in and priors are drawn at random; the Wiener decoder is fitted on the random core's
latents of a simulated day, so that outputs are of a decoder's size and vary as a decoder's do. A step of it takes as long as one
of a trained bundle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.bundle.networks import new_prior
from bci_align.bundle.store import Bundle, load_bundle, save_source
from bci_align.decoders import Wiener
from bci_align.models.encoder import SourceModel
from bci_align.session.types import unlabelled
from bci_align.signal import normaliser
from bci_align.threads import one_thread
from benchmarks.latency_days import days

HIDDEN, LATENTS, RUN_IN, WINDOW = 64, 16, 10, 64


@one_thread()
def untrained(path: Path, channels: int, bin_s: float, seed: int = 0) -> Bundle:
    """Write the bundle for ``channels`` of the simulated subject ``seed``, or load it if it is there already."""
    if path.exists():
        return load_bundle(path)
    day, _ = days(seed, channels, bin_s)
    assert day.kinematics is not None
    trials = unlabelled(day, day.rewarded(), RUN_IN)
    scale = day.kinematics.astype(np.float64).std(0)
    outputs = len(scale)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = SourceModel(channels, HIDDEN, LATENTS, outputs)
        model.normalise(*normaliser.fit(trials.bodies()))
        counts = torch.from_numpy(day.counts.astype(np.float32))[None]
        model.whiten(model(counts)[0][0])
        latents = model(counts)[0][0].double().numpy()
        shape = PriorShape(width=32, blocks=2, steps=100, window=WINDOW)
        priors = new_prior(LATENTS, shape), new_prior(outputs, shape)
    decoder = Wiener.fit(latents, day.kinematics / scale, np.arange(day.bins))
    manifest = Manifest(
        generation=0,
        parent=None,
        channels=day.channels,
        source_channels=day.channels,
        bin_s=bin_s,
        outputs=day.kinematics_names,
        units=day.kinematics_units,
        scale=tuple(scale.tolist()),
        clamp=(8.0,) * outputs,
        hidden=HIDDEN,
        latents=LATENTS,
        run_in=RUN_IN,
        decoder=decoder.kind,
        prior=shape,
        training={"untrained": "for timings only"},
        alignment=None,
        files={},
    )
    return save_source(path, manifest, model.eval(), (priors[0].eval(), priors[1].eval()), decoder, trials)
