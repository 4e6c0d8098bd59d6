"""``doctor``: is this computer fit to decode in front of a participant?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bci_align.cli.common import as_json, emit, staged_progress
from bci_align.config import LiveConfig
from bci_align.config import load as load_config
from bci_align.errors import Unfit
from bci_align.runtime.doctor import Finding
from bci_align.runtime.examination import examine


@click.command("doctor")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="YAML of the live system that shall run here.")
@click.option("--seconds", type=click.FloatRange(1.0, 3600.0), default=20.0, show_default=True, help="Length of the jitter run.")
@as_json
def doctor_command(config: Path | None, seconds: float, as_json: bool) -> None:
    """Look at this computer as a rig's decoder would find it, measure how late it wakes, and say what to change.

    The jitter run takes real decode steps (of the configured bundle, or an untrained one of 96 channels) at deadlines on the
    real-time and on the default scheduler, side by side, while another process keeps a core busy as the aligner does. From it
    follows the tail to expect from a bin's arrival to its output.

    Exit status: 0 when nothing is worse than a warning, 1 with a fault.
    """
    settings = None if config is None else load_config(LiveConfig, config)
    with staged_progress(as_json) as progress:
        findings, facts = examine(settings, seconds, progress)
    faults = [f for f in findings if f.level == "fault"]
    report: dict[str, Any] = {"fit": not faults, "findings": [asdict(f) for f in findings]} | facts
    if not faults or not as_json:
        emit(report, as_json, lambda: lines(findings))
    if faults:
        unfit = Unfit(f"doctor: not fit to decode: {'; '.join(f'{f.name}: {f.found}' for f in faults)}")
        unfit.details = report
        raise unfit


def lines(findings: list[Finding]) -> str:
    """One line per finding, worst at the end, where one looks."""
    order = ("ok", "warning", "fault")
    rows = sorted(findings, key=lambda f: order.index(f.level))
    wide = max(len(f.name) for f in rows)
    text = [f"{f.level:8} {f.name:{wide}}  {f.found}{f' -> {f.change}' if f.change else ''}" for f in rows]
    counts = ", ".join(f"{sum(f.level == level for f in rows)} {level}" for level in order)
    return "\n".join([*text, f"{len(rows)} checks: {counts}"])
