"""``replay``: the live system on a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.bundle.store import load_bundle
from bci_align.cli.common import as_json, emit, staged_progress, table
from bci_align.cli.recordings import replay_recording
from bci_align.cli.running import sentence
from bci_align.config import LiveConfig
from bci_align.config import load as load_config
from bci_align.errors import ConfigError
from bci_align.evaluation.replayed import score_replay
from bci_align.evaluation.score import check
from bci_align.report.replayed import report_replay
from bci_align.runtime.recording import is_recording
from bci_align.runtime.replay import ReplayResult, replay
from bci_align.session import io
from bci_align.session.sniff import regular_file
from bci_align.session.types import GENERATED


class Speed(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A factor of real time, or ``max``."""

    name = "N|max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Give the factor, or None for ``max``."""
        if value is None or isinstance(value, float):
            return value
        if value == "max":
            return None
        try:
            speed = float(value)
            if not 0 < speed < float("inf"):
                raise ValueError
        except ValueError:
            self.fail(f"expected a positive number or 'max', found {value!r}", param, ctx)
        return speed


@click.command("replay")
@click.argument("session", type=click.Path(path_type=Path))
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Bundle that decodes at the start; of a recording: where it is now."
)
@click.option("--verify", is_flag=True, help="Of a recording: decode it again and compare every byte.")
@click.option("--with", "other", type=click.Path(path_type=Path), help="Of a recording: decode it by this bundle instead.")
@click.option("--align", is_flag=True, help="Of a recording: align on its trials and judge again, as --config says.")
@click.option("--over", type=click.Choice(["lsl", "zmq"]), default="lsl", show_default=True, help="Transport, both ways.")
@click.option("--speed", type=Speed(), default="1", show_default=True, help="Factor of real time, or 'max'.")
@click.option(
    "--calibration", type=click.IntRange(0), default=None, help="Rewarded trials to collect before aligning; 0 never aligns."
)
@click.option(
    "--config", type=click.Path(path_type=Path), default=None, help="YAML of the live system; its streams are not used."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory of new generations, audit.jsonl, receipts and report.html; default sessions/replay-NAME.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=None, help="Seed of the alignment.")
@as_json
def replay_command(
    session: Path,
    bundle: Path | None,
    verify: bool,
    other: Path | None,
    align: bool,
    over: str,
    speed: float | None,
    calibration: int | None,
    config: Path | None,
    out: Path | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Play SESSION through a real outlet or socket into the live system, and score what came out.

    With --speed max the player waits while the aligner works, so every run gives the same result; with a number it keeps the
    pace whatever happens, as a rig does.

    Where SESSION is a recording of the live system (recording-*.h5), no stream is made of it: --verify decodes it again and
    compares every byte, --with BUNDLE or --config CONFIG.yaml (checks, safety, promotion; with --align also alignment and gate)
    say what would have been.
    """
    if is_recording(regular_file(session)):
        replay_recording(session, bundle, verify=verify, other=other, config=config, align=align, out=out, as_json=as_json)
        return
    if verify or align or other is not None:
        raise ConfigError(f"{session}: --verify, --with and --align are for recordings of the live system, found something else")
    if bundle is None:
        raise click.UsageError("Missing option '--bundle'.")
    day, first = io.load(session), load_bundle(bundle)
    check(first, day)
    given = load_config(LiveConfig, config) if config else LiveConfig(bundle=str(bundle))
    folder = "".join(c if c.isalnum() or c in "-_" else "_" for c in f"replay-{day.name}")  # a name must not lead elsewhere
    update: dict[str, Any] = {"bundle": str(bundle), "out": str(out or Path(given.out) / folder)}
    if seed is not None:
        update["seed"] = seed
    if calibration is not None:
        times = max(given.recalibrations, 1) if calibration else 0
        update |= {"calibration_trials": max(calibration, 1), "recalibrations": times}
    settings = LiveConfig.model_validate(given.model_dump() | update)
    if settings.recalibrations and settings.calibration_trials >= len(day.rewarded()):
        raise ConfigError(
            f"calibration: expected fewer trials than the session's {len(day.rewarded())} rewarded ones, "
            f"found {settings.calibration_trials}; no trial would be left to decode after a swap"
        )
    with staged_progress(as_json) as progress:
        result = replay(day, settings, over, speed, lambda r: _show(r, progress, as_json))
    swaps = [
        {"bin": s["bin"], "generation": s["generation"], "verdict": s["verdict"]["reason"], "path": s["path"]}
        for s in result.swaps
    ]
    report = {
        "bins_in": result.bins_in,
        "bins_out": result.bins_out,
        "lost": len(result.lost),
        "swaps": swaps,
        "refusals": [r["reason"] for r in result.refusals],
        "notes": result.notes,
        "over": over,
        "speed": speed or "max",
        "generated_trials": GENERATED in day.meta,
        "out": settings.out,
    } | score_replay(first, day, result.outputs, result.generation, swaps)
    if day.kinematics is not None:
        page = Path(settings.out) / "report.html"
        taken = settings.calibration_trials if settings.recalibrations else 0
        report_replay(page, first, day, result.outputs, taken, result.swaps, result.refusals, report)
        report["report"] = str(page)
    emit(report, as_json, lambda: _replay_text(report, result))


def _show(report: dict[str, Any], progress: Any, quiet: bool) -> None:
    """Draw the progress of playing; tell of everything else as it happens."""
    if report["report"] == "playing":
        progress("playing", report["done"], report["total"])
    elif not quiet and (line := sentence(report)):
        click.echo(f"\n{line}", err=True)


def _replay_text(report: dict[str, Any], result: ReplayResult) -> str:
    def percent(key: str) -> str:
        return "-" if report[key] is None else f"{report[key]:.1f}"

    rows = [
        ("R2 %", "live", "same trials, not aligned", "trials"),
        ("before the swap", percent("r2_before"), percent("r2_before"), str(report["trials_before"])),
        ("after the swap", percent("r2_after"), percent("r2_after_unaligned"), str(report["trials_after"])),
    ]
    lines = [f"bins in {report['bins_in']}, out {report['bins_out']}, lost {report['lost']}"]
    lines += [f"swap at bin {s['bin']} to generation {s['generation']} ({s['path']}): {s['verdict']}" for s in report["swaps"]]
    lines += [f"refused: {reason}" for reason in report["refusals"]] + report["notes"]
    lines.append(f"largest |live - offline| on any bin: {report['live_minus_offline']:.2g} source standard deviations")
    lines += ["note: these trials are generated; what is scored on them is no evidence"] * report["generated_trials"]
    lines += [f"report: {report['report']}"] if "report" in report else []
    return "\n".join([table(rows), *lines])
