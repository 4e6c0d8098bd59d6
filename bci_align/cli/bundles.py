"""``train``, ``evaluate`` and ``recalibrate``: the commands between sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.alignment.drift_score import score
from bci_align.alignment.erdiff import align
from bci_align.alignment.gates import Gates
from bci_align.atomic import claim_directory
from bci_align.bundle.store import load_bundle, save_generation
from bci_align.cli.common import as_json, emit, parse_trials, seed_option, staged_progress, table, trials_option
from bci_align.config import RecalibrateConfig, TrainConfig
from bci_align.config import load as load_config
from bci_align.errors import BundleError, Refused
from bci_align.evaluation.score import evaluate
from bci_align.session import io
from bci_align.session.types import GENERATED, refuse_generated, unlabelled
from bci_align.training import source_split, train_bundle


@click.command("train")
@click.argument("session", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle directory to write; must not exist.")
@click.option(
    "--config", type=click.Path(path_type=Path), default=None, help="YAML with training settings; defaults suit most days."
)
@seed_option
@as_json
def train_command(session: Path, out: Path, config: Path | None, seed: int, as_json: bool) -> None:
    """Train a bundle on the source-day SESSION: encoder, latents, decoders, diffusion prior.

    Rewarded trials are split by --seed into training and validation trials; the scores printed are of the validation trials,
    decoded bin by bin as the live system would. Of three velocity decoders the best on these trials is kept.
    """
    settings = load_config(TrainConfig, config) if config else TrainConfig()
    day = io.load(session)
    refuse_generated(day, "training a bundle")
    with staged_progress(as_json) as progress:
        bundle = train_bundle(day, settings, seed, out, progress)
    record = bundle.manifest.training
    scores = evaluate(bundle, day, source_split(day, settings.validation, seed)[1])
    result: dict[str, Any] = {
        "bundle": str(out),
        "validation": scores,
        "decoder": bundle.manifest.decoder,
        "decoders_r2": record["validation_r2"],
        "active_dimensions": record["active_dimensions"],
        "prior_parameters": sum(p.numel() for p in bundle.models()[1].parameters()),
        "seed": seed,
    }

    def text() -> str:
        others = ", ".join(f"{kind} {value:.1f}" for kind, value in record["validation_r2"].items())
        return (
            f"{out}: written\n"
            f"  validation R2 {scores['r2']:.1f} % ({scores['trials']} trials, {scores['bins']} bins)\n"
            f"  decoder {result['decoder']} (R2 of {others})\n"
            f"  active latent dimensions {result['active_dimensions']} of {bundle.manifest.latents}\n"
            f"  prior of {result['prior_parameters']} parameters on windows of {bundle.manifest.prior.window} bins"
        )

    emit(result, as_json, text)


@click.command("evaluate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("session", type=click.Path(path_type=Path))
@trials_option
@click.option("--allow-generated", is_flag=True, help="Score a session of generated trials, too, which is no evidence.")
@as_json
def evaluate_command(bundle: Path, session: Path, trials: str, allow_generated: bool, as_json: bool) -> None:
    """Score BUNDLE on SESSION: variance-weighted R2 (%), R2 per output, RMSE.

    The whole session is decoded bin by bin; the bins of the chosen rewarded trials are scored.
    """
    loaded, day = load_bundle(bundle), io.load(session)
    result = evaluate(loaded, day, parse_trials(trials, day), allow_generated)
    result["generated_trials"] = GENERATED in day.meta
    result["generation"] = loaded.manifest.generation
    result["seen_in_training"] = day.fingerprint() == loaded.manifest.training.get("counts_sha256")

    def text() -> str:
        rows = [
            ("output", "R2 %"),
            *((n, f"{v:.2f}") for n, v in zip(loaded.manifest.outputs, result["r2_per_output"], strict=True)),
        ]
        rows.append(("variance-weighted", f"{result['r2']:.2f}"))
        note = (
            "\nnote: this bundle was trained on this session; only its validation trials are held out"
            * result["seen_in_training"]
        )
        note += "\nnote: these trials are generated; what is scored on them is no evidence" * result["generated_trials"]
        units = "/".join(dict.fromkeys(loaded.manifest.units))
        return f"{table(rows)}\nRMSE {result['rmse']:.4g} {units}, {result['bins']} bins, {result['trials']} trials{note}"

    emit(result, as_json, text)


@click.command("recalibrate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("session", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory of the new generation; must not exist.")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="YAML with 'align' and 'gate' settings.")
@trials_option
@seed_option
@as_json
def recalibrate_command(
    bundle: Path, session: Path, out: Path, config: Path | None, trials: str, seed: int, as_json: bool
) -> None:
    """Align BUNDLE to SESSION without labels, gate the result, write it as a new generation beside the old one.

    Only the counts of the chosen rewarded trials are used; kinematics and targets are never read. SESSION may have other channels
    than the bundle: they are then registered to the source day's, or refused. A candidate that the gate refuses is not written
    (exit status 3), and neither is one for a day whose drift score says that nothing is to be gained (drift.align_from).
    """
    settings = load_config(RecalibrateConfig, config) if config else RecalibrateConfig()
    judge = Gates(settings.gates)
    claim_directory(out, error=BundleError)
    loaded, day = load_bundle(bundle), io.load(session)
    refuse_generated(day, "alignment")
    calibration = unlabelled(day, parse_trials(trials, day), loaded.manifest.run_in)
    drift = None
    if calibration.channels == loaded.manifest.channels:  # units that must be registered first have no score yet
        drift = score(loaded, loaded.read_in, calibration, settings.drift.align_from)
        if drift.verdict == "do not align":
            raise Refused(f"{out}: not written: {drift.sentence}")
    with staged_progress(as_json) as progress:
        candidate = align(loaded, calibration, settings.align, seed, lambda done, total: progress("alignment", done, total))
    verdict = judge(loaded, loaded.read_in, candidate.read_in, calibration, settings.gate, candidate.matched, candidate.core)
    if not verdict.accepted:
        raise Refused(f"{out}: not written, the gate refused the candidate: {verdict.reason}")
    record = candidate.record | {"session": day.name, "counts_sha256": day.fingerprint(), "gate": list(verdict.checks)}
    made = save_generation(loaded, candidate.read_in, out, record, candidate.channels, candidate.core)
    result = {
        "bundle": str(out),
        "generation": made.manifest.generation,
        "trials": len(calibration),
        "channels": len(candidate.channels),
        "stages": record["stages"],
        "changed_channels": record["changed_channels"],
        "drift": None if drift is None else {"score": drift.value, "parts": drift.parts},
        "accepted": True,
        "checks": list(verdict.checks),
        "seed": seed,
    }

    def text() -> str:
        rows = [("gate", "found", "expected"), *((str(c["name"]), str(c["value"]), str(c["bound"])) for c in verdict.checks)]
        changed = f"{len(record['changed_channels'])} of {len(candidate.channels)} channels found to have changed their tuning"
        told = "" if drift is None else f"{drift.sentence}\n"
        return (
            f"{out}: written as generation {made.manifest.generation} ({len(calibration)} trials)\n{told}"
            f"{table(_stage_rows(record['stages']))}\n{changed}\n\n{table(rows)}"
        )

    emit(result, as_json, text)


def _stage_rows(stages: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of what every stage of an alignment left of the objective's two terms: lower is better."""
    rows = []
    for s in stages:
        share = f", {100 * s['share']:.0f} % of the way" if "share" in s else ""
        rows.append((f"{s['stage']}{share}", f"{s['denoising']:.4f}", f"{s['kl']:.4f}"))
    return [("stage", "denoising", "KL"), *rows]
