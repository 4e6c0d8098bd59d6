"""``augment train``, ``augment generate``, ``augment report``: models of a session's trials, and what they make."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from bci_align.atomic import check_file, claim_directory
from bci_align.cli.common import as_json, emit, parse_trials, seed_option, staged_progress, table, trials_option
from bci_align.config import AugmentConfig
from bci_align.config import load as load_config
from bci_align.decoders import Floats
from bci_align.errors import AugmentationError, ConfigError
from bci_align.session import io
from bci_align.session.digest import digest

existing = click.Path(path_type=Path)


def parse_targets(text: str) -> Floats:
    """Targets (m, D) of ``"x,y; x,y"``; :class:`ConfigError` when malformed."""
    try:
        rows = [[float(v) for v in part.split(",")] for part in text.split(";") if part.strip()]
    except ValueError:
        rows = []
    if not rows or len({len(r) for r in rows}) != 1:
        raise ConfigError(f"--targets: expected points such as '10,0; 0,-10', found {text!r}")
    if not np.isfinite(rows).all():
        raise ConfigError(f"--targets: expected finite coordinates, found {text!r}")
    return np.array(rows)


def parse_moves(moves: tuple[str, ...]) -> dict[str, float]:
    """How far every named variable is to be moved, of ``"NAME=BY"``; several moves of one add up."""
    found: dict[str, float] = {}
    for move in moves:
        name, _, by = move.partition("=")
        try:
            amount = float(by)
        except ValueError:
            raise ConfigError(f"--move: expected NAME=BY such as 'speed=0.5', found {move!r}") from None
        if not math.isfinite(amount):
            raise ConfigError(f"--move: expected a finite number, found {move!r}")
        found[name.strip()] = found.get(name.strip(), 0.0) + amount
    return found


@click.group("augment")
def augment_command() -> None:
    """Learn codes of a session's trials, generate new trials from them, and see what they are like.

    Generated trials train decoders (bci-align retrain --augment); they are never evidence, and their files say what they are.
    Every command prints text, or with --json one JSON object.
    """


@augment_command.command("train")
@click.argument("session", type=existing)
@click.option("--out", required=True, type=existing, help="Model directory to write; must not exist.")
@click.option("--config", type=existing, default=None, help="YAML with 'augment' settings; defaults suit most days.")
@click.option(
    "--hold-out",
    type=click.Choice(["trials", "target"]),
    default="trials",
    show_default=True,
    help="What proves the model: some trials of every target, or the outermost targets (where targets are missing).",
)
@click.option("--earlier", type=existing, default=None, help="Session of an earlier day of the same array that has every target.")
@trials_option
@seed_option
@as_json
def train_command(
    session: Path, out: Path, config: Path | None, hold_out: str, earlier: Path | None, trials: str, seed: int, as_json: bool
) -> None:
    """Train a model of SESSION's rewarded trials: codes, rates and kinematics together, and a twin that has not seen some trials.

    An interrupted training leaves OUT.partial and goes on when the same command is given again, to the same result.
    """
    from bci_align.augmentation.checkpoints import Partial, training_identity
    from bci_align.augmentation.model import SHARE, train
    from bci_align.augmentation.store import save

    settings = load_config(AugmentConfig, config) if config else AugmentConfig()
    claim_directory(out, error=AugmentationError)
    day = io.load(session)
    before = io.load(earlier) if earlier else None
    chosen = parse_trials(trials, day)
    how = hold_out + ("" if before is None else digest(before))
    identity = training_identity(day, chosen, settings, seed, how)
    partial = Partial.beside(out, identity)
    resumed = partial.begun
    with staged_progress(as_json) as progress:
        made = train(
            day, chosen, settings, seed, "target" if hold_out == "target" else "trials", SHARE, progress, partial.file, before
        )
    stored = save(made, day, out)
    partial.clear()
    result: dict[str, Any] = {
        "model": str(out),
        "trials": len(made.trials),
        "held_out": len(made.held_out),
        "targets": stored.model.full.navigator.targets,
        "variables": stored.manifest.variables,
        "resumed": resumed,
        "seed": seed,
    }

    def text() -> str:
        return (
            f"{out}: written{' (an interrupted training went on)' * resumed}\n"
            f"  {len(made.trials)} trials of {len(result['targets'])} targets; the twin has not seen {len(made.held_out)}\n"
            f"  navigable: {', '.join(stored.manifest.variables)}"
        )

    emit(result, as_json, text)


@augment_command.command("generate")
@click.argument("model", type=existing)
@click.option("--like", "session", required=True, type=existing, help="The session that MODEL was trained on.")
@click.option("--out", required=True, type=existing, help="Session file to write (.h5); marked as generated.")
@click.option("--targets", default=None, help="Targets such as '10,0; 0,-10'; default: codes drawn from the prior.")
@click.option("--trials", "count", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Trials in all.")
@click.option("--move", "moves", multiple=True, metavar="NAME=BY", help="Move one variable by so much, e.g. 'speed=0.5'.")
@click.option(
    "--spikes", type=click.Choice(["neuron", "poisson"]), default="neuron", show_default=True, help="How counts scatter."
)
@click.option("--force", is_flag=True, help="Replace an existing session file.")
@seed_option
@as_json
def generate_command(
    model: Path,
    session: Path,
    out: Path,
    targets: str | None,
    count: int,
    moves: tuple[str, ...],
    spikes: str,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Generate trials from MODEL into a session file that 'bci-align replay' plays and 'bci-align evaluate' refuses.

    With --targets real trials are moved to them, in equal parts, as 'bci-align retrain' does it: in a centre-out task their
    kinematics are turned, otherwise (and with --move) they are those of moved codes, and the spikes follow the kinematics by an
    encoding model. Targets outside the support are refused.
    """
    from bci_align.augmentation.as_session import as_session
    from bci_align.augmentation.navigate import AXES, start_from
    from bci_align.augmentation.screen import SLACK
    from bci_align.augmentation.store import load
    from bci_align.augmentation.trials import window_bins

    check_file(out, overwrite=force, error=AugmentationError)
    if out.exists() and session.exists() and out.samefile(session):
        raise AugmentationError(
            f"{out}: expected another file than the recorded session --like, found the same; it is never replaced"
        )
    if out.resolve().parent == model.resolve():
        raise AugmentationError(f"{out}: expected a file outside the model's directory, found one in it")
    stored, day = load(model), io.load(session)
    cuts, generator = stored.model.start(stored.cuts(day)), stored.model.full
    wanted, asked = None if targets is None else parse_targets(targets), parse_moves(moves)
    for name, amount in asked.items():
        generator.navigator.check_move(name, amount)
    rows = None
    if wanted is None:
        codes = generator.prior.draw(count, np.random.default_rng(seed))
        to = generator.target_of(codes)
    else:
        generator.navigator.check(wanted)
        each = -(-count // len(wanted))
        rows, to = start_from(cuts, wanted, each, np.random.default_rng(seed))
        order = np.argsort(np.tile(np.arange(each), len(wanted)), kind="stable")[:count]  # dealt out evenly
        rows, to = rows[order], to[order]
        codes = generator.navigator.to_target(generator.space.encode(cuts.of(rows)), cuts.target[rows], to)
    for name, amount in asked.items():
        codes = generator.navigator.move(codes, name, amount)
        if name.startswith("target "):  # the trials are for the target that their codes are moved to
            to = to + amount * (np.arange(to.shape[1]) == AXES.index(name[-1]))
    if wanted is not None:
        generator.navigator.check(np.unique(np.round(to, 6), axis=0))
    inside = float((generator.navigator.distance(codes, to) <= SLACK * generator.navigator.limit).mean())
    if not inside:
        raise AugmentationError(f"{out}: not written, as none of {count} codes is in support; ask for targets or smaller moves")
    if rows is None:
        made = generator.of_codes(codes, to, seed, spikes == "poisson")
    else:
        made = generator.moved(cuts, rows, codes, to, seed, spikes == "poisson", turn=not asked)
    how = f"by model {stored.identity[:12]} of session {day.name!r}, seed {seed}"
    before = window_bins(stored.manifest.config, day.bin_s)[0]
    io.save(as_session(made, day, before, out.stem, how), out, overwrite=force)
    result = {"session": str(out), "trials": count, "in_support": inside, "seed": seed, "generated": how}
    emit(result, as_json, lambda: f"{out}: written, {count} generated trials ({100 * inside:.0f} % of codes in support)\n  {how}")


@augment_command.command("report")
@click.argument("model", type=existing)
@click.argument("session", type=existing)
@click.option("--out", required=True, type=existing, help="Directory for figures and numbers; must not exist.")
@seed_option
@as_json
def report_command(model: Path, session: Path, out: Path, seed: int, as_json: bool) -> None:
    """Measure what MODEL knows of SESSION, the one it was trained on: codes, navigation, rates, realism; with figures."""
    from bci_align.augmentation.store import load
    from bci_align.report.augmentation import write

    claim_directory(out, error=AugmentationError)
    stored, day = load(model), io.load(session)
    with staged_progress(as_json) as progress:
        result = write(stored, day, out, seed, progress)
    rows = [("measure", "value"), *((k, f"{v:.4g}") for k, v in result["measures"].items())]
    emit(result, as_json, lambda: f"{table(rows)}\n{out}: written")
