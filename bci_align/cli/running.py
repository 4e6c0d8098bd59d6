"""``run``: the live system on a rig."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from bci_align.cli.common import as_json, emit
from bci_align.config import LiveConfig
from bci_align.config import load as load_config
from bci_align.errors import BciAlignError
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.team import START_S

_NOTED = ("died", "missed", "log_failed", "record_failed", "dropped", "failed_closed")


@click.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@as_json
def run_command(config: Path, as_json: bool) -> None:
    """Decode a live rig as CONFIG.yaml says, and recalibrate while it runs. Ctrl-C, or 'bci-align control stop', stops it.

    Examples: configs/lsl.yaml, configs/zmq.yaml.
    """
    settings = load_config(LiveConfig, config)
    started = time.monotonic()
    summary: dict[str, Any] = {"why": "stopped", "bins": 0, "swaps": [], "refusals": [], "notes": []}

    def hear(report: dict[str, Any]) -> None:
        count(report, summary)
        if not as_json and settings.log == "normal" and (line := sentence(report)):
            click.echo(f"{time.monotonic() - started:8.1f} s  {line}")

    try:
        with LiveSystem(settings) as live:
            try:
                live.wait_ready(settings.source.connect_timeout_s + START_S)
                while live.decoding:
                    for report in live.poll(0.5):
                        hear(report)
            finally:
                # However it ends, what was decoded and decided until then is told.
                status = live.status()
                summary.update({k: status[k] for k in ("bins", "late", "bad", "faults", "episodes")})
                summary["gaps"] = status["lost"]
                summary["restarts"] = {who: p["restarts"] for who, p in status["processes"].items() if p["restarts"]}
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
        keys = ("gaps", "late", "bad", "malformed_events")
        counted = "".join(f", {summary[k]} {k.replace('_', ' ')}" for k in keys if summary.get(k))
        lines = [f"ended: {summary['why']}; {summary['bins']} bins{counted}; swaps: {swaps}"]
        if faults := summary.get("faults"):
            each = (f"{name} {bins} bins in {summary['episodes'].get(name, 0)} episodes" for name, bins in faults.items())
            lines.append(f"faults: {', '.join(each)}")
        if restarts := summary.get("restarts"):
            lines.append(f"started anew: {', '.join(f'{who} {n} times' for who, n in restarts.items())}")
        return "\n".join(lines)

    emit(summary, as_json, text)


def count(report: dict[str, Any], summary: dict[str, Any]) -> None:
    """Keep what the summary of a run needs."""
    kind = report["report"]
    if kind == "swapped":
        summary["swaps"].append({"bin": report["bin"], "generation": report["generation"]})
    elif kind == "rolled_back":
        summary["notes"].append(sentence(report))
    elif kind == "verdict" and not report["accepted"]:
        summary["refusals"].append(report["reason"])
    elif kind == "ended":
        summary.update({k: report[k] for k in ("why", "bins", "gaps", "bad", "malformed_events")})
    elif kind in _NOTED and (line := sentence(report)):
        summary["notes"].append(line)


def sentence(r: dict[str, Any]) -> str | None:
    """One line for people, or None for what only a program wants to know."""
    kind = r["report"]
    known = _SENTENCES.get(kind)
    if kind == "ready" and r["from"] == "decoder":
        what = f"{r['channels']} channels, bins of {r['bin_s']:g} s, generation {r['generation']}"
        return f"decoding {r['stream']}: {what}, {r['scheduler']}"
    if kind == "verdict":
        said = "accepted" if r["accepted"] else "refused"
        return f"generation {r['generation']} {said}: {r['reason']} ({r['seconds']:.1f} s)"
    if kind == "shadow":
        said = "passed" if r["passed"] else "failed"
        return f"generation {r['generation']} {said} its shadow of {r['bins']} bins"
    if kind == "died":
        again = (
            "it stays down"
            if r["again_s"] is None
            else f"it is replaced in {r['again_s']:g} s"
            if r["again_s"]
            else "it is replaced"
        )
        return f"the {r['who']} died ({r['reason']}); {again}"
    if kind == "standing_by":
        return f"the standby cannot load what is committed: {r['broken']}" if r["broken"] else None
    return known.format(**r) if known else None


_SENTENCES = {
    "link": "{sentence}",
    "fault_episode": "{sentence}",
    "status": "{sentence}",
    "failed_closed": "the output is zero: {sentence}",
    "drift": "{sentence}",
    "aligning": "aligning generation {generation} on {trials} trials",
    "swapped": "swapped: generation {generation} decodes from bin {bin} on",
    "committed": "generation {generation} is committed: {reason}",
    "rolled_back": "generation {generation} is taken back, generation {to} decodes from bin {bin} on: {reason}",
    "dropped": "generation {generation} dropped: {reason}",
    "frozen": "the output is frozen",
    "resumed": "the output is free again",
    "missed": "the {from} missed {records} records",
    "record_failed": "{reason}",
    "log_failed": "cannot be written: {reason}",
}
