"""A receipt for every decision on a generation or on the output: what was compared, the numbers, the thresholds, the verdict.

``out/receipts/0007-refused.json`` for programs, ``0007-refused.html`` for people; the number is the entry's in the audit log,
which holds the same content under its chain of hashes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bci_align.atomic import write_file
from bci_align.errors import RuntimeFault
from bci_align.runtime import audit
from bci_align.runtime.reports import Report, dumps

FOLDER = "receipts"

_GATE = "The gate held the candidate, aligned on {trials} trials without labels, to the source day and to the incumbent."

KINDS = {
    "accepted": ("Generation {generation} passed the gate", _GATE),
    "refused": ("Generation {generation} was refused by the gate", _GATE),
    "shadow": (
        "Generation {generation} in the shadow of the incumbent",
        "It decoded {bins} live bins beside the incumbent, and nothing of it was sent.",
    ),
    "swapped": (
        "Generation {generation} leads",
        "Its state has seen the bins from number {warm_from_seq} on, and no trial was running: it decodes from bin {bin} on.",
    ),
    "committed": (
        "Generation {generation} is committed",
        "While it led on probation, its output was held to that of the generation before, which decoded the same bins unheard.",
    ),
    "rolled_back": ("Generation {generation} was taken back", "Generation {to} decodes again from bin {bin} on."),
    "dropped": ("Generation {generation} was dropped", "It never led."),
    "frozen": ("The output is frozen", "By an order: velocity is zero until it is resumed."),
    "resumed": ("The output moves again", "By an order."),
}
"""Decisions that get a receipt: its title, and what was compared or done."""

_CHECK = {"name": "(no name)", "value": "", "bound": "(not told)", "passed": False}

_GOOD = ("accepted", "swapped", "committed", "resumed")


def record(out: Path, decision: str, content: Report) -> int:
    """Append a decision to the audit log and, if it is one of :data:`KINDS`, write its receipt; gives its number in the log.

    :class:`RuntimeFault` when the disk will not take it.
    """
    n = audit.append(out, decision, content)
    if decision in KINDS:
        write(out, decision, content, n)
    return n


def write(out: Path, decision: str, content: Report, n: int) -> Path:
    """Write the receipt of entry ``n`` of the log; gives the page's path. :class:`RuntimeFault` when it cannot be written."""
    folder = out / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise RuntimeFault(f"{folder}: cannot be made a directory ({e.strerror})") from None
    plain: dict[str, Any] = json.loads(dumps(content))
    time = datetime.now(UTC).isoformat(timespec="seconds")
    page = folder / f"{n:04d}-{decision}.html"
    with write_file(page.with_suffix(".json"), error=RuntimeFault) as temporary:
        temporary.write_text(json.dumps({"n": n, "time": time, "decision": decision} | plain, indent=1) + "\n", encoding="utf-8")
    with write_file(page, error=RuntimeFault) as temporary:
        temporary.write_text(_page(decision, plain, n, time), encoding="utf-8")
    return page


def _page(decision: str, content: dict[str, Any], n: int, time: str) -> str:
    environment = Environment(loader=PackageLoader("bci_align.runtime", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"number": _number, "bound": _bound}
    title, compared = KINDS.get(decision, (decision.replace("_", " ").capitalize(), ""))
    good = bool(content.get("passed", decision in _GOOD))
    verdict = content.get("reason") or ("passed" if good else decision.replace("_", " "))
    rest = {k: v for k, v in content.items() if k not in ("checks", "reason")}
    return environment.get_template("receipt.html.j2").render(
        title=title.format_map(_Known(content)),
        compared=compared.format_map(_Known(content)),
        n=n,
        time=time,
        good=good,
        verdict=str(verdict)[:1].upper() + str(verdict)[1:],
        checks=[_CHECK | check for check in content.get("checks") or []],  # a plug-in's gate may say less of its checks
        facts=rest,
    )


class _Known(dict[str, Any]):
    """What is not known of a decision is said to be so."""

    def __missing__(self, key: str) -> str:
        return "(unknown)"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bound(value: object) -> str:
    """A threshold in words: text as it is, a number is the largest allowed, a pair is a range."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2:
        return f"{_number(value[0])} to {_number(value[1])}"
    return f"at most {_number(value)}"
