"""``control``: orders to a run that is going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bci_align.cli.common import as_json, emit, table
from bci_align.config import ControlConfig, LiveConfig
from bci_align.config import load as load_config
from bci_align.runtime.control import ORDERS, ask


@click.command("control")
@click.argument("order", type=click.Choice(ORDERS))
@click.option("--address", default=None, help="Where the run listens.  [default: tcp://127.0.0.1:5573]")
@click.option(
    "--config", type=click.Path(path_type=Path), default=None, help="YAML of the run, for its address and keys (section control)."
)
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds to wait for the reply.")
@as_json
def control_command(order: str, address: str | None, config: Path | None, timeout: float, as_json: bool) -> None:
    """Give ORDER to a run: its status, freeze or resume its output, align now, promote, roll back, or stop it."""
    settings = load_config(LiveConfig, config).control if config else ControlConfig()
    if address is not None:
        settings = settings.model_copy(update={"address": address})
    reply = ask(settings, order, timeout)
    emit(reply, as_json, lambda: status_text(reply) if order == "status" else _done_text(order, reply))


def _done_text(order: str, reply: dict[str, Any]) -> str:
    if order == "align":
        return f"aligning on {reply['trials']} trials"
    return f"{order}: done, before bin {reply['bin']}" if "bin" in reply else f"{order}: done"


def status_text(s: dict[str, Any]) -> str:
    """The status for people."""
    p, t = s["promotion"], s["trials"]
    last = f", the last one ended in {p['last']['state']}: {p['last']['reason']}" if p["last"] else ""
    lines = [
        f"{s['phase'].lower()}{', frozen' if s['frozen'] else ''}; generation {s['generation']}, committed {s['committed']}",
        f"{s['bins']} bins, {s['lost']} lost, {s['late']} late, {s['bad']} bad",
        f"promotion: {p['state']}{last}",
        f"trials: {t['found']} found, {t['held']} of {t['wanted']} held",
    ]
    if s["faults"]:
        lines.append("faults: " + ", ".join(f"{k} {n}" for k, n in s["faults"].items()))
    rows = [("process", "state", "pid", "restarts")]
    rows += [(who, q["state"], str(q["pid"] or "-"), str(q["restarts"])) for who, q in s["processes"].items()]
    quantiles = ("p50", "p99", "p99.9", "max")
    times = [("latency, ms", *quantiles)]
    times += [(stage, *(f"{1e3 * row[q]:.3f}" for q in quantiles)) for stage, row in s["latency"].items()]
    return "\n".join([*lines, table(rows), table(times)])
