"""The report: one self-contained HTML page, and its figures as PNG beside it. Nothing is fetched, nothing is run."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from bci_align.atomic import write_file
from bci_align.errors import ConfigError
from bci_align.report.style import WIDTH_IN

TEMPLATE = "page.html.j2"
DPI = 200


@dataclass(frozen=True)
class Table:
    """The table on top: ``columns`` and ``rows`` of as many cells; numbers are shown with one decimal, None as a hyphen."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """One decision of the gate: what it was about, whether it was ``accepted``, why, and every check.

    ``checks`` are those of :class:`bci_align.alignment.gate.Verdict`: mappings of ``name``, ``value``, ``bound``, ``passed``.
    """

    title: str
    accepted: bool
    reason: str
    checks: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Shown:
    """A figure with its caption; ``name`` becomes the name of its PNG and must be a plain word."""

    name: str
    figure: Figure
    caption: str


def write_report(
    path: Path,
    title: str,
    table: Table,
    decisions: Sequence[Decision] = (),
    figures: Sequence[Shown] = (),
    facts: Mapping[str, object] | None = None,
    *,
    lead: str = "",
    overwrite: bool = False,
) -> list[Path]:
    """Write the page to ``path`` and every figure to ``<name>.png`` beside it; gives all paths, the page first.

    ``lead`` is the paragraph under the title; ``facts`` are listed at the end, in their order. Each file is written whole or
    not at all, the page last. Without ``overwrite`` existing files are refused. Raises :class:`ConfigError` for what cannot be
    written and ``ValueError`` for a table whose rows do not fit its columns.
    """
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError(f"expected {len(table.columns)} cells in every row of the table")
    names = [f.name for f in figures]
    if len(set(names)) != len(names) or not all(n.replace("-", "").replace("_", "").isalnum() for n in names):
        raise ValueError(f"expected figures with different plain words for names, found {names}")
    written, embedded = [], []
    for shown in figures:
        data = png(shown.figure)
        file = path.parent / f"{shown.name}.png"
        with write_file(file, overwrite=overwrite, error=ConfigError) as temporary:
            temporary.write_bytes(data)
        written.append(file)
        share = f"{min(shown.figure.get_figwidth() / WIDTH_IN, 1.0):.0%}"  # one size of letters in all figures
        embedded.append({"name": shown.name, "data": base64.b64encode(data).decode(), "caption": shown.caption, "share": share})
    text = _environment().from_string((files(__package__) / TEMPLATE).read_text(encoding="utf-8")).render(
        title=title, lead=lead, table=table, decisions=decisions, figures=embedded, facts=facts or {}
    )  # fmt: skip
    with write_file(path, overwrite=overwrite, error=ConfigError) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [path, *written]


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Render ``figure``; the same figure gives the same bytes.

    Its layout is settled once and then kept: matplotlib's moves a little with every drawing.
    """
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def cell(value: object) -> str:
    """How one value is shown: floats with one decimal, nothing as a hyphen."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def _environment() -> jinja2.Environment:
    """Everything is escaped; a name that the template knows and we forgot is an error, not a blank."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = cell
    environment.tests["numeric"] = lambda v: isinstance(v, (int, float)) or v is None
    return environment
