"""From a session to a factor model: the factor VAE and, unless told otherwise, all that its films are made with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.atomic import claim_directory
from bci_align.bundle.store import versions
from bci_align.config import ExplainConfig
from bci_align.errors import InterpretationError
from bci_align.interpretation.bootstrap import check_resamples
from bci_align.interpretation.clips import Filming, fit_filming
from bci_align.interpretation.data import FactorDay, check_varies, units
from bci_align.interpretation.factors import fit_factors, read_factors
from bci_align.interpretation.measures import Frames, measure
from bci_align.interpretation.scene import Scene, render, set_scene
from bci_align.interpretation.store import FactorManifest, FactorModel, FilmShape, save_model
from bci_align.interpretation.video import check_moves, per_bin, read_frames
from bci_align.models.factor_vae import FactorVAE
from bci_align.session.types import Session, refuse_generated

Progress = Callable[[str, int, int], None]


def train_model(
    session: Session,
    config: ExplainConfig,
    seed: int,
    path: Path,
    progress: Progress | None = None,
    camera: Path | None = None,
    film: bool = True,
    resample: bool = False,
) -> FactorModel:
    """Train on ``session`` and write a factor model to ``path``, which must not exist.

    ``camera`` is a film or array of one frame per bin (with ``resample``: of the same duration); without it the kinematics are
    drawn. ``film=False`` leaves films out. ``progress(stage, done, total)`` is called all along. CPU seconds of both trainings
    are in the manifest. Every fault is one sentence (:class:`InterpretationError`), and nothing is left half written.
    """
    if resample and camera is None:
        raise InterpretationError("--resample: expected --frames with it, found none")
    refuse_generated(session, "training a factor model")
    path = claim_directory(path, error=InterpretationError)
    rewarded = len(session.rewarded())
    if rewarded < config.factors.min_trials:
        raise InterpretationError(
            f"session {session.name!r}: expected at least {config.factors.min_trials} rewarded trials, found {rewarded}"
        )
    day = FactorDay.of(session, config.behaviours, config.factors.held_out, seed)
    if film and len(day.names) + config.factors.free < 2:
        raise InterpretationError("film: expected two factors or more, one of which to tell from the others, found one")
    # What can be refused is refused before minutes of training.
    frames, scene = _frames(session, day, config, camera, resample) if film else (None, None)
    where, training = f"session {session.name!r}", day.cut(False)
    check_varies(training, where, "training")
    check_varies(day.cut(True), where, "held-out")
    check_resamples(day.cut(True), where, "held-out")
    started = time.process_time()
    network, losses = fit_factors(
        training, config.factors, seed,
        (lambda done, total: progress("factors", done, total)) if progress else None, where,
    )  # fmt: skip
    cost: dict[str, Any] = {"factors_cpu_s": time.process_time() - started}
    filming, shape = None, None
    if frames is not None:
        started = time.process_time()
        filming, record = _film(network, day, frames, config, seed, progress)
        cost["film_cpu_s"] = time.process_time() - started
        shape = FilmShape(
            config=config.film, scene=scene, frames="kinematics" if camera is None else camera.name,
            height=frames[0].shape[1], width=frames[0].shape[2], codes=filming.codes, length=filming.length, record=record,
        )  # fmt: skip
    manifest = FactorManifest(
        session=session.name,
        counts_sha256=session.fingerprint(),
        channels=session.channels,
        bin_s=session.bin_s,
        behaviours=dict(day.made_of),
        units=units(session, day.made_of),
        config=config.factors,
        seed=seed,
        training={"losses": losses, "trials": len(training), "held_out": int(day.held_out.sum()), **cost, "versions": versions()},
        film=shape,
        files={},
    )
    return save_model(path, manifest, network, day, filming)


def _frames(
    session: Session, day: FactorDay, config: ExplainConfig, camera: Path | None, resample: bool
) -> tuple[list[NDArray[np.float32]], Scene | None]:
    """Frames (T_i, H, W) of every rewarded trial, and how they were drawn, if they were."""
    if camera is None:
        scene = set_scene(session, day, config.film)
        return render(session, day, scene), scene
    every = per_bin(read_frames(camera, config.film.size), session.bins, session.bin_s, camera, resample)
    for held_out, which in ((False, "training"), (True, "held-out")):
        check_moves([every[a:b] for a, b in day.rows(held_out)], f"{camera}: {which}")
    return [every[a:b] for a, b in day.trials], None


def _film(
    network: FactorVAE,
    day: FactorDay,
    frames: list[NDArray[np.float32]],
    config: ExplainConfig,
    seed: int,
    progress: Progress | None,
) -> tuple[Filming, dict[str, Any]]:
    parts = []
    for held_out in (False, True):
        z, _ = read_factors(network, day.cut(held_out).counts)
        parts.append(([f for f, out in zip(frames, day.held_out, strict=True) if out == held_out], z))
    return fit_filming(*parts[0], parts[1], config.film, seed, progress)


def read_frames_of(network: FactorVAE, day: FactorDay, held_out: bool) -> tuple[Frames, NDArray[np.float64], NDArray[np.float64]]:
    """Factors and behaviours of the held-out trials, or of the others, end to end; normalised counts (n, C), and told."""
    trials = day.cut(held_out)
    z, told = read_factors(network, trials.counts)
    counts = np.concatenate(trials.counts)
    activity = ((counts - network.mean.numpy()) * network.gain.numpy()).astype(np.float64)
    return Frames(np.concatenate(z), np.concatenate(trials.behaviours).astype(np.float64)), activity, np.concatenate(told)


def measures(network: FactorVAE, day: FactorDay, seed: int = 0) -> dict[str, Any]:
    """Measure factors on the held-out trials (:func:`bci_align.interpretation.measures.measure`)."""
    train, _, _ = read_frames_of(network, day, False)
    test, activity, told = read_frames_of(network, day, True)
    return measure(train, test, activity, told, seed)
