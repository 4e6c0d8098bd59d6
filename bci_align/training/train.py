"""From a source-day session to a bundle of generation 0."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.atomic import claim_directory
from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.bundle.networks import new_prior
from bci_align.bundle.store import Bundle, save_source, versions
from bci_align.config import TrainConfig
from bci_align.decoders import Decoder, Floats, Kalman, Recurrent, Wiener, run
from bci_align.diffusion import windows
from bci_align.diffusion.fit import fit as fit_diffusion
from bci_align.diffusion.process import Diffusion
from bci_align.errors import BundleError, TrainingError
from bci_align.evaluation.metrics import r2
from bci_align.evaluation.score import rows
from bci_align.models.encoder import SourceModel
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.signal import normaliser
from bci_align.threads import one_thread
from bci_align.training import source

Progress = Callable[[str, int, int], None]

OTHER_DAYS = 5
"""Drifted arrays on which decoders are compared."""


def source_split(session: Session, share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split the rewarded trials by ``seed`` into (training, validation) indices, each in order of time."""
    trials = session.rewarded()
    order = np.random.default_rng(seed).permutation(len(trials))
    held_out = max(round(share * len(trials)), 1)
    return np.sort(trials[order[held_out:]]), np.sort(trials[order[:held_out]])


@one_thread()
def train_bundle(session: Session, config: TrainConfig, seed: int, path: Path, progress: Progress | None = None) -> Bundle:
    """Train encoder, spike decoder, velocity decoder and diffusion prior on ``session`` and write them as a bundle.

    ``progress(stage, done, total)`` is called all along. The same session, configuration and seed give the same bytes on one
    machine. Raises :class:`TrainingError` when the session has no kinematics or too few rewarded trials.
    """
    path = claim_directory(path, error=BundleError)
    if session.kinematics is None:
        raise TrainingError(f"session {session.name!r}: kinematics: expected some to train a decoder on, found none")
    if len(session.rewarded()) < config.min_trials:
        raise TrainingError(
            f"session {session.name!r}: expected at least {config.min_trials} rewarded trials to train on, "
            f"found {len(session.rewarded())}"
        )
    if session.bins <= config.run_in + source.BURN:
        raise TrainingError(
            f"session {session.name!r}: expected more than {config.run_in + source.BURN} bins, found {session.bins}"
        )

    def tell(stage: str) -> Callable[[int, int], None] | None:
        return (lambda done, total: progress(stage, done, total)) if progress else None

    training, validation = source_split(session, config.validation, seed)
    trials = unlabelled(session, training, config.run_in)
    _check_trials(session, trials)
    trained, held_out = rows(session, training), rows(session, validation)
    counts = session.counts.astype(np.float32)
    scale = session.kinematics[trained].astype(np.float64).std(0)
    if (scale == 0).any():
        flat = session.kinematics_names[int(np.flatnonzero(scale == 0)[0])]
        raise TrainingError(f"session {session.name!r}: kinematics {flat!r}: expected values that vary, found a constant")
    kinematics = session.kinematics / scale

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SourceModel(counts.shape[1], config.hidden, config.latents, kinematics.shape[1])
        model.normalise(*normaliser.fit(trials.bodies()))
        weight = np.full(session.bins, source.BETWEEN, np.float32)
        weight[trained], weight[held_out] = 1.0, 0.0
        stretches = session.stretches()
        data = source.TrainingData(counts, kinematics.astype(np.float32), weight, stretches)
        losses = source.fit(model, data, config, seed, tell("source model"))
        active = source.active_dimensions(model, counts, stretches, trained)
        with torch.no_grad():
            model.whiten(source.latents(model, counts, stretches)[torch.from_numpy(trained)])
        latents = source.latents(model, counts, stretches)
        stops = [session.trial_bins(int(i))[1] for i in training]
        cuts = [latents[stop - len(t) : stop].numpy() for t, stop in zip(trials.counts, stops, strict=True)]
        window = windows.window_length([len(t) for t in cuts], trials.run_in)
        shape = PriorShape(
            width=config.prior_width,
            blocks=config.prior_blocks,
            steps=config.prior_steps,
            window=window,
            layers=config.prior_layers,
        )
        prior, history = _fit_prior(cuts, trials.run_in, shape, config.prior_epochs, seed, tell("diffusion prior"))
        moves = [kinematics[stop - len(t) : stop].astype(np.float32) for t, stop in zip(trials.counts, stops, strict=True)]
        both = shape.model_copy(update={"layers": "both"})
        movement, moved = _fit_prior(moves, trials.run_in, both, config.prior_epochs, seed, tell("movement prior"))

        other_days = [source.latents_of_another_day(model, counts, stretches, config).double().numpy() for _ in range(OTHER_DAYS)]

    decoder, here, drifted = _choose_decoder(
        latents.double().numpy(), other_days, kinematics, trained, held_out, seed, session.breaks
    )
    clamp = 1.5 * np.abs(kinematics[trained]).max(0)
    manifest = Manifest(
        generation=0,
        parent=None,
        channels=session.channels,
        source_channels=session.channels,
        bin_s=session.bin_s,
        outputs=session.kinematics_names,
        units=session.kinematics_units,
        scale=tuple(scale.tolist()),
        clamp=tuple(clamp.tolist()),
        hidden=config.hidden,
        latents=config.latents,
        run_in=config.run_in,
        decoder=decoder.kind,
        prior=shape,
        training={
            "session": session.name,
            "counts_sha256": session.fingerprint(),
            "seed": seed,
            "config": config.model_dump(mode="json"),
            "training_trials": len(training),
            "validation_trials": validation.tolist(),
            "active_dimensions": active,
            "losses": losses,
            "prior_loss": history,
            "movement_prior_loss": moved,
            "validation_r2": here,
            "validation_r2_drifted": drifted,
            "versions": versions(),
        },
        alignment=None,
        files={},
    )
    return save_source(path, manifest, model, (prior, movement), decoder, trials)


