"""``replay``: the live system on a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.bundle.store import load_bundle
from bci_align.cli.common import as_json, emit, staged_progress, table
from bci_align.cli.running import sentence
from bci_align.config import LiveConfig
from bci_align.config import load as load_config
from bci_align.errors import ConfigError
from bci_align.evaluation.replayed import score_replay
from bci_align.evaluation.score import check
from bci_align.report.replayed import report_replay
from bci_align.runtime.replay import ReplayResult, replay
from bci_align.session import io
from bci_align.session.sniff import regular_file


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
    lines += [f"report: {report['report']}"] if "report" in report else []
    return "\n".join([table(rows), *lines])


@click.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@as_json
def run_command(config: Path, as_json: bool) -> None:
    """Decode a live rig as CONFIG.yaml says, and recalibrate while it runs. Ctrl-C stops it.

    Examples: configs/lsl.yaml, configs/zmq.yaml.
    """
    settings = load_config(LiveConfig, config)
    started = time.monotonic()
    summary: dict[str, Any] = {"why": "stopped", "bins": 0, "swaps": [], "refusals": [], "notes": []}

    def hear(report: dict[str, Any]) -> None:
        _count(report, summary)
        if not as_json and settings.log == "normal" and (line := sentence(report)):
            click.echo(f"{time.monotonic() - started:8.1f} s  {line}")

    try:
        with LiveSystem(settings) as live:
            try:
                live.wait_ready(settings.source.connect_timeout_s + READY_S)
                while live.decoding:
                    for report in live.poll(0.5):
                        hear(report)
            finally:
                # However it ends, what was decoded and decided until then is told.
                summary.update({k: v for k, v in live.counters().items() if k in ("bins", "gaps", "bad")})
                for report in live.stop():
                    hear(report)
    except KeyboardInterrupt:
        _tell(summary | {"why": "interrupted"}, as_json)
        raise
    except BciAlignError as e:
        e.details = summary | {"why": str(e)}
        if not as_json:
            _tell(e.details, as_json)
        raise
    _tell(summary, as_json)


def _tell(summary: dict[str, Any], as_json: bool) -> None:
    """Say how a run went."""

    def text() -> str:
        swaps = ", ".join(f"generation {s['generation']} at bin {s['bin']}" for s in summary["swaps"]) or "none"
        counted = "".join(f", {summary[k]} {k.replace('_', ' ')}" for k in ("gaps", "bad", "malformed_events") if summary.get(k))
        return f"ended: {summary['why']}; {summary['bins']} bins{counted}; swaps: {swaps}"

    emit(summary, as_json, text)


def _count(report: dict[str, Any], summary: dict[str, Any]) -> None:
    """Keep what the summary of a run needs."""
    kind = report["report"]
    if kind == "swapped":
        summary["swaps"].append({"bin": report["bin"], "generation": report["generation"]})
    elif kind == "verdict" and not report["accepted"]:
        summary["refusals"].append(report["reason"])
    elif kind == "ended":
        summary.update({k: report[k] for k in ("why", "bins", "gaps", "bad", "malformed_events")})
    elif kind in ("aligner_died", "missed", "log_failed", "dropped") and (line := sentence(report)):
        summary["notes"].append(line)


def sentence(r: dict[str, Any]) -> str | None:
    """One line for people, or None for what only a program wants to know."""
    kind = r["report"]
    if kind == "ready" and r["from"] == "decoder":
        what = f"{r['channels']} channels, bins of {r['bin_s']:g} s, generation {r['generation']}"
        return f"decoding {r['stream']}: {what}, {r['scheduler']}"
    if kind == "aligning":
        return f"aligning generation {r['generation']} on {r['trials']} trials"
    if kind == "verdict":
        said = "accepted" if r["accepted"] else "refused"
        return f"generation {r['generation']} {said}: {r['reason']} ({r['seconds']:.1f} s)"
    if kind == "swapped":
        return f"swapped: generation {r['generation']} decodes from bin {r['bin']} on"
    if kind in ("status", "drift"):
        return str(r["sentence"])
    if kind == "dropped":
        return f"generation {r['generation']} dropped: {r['reason']}"
    if kind == "aligner_died":
        return f"the aligner died ({r['reason']}); decoding goes on without it"
    if kind == "missed":
        return f"the aligner missed {r['records']} records"
    if kind == "log_failed":
        return f"decisions.jsonl: {r['reason']}"
    return None
