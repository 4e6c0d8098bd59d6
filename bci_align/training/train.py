"""From a source-day session to a bundle of generation 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.atomic import claim_directory
from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.bundle.store import Bundle, new_prior, save_source, versions
from bci_align.config import TrainConfig
from bci_align.decoders import Decoder, Floats, Kalman, Recurrent, Wiener, run
from bci_align.diffusion import windows
from bci_align.diffusion.fit import fit as fit_diffusion
from bci_align.diffusion.process import Diffusion
from bci_align.errors import BundleError, TrainingError
from bci_align.evaluation.metrics import r2
from bci_align.evaluation.score import rows
from bci_align.models.encoder import SourceModel
from bci_align.session.types import Session
from bci_align.signal import normaliser
from bci_align.threads import one_thread
from bci_align.training import source

Progress = Callable[[str, int, int], None]


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
    _check_trials(session, training, config)
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
        model.normalise(*normaliser.fit([counts[slice(*session.trial_bins(int(i)))] for i in training]))
        weight = np.full(session.bins, source.BETWEEN, np.float32)
        weight[trained], weight[held_out] = 1.0, 0.0
        data = source.TrainingData(counts, kinematics.astype(np.float32), weight)
        losses = source.fit(model, data, config, seed, tell("source model"))
        active = source.active_dimensions(model, counts, trained)
        with torch.no_grad():
            model.whiten(model(torch.from_numpy(counts)[None])[0][0][torch.from_numpy(trained)])
            latents = model(torch.from_numpy(counts)[None])[0][0]
        prior, shape, history = _fit_prior(session, latents, training, config, seed, tell("diffusion prior"))

    decoder, scores = _choose_decoder(latents.double().numpy(), kinematics, trained, held_out, seed)
    clamp = 1.5 * np.abs(kinematics[trained]).max(0)
    manifest = Manifest(
        generation=0,
        parent=None,
        channels=session.channels,
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
            "validation_r2": scores,
            "versions": versions(),
        },
        alignment=None,
        files={},
    )
    return save_source(path, manifest, model, prior, decoder)


def _check_trials(session: Session, training: NDArray[np.intp], config: TrainConfig) -> None:
    """Refuse before any training what the diffusion prior could not be trained on afterwards."""
    bounds = [session.trial_bins(int(i)) for i in training]
    lengths = [stop - first + config.run_in for first, stop in bounds if first >= config.run_in]
    if not lengths:
        raise TrainingError(
            f"session {session.name!r}: expected training trials with {config.run_in} bins of run-in before them, "
            f"found none among {len(training)}"
        )
    window = windows.window_length(lengths, config.run_in)
    if max(lengths) < window:
        raise TrainingError(
            f"session {session.name!r}: expected trials of at least {window} bins with their run-in, found {max(lengths)} at most"
        )


def _fit_prior(
    session: Session,
    latents: torch.Tensor,
    trials: NDArray[np.intp],
    config: TrainConfig,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Diffusion, PriorShape, list[float]]:
    """Fit the diffusion prior on windows of the training trials' latents (T, d)."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    bounds = [session.trial_bins(int(i)) for i in trials]
    cuts = [latents[first - config.run_in : stop].numpy() for first, stop in bounds if first >= config.run_in]
    padded, lengths = windows.pad(cuts)
    window = windows.window_length(lengths, config.run_in)
    shape = PriorShape(width=config.prior_width, blocks=config.prior_blocks, steps=config.prior_steps, window=window)
    prior = new_prior(config.latents, shape)
    history = fit_diffusion(
        prior,
        lambda: windows.cut(padded, lengths, config.run_in, window, rng),
        config.prior_epochs,
        generator,
        progress=progress,
    )
    return prior.eval(), shape, [round(v, 5) for v in history]


def _choose_decoder(
    latents: Floats, kinematics: Floats, trained: NDArray[np.intp], held_out: NDArray[np.intp], seed: int
) -> tuple[Decoder, dict[str, float]]:
    """Fit the three decoders on the training trials' bins; the best on the validation trials' bins is kept."""
    fitted: list[Decoder] = [
        Wiener.fit(latents, kinematics, trained),
        Kalman.fit(latents, kinematics, trained),
        Recurrent.fit(latents, kinematics, trained, seed),
    ]
    scores = {d.kind: round(r2(kinematics[held_out], run(d, latents)[held_out]), 3) for d in fitted}
    return max(fitted, key=lambda d: scores[d.kind]), scores