def _check_trials(session: Session, trials: UnlabelledTrials) -> None:
    """Refuse before any training what the diffusion prior could not be trained on afterwards."""
    lengths = [len(t) for t in trials.counts]
    window = windows.window_length(lengths, trials.run_in)
    if max(lengths) < window:
        raise TrainingError(
            f"session {session.name!r}: expected trials of at least {window} bins with their run-in, found {max(lengths)} at most"
        )


def _fit_prior(
    cuts: list[NDArray[np.float32]],
    run_in: Sequence[int],
    shape: PriorShape,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Diffusion, list[float]]:
    """Fit a diffusion prior on windows of the training trials' latents or kinematics (T_i, d), their run-in first."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    padded, lengths = windows.pad(cuts)
    prior = new_prior(padded.shape[2], shape)
    draw = functools.partial(windows.cut, padded, lengths, run_in, shape.window, rng)
    history = fit_diffusion(prior, draw, epochs, generator, progress=progress)
    return prior.eval(), [round(v, 5) for v in history]


def _choose_decoder(
    latents: Floats,
    of_other_days: Sequence[Floats],
    kinematics: Floats,
    trained: NDArray[np.intp],
    held_out: NDArray[np.intp],
    seed: int,
    breaks: tuple[int, ...],
) -> tuple[Decoder, dict[str, float], dict[str, float]]:
    """Fit the three decoders on the training trials' bins; the one that another day hurts least is kept.

    ``of_other_days`` are latents of the same day through drifted arrays. A decoder that carries its state far (a Kalman filter
    of positions) can be the best by a hair on the day itself and diverge once latents are a little off. Gives R2 (%) of each on
    the validation trials' bins, on the day itself and over the drifted arrays.
    """
    fitted: list[Decoder] = [
        Wiener.fit(latents, kinematics, trained, breaks=breaks),
        Kalman.fit(latents, kinematics, trained, breaks),
        Recurrent.fit(latents, kinematics, trained, seed, breaks=breaks),
    ]

    def score(d: Decoder, z: Floats) -> float:
        return r2(kinematics[held_out], run(d, z, breaks)[held_out])

    here = {d.kind: round(score(d, latents), 3) for d in fitted}
    drifted = {d.kind: round(float(np.mean([score(d, z) for z in of_other_days])), 3) for d in fitted}
    return max(fitted, key=lambda d: drifted[d.kind]), here, drifted
