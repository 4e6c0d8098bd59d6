"""``retrain``: refit a bundle's decoder on labelled trials of a day, with generated trials where they help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.bundle.store import load_bundle
from bci_align.cli.augment import parse_targets
from bci_align.cli.common import as_json, emit, parse_trials, seed_option, staged_progress, table, trials_option
from bci_align.config import RetrainConfig
from bci_align.config import load as load_config
from bci_align.errors import ConfigError
from bci_align.session import io


@click.command("retrain")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("session", type=click.Path(path_type=Path))
@click.option("--augment", type=click.Path(path_type=Path), default=None, help="Model of these trials (bci-align augment train).")
@click.option("--targets", default=None, help="Targets to generate for, such as '10,0; 0,-10'; default: those of the trials.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory of the new generation; must not exist.")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="YAML with retraining settings.")
@trials_option
@seed_option
@as_json
def retrain_command(
    bundle: Path,
    session: Path,
    augment: Path | None,
    targets: str | None,
    out: Path,
    config: Path | None,
    trials: str,
    seed: int,
    as_json: bool,
) -> None:
    """Refit BUNDLE's decoder on labelled trials of SESSION and write it as a new generation.

    With --augment generated trials are added in the ratio that trials which the model's twin has not seen decide on; where they
    do not help it is zero. The decoder is then fitted on the trials that the model was trained on, which must be among --trials.
    """
    from bci_align.augmentation.bundles import retrain
    from bci_align.augmentation.store import load

    if targets is not None and augment is None:
        raise ConfigError("--targets: expected --augment MODEL with it, as only a model generates for them, found none")
    wanted = None if targets is None else parse_targets(targets)
    settings = load_config(RetrainConfig, config) if config else RetrainConfig()
    loaded, day = load_bundle(bundle), io.load(session)
    stored = load(augment) if augment else None
    chosen = parse_trials(trials, day)
    with staged_progress(as_json) as progress:
        made, choice = retrain(loaded, day, chosen, stored, wanted, settings, seed, out, progress)
    record = made.manifest.alignment or {}
    result: dict[str, Any] = {
        "bundle": str(out),
        "generation": made.manifest.generation,
        "trials": record["trials"],
        "not_in_model": record["not_in_model"],
        "ratio": choice.ratio,
        "generated_trials": choice.used,
        "left_out_because": choice.reason or None,
        "held_out_r2": {f"{k:g}": v for k, v in choice.table.items()},
        "gain": choice.gain,
        "gain_error": choice.error,
        "yields": choice.yields,
        "seed": seed,
    }

    def text() -> str:
        rows = [
            ("generated per real trial", "R2 % of held-out trials"),
            *((f"{k:g}", f"{v:.2f}") for k, v in choice.table.items()),
        ]
        told = "no generated trials"
        if choice.ratio:
            told = f"{choice.used} generated trials, together weighing as {choice.ratio:.3g} per real one"
        told += f": {choice.reason}" if choice.reason else ""
        kept = "".join(f"\nlet through by {k}: {100 * v:.0f} %" for k, v in choice.yields.items())
        known = f" of {len(chosen)}, those that the model was trained on" if record["not_in_model"] else ""
        used = f"{record['trials']} trials{known}; {told}"
        return f"{out}: written as generation {made.manifest.generation} ({used})\n{table(rows)}{kept}"

    emit(result, as_json, text)
