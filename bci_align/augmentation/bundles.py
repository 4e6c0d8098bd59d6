"""``retrain``: a bundle's decoder refitted on a day's labelled trials, with generated ones where they were proved to help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.start import renormalise
from bci_align.atomic import claim_directory
from bci_align.augmentation.makers import screened
from bci_align.augmentation.retrain import Choice, Ground, augmented, choose
from bci_align.augmentation.store import Stored
from bci_align.augmentation.trials import Index, TrialSet
from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import RetrainConfig
from bci_align.decoders import Floats
from bci_align.errors import AugmentationError, BundleError
from bci_align.evaluation.score import check
from bci_align.session.types import Session, refuse_generated, unlabelled
from bci_align.threads import one_thread
from bci_align.training import source

LAGS = 5
"""Of the Wiener decoder, as on the source day."""


@one_thread()
def retrain(
    bundle: Bundle,
    session: Session,
    trials: Index,
    stored: Stored | None,
    targets: Floats | None,
    config: RetrainConfig,
    seed: int,
    path: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Bundle, Choice]:
    """Refit ``bundle``'s decoder on the labelled ``trials`` (indices) of ``session`` and write the new generation to ``path``.

    The read-in is re-normalised per channel on these trials; then a Wiener filter of the latents is fitted. With a ``stored``
    model those of the trials are used that it was trained on, all of which must be among them; generated ones for ``targets``
    (m, D; default: those that the trials have) are added in the ratio that the model's held-out trials choose, perhaps none. The
    record of the new generation says how many ``trials`` it was fitted on and how many are ``not_in_model``.
    :class:`~bci_align.errors.AugmentationError` and :class:`~bci_align.errors.MismatchError` for what does not fit together; a
    generated session is refused.
    """
    path = claim_directory(path, error=BundleError)
    refuse_generated(session, "retraining a decoder")
    check(bundle, session)
    if session.kinematics is None:
        raise AugmentationError(f"session {session.name!r}: kinematics: expected some to retrain on, found none")
    cuts = None if stored is None else stored.cuts(session)  # first of all: another session's trials may not even be there
    asked = len(trials)
    if stored is not None:
        trials = _known(stored, session, trials)
    manifest = bundle.manifest
    read_in = renormalise(bundle.read_in, unlabelled(session, trials, manifest.run_in))
    network, _ = bundle.models()
    network.set_read_in(read_in)

    def features(counts: NDArray[np.float32], breaks: Sequence[int]) -> Floats:
        return source.latents(network, counts, list(pairwise((0, *breaks, len(counts))))).double().numpy()

    ground = Ground(session, trials, features, np.array(manifest.scale), LAGS, manifest.run_in)
    if stored is None or cuts is None:
        out = _own_hold_out(len(trials), config.validation, seed)
        choice = choose(ground, np.setdiff1d(np.arange(len(trials)), out), out, None, config, {})
        weights = ground.fit(np.arange(len(trials)), None, 0.0, choice.ridge)
    else:
        weights, choice = _with_model(ground, stored, cuts, targets, config, seed, progress)
    record = {
        "method": "supervised retraining",
        "session": session.name,
        "counts_sha256": session.fingerprint(),
        "trials": len(trials),
        "not_in_model": asked - len(trials),
        "seed": seed,
        "augmented_by": None if stored is None else stored.identity,
        "ratio": choice.ratio,
        "generated_trials": choice.used,
        "left_out_because": choice.reason or None,
        "ridge": choice.ridge,
        "held_out_r2": {f"{k:g}": round(v, 3) for k, v in choice.table.items()},
        "gain": [round(v, 5) if isfinite(v) else None for v in (choice.gain, choice.error)],
        "yields": choice.yields,
    }
    made = save_generation(bundle, read_in, path, record, decoder=ground.decoder(weights))
    return made, choice


def _own_hold_out(n: int, share: float, seed: int) -> Index:
    if n < 4:
        raise AugmentationError(f"retraining: expected at least 4 rewarded trials, found {n}")
    return np.sort(np.random.default_rng(seed).permutation(n)[: max(round(share * n), 1)])


def _known(stored: Stored, session: Session, trials: Index) -> Index:
    """Trials of the model, all of which must be among ``trials``: what it was proved on is no proof for fewer."""
    known = stored.model.trials
    lacking = np.setdiff1d(known, trials)
    if len(lacking):
        raise AugmentationError(
            f"session {session.name!r}: expected the {len(known)} trials that {stored.path} was trained on among the "
            f"{len(trials)} to retrain on, found {len(lacking)} of them left out, trial {int(lacking[0])} first"
        )
    return known


def _with_model(
    ground: Ground,
    stored: Stored,
    cuts: TrialSet,
    targets: Floats | None,
    config: RetrainConfig,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[Floats, Choice]:
    """Refit with generated trials: the twin proves the ratio on trials that it has not seen, then both of them are used."""
    model = stored.model
    training = cuts.of(np.setdiff1d(np.arange(len(cuts)), model.held_out))
    wanted = cuts.conditions()[0] if targets is None else targets
    model.full.navigator.check(wanted)
    # the twin is tried on the targets of the trials that are held out, as well, though its own support be smaller
    tried = np.unique(np.concatenate([wanted, cuts.of(model.held_out).conditions()[0]]), axis=0)
    tell = progress or (lambda stage, done, total: None)
    tell("generation", 0, 2)
    proof = screened(model.proof, model.start(training), training, config)
    full = screened(model.full, model.start(cuts), cuts, config)
    weights, choice = augmented(ground, model.held_out, proof, full, cuts.target, wanted, tried, config, seed)
    tell("generation", 2, 2)
    return weights, choice
