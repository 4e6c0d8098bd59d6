"""``explain``: which factor carries which behaviour, whether an alignment kept it, and a film of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.atomic import check_file
from bci_align.cli.common import as_json, emit, parse_trials, seed_option, staged_progress, trials_option
from bci_align.config import ExplainConfig
from bci_align.config import load as load_config
from bci_align.errors import ConfigError, InterpretationError, MismatchError
from bci_align.session import io


@click.group("explain")
def explain_command() -> None:
    """Tell which factor carries which movement: train a factor model, report on it, film a factor.

    Between sessions, offline. The factors are found with the labels of the session; a report on two bundles scores a later day's.
    """


@explain_command.command("train")
@click.argument("session", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Factor model (a directory) to write; must not exist."
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML: behaviours, factors, film; see configs/explain/.")
@click.option("--frames", type=click.Path(path_type=Path), help="A camera's film (mp4, GIF) or frames (.npy), one per bin.")
@click.option("--resample", is_flag=True, help="Take of a film at another rate the frame of each bin's middle.")
@click.option("--no-film", is_flag=True, help="Leave films out: minutes less.")
@seed_option
@as_json
def train_command(
    session: Path, out: Path, config: Path | None, frames: Path | None, resample: bool, no_film: bool, seed: int, as_json: bool
) -> None:
    """Train a factor model on SESSION: each behaviour gets a factor of its own, others are left free.

    Without --config every column of the kinematics is a behaviour, and their speed. A share of the rewarded trials, drawn by
    --seed, trains nothing; every number is of those. Films show the kinematics as a cursor or an arm unless --frames is given.
    """
    if no_film and frames is not None:
        raise click.UsageError("--frames: expected no --no-film with it")
    from bci_align.interpretation.train import train_model
    from bci_align.report.explained import explain, lines

    settings = load_config(ExplainConfig, config) if config else ExplainConfig()
    day = io.load(session)
    with staged_progress(as_json) as progress:
        model = train_model(day, settings, seed, out, progress, frames, not no_film, resample)
    result = explain(model) | {"training": model.manifest.training}
    if model.manifest.film is not None:
        result["film"] = {k: v for k, v in model.manifest.film.record.items() if k != "diffusion_loss"}
    emit(result, as_json, lambda: "\n  ".join([f"{out}: written", *lines(result)]))


@explain_command.command("report")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), help="Give two: before the alignment, then after it."
)
@click.option("--session", type=click.Path(path_type=Path), help="The later day on which the two bundles are compared.")
@click.option("--out", type=click.Path(path_type=Path), help="HTML page to write; its figures go beside it.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
@click.option("--level", type=click.FloatRange(0.5, 0.9999), default=0.99, show_default=True, help="Level of the intervals.")
@trials_option
@as_json
def report_command(
    model: Path,
    bundles: tuple[Path, ...],
    session: Path | None,
    out: Path | None,
    force: bool,
    level: float,
    trials: str,
    as_json: bool,
) -> None:
    """Report on a factor MODEL: factor x behaviour R2, disentanglement, reconstruction, on its held-out trials.

    With two bundles of the model's session and a later --session: what each carries of every factor there, and one verdict per
    factor: kept, weakened or lost. --trials should leave out those that were aligned on.
    """
    if len(bundles) not in (0, 2):
        raise ConfigError(f"--bundle: expected two, before and after the alignment, or none, found {len(bundles)}")
    if trials != ":" and session is None:
        raise ConfigError(f"--trials: expected --session with it, whose trials they are, found {trials!r} alone")
    if bool(bundles) != (session is not None):
        given, wanted = ("--bundle", "--session") if bundles else ("--session", "--bundle")
        raise ConfigError(f"{wanted}: expected one beside {given}, to compare two bundles on a later day, found none")
    if out is not None:
        check_file(out, overwrite=force, error=ConfigError)
    from bci_align.bundle.store import load_bundle
    from bci_align.interpretation.carried import check_bundle, check_day, check_units, compare
    from bci_align.interpretation.data import FactorDay
    from bci_align.interpretation.store import load_model
    from bci_align.report.explained import explain, lines, write_page

    loaded = load_model(model)
    m, carried = loaded.manifest, None
    if session is not None:
        day = io.load(session)
        before, after = (load_bundle(b) for b in bundles)
        for bundle in (before, after):
            check_bundle(bundle, m.channels, m.bin_s, m.counts_sha256, str(bundle.path))
            check_day(bundle, day, str(bundle.path))
        if before.manifest.latents != after.manifest.latents:
            raise MismatchError(
                f"{after.path}: expected {before.manifest.latents} latents as in {before.path}, found {after.manifest.latents}"
            )
        check_units(day, m.units)
        later = FactorDay.later(day, m.behaviours, parse_trials(trials, day))
        carried = compare(loaded.network, loaded.day, (before, after), later, level)
    result = explain(loaded, carried, level)
    if out is not None:
        result["page"] = str(write_page(loaded, result, carried, out, force)[0])
    head = [f"{out}: written"] if out is not None else []
    emit(result, as_json, lambda: "\n".join([*head, *lines(result)]))


@explain_command.command("film")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--factor", required=True, help="Name of the factor: a behaviour's, or 'free 1' and so on.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Film to write: .gif or .mp4.")
@click.option("--clips", type=click.IntRange(1, 16), default=2, show_default=True, help="Clips, one below the other.")
@click.option("--rate", type=click.FloatRange(1, 60), help="Frames per second; default: the session's bins, at their own pace.")
@click.option("--force", is_flag=True, help="Replace an existing film.")
@seed_option
@as_json
def film_command(
    model: Path, factor: str, out: Path, clips: int, rate: float | None, force: bool, seed: int, as_json: bool
) -> None:
    """Film what one factor of MODEL does: unguided, guided, naive, classifier-free, and what the guide changed, side by side."""
    from bci_align.interpretation.film import compose, make_film
    from bci_align.interpretation.store import load_model
    from bci_align.interpretation.video import check_new, check_rate, write_film

    check_new(out, force)
    loaded = load_model(model)
    chosen = loaded.factor(factor)
    if loaded.filming is None:
        raise InterpretationError(f"{model}: film: expected a factor model with films, found one trained with --no-film")
    wanted = rate or 1 / loaded.manifest.bin_s
    shown = check_rate(out, wanted)
    with staged_progress(as_json) as progress:
        film = make_film(loaded.filming, chosen, clips, seed, lambda done, total: progress("film", done, total))
    write_film(out, compose(film, factor), wanted, force)
    length = loaded.filming.length
    result: dict[str, Any] = {"film": str(out), "factor": factor, "clips": clips, "frames": length, "rate": shown}
    emit(result, as_json, lambda: f"{out}: written, {clips} clips of {length} frames at {shown:.4g} per second")
