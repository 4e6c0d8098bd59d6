"""How every figure looks: one palette, one set of sizes, and a Figure that knows no pyplot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Role = Literal["day 0", "before", "re-normalised", "after", "supervised", "true"]

COLOUR: dict[str, str] = {
    "day 0": "#6E6E6E",
    "before": "#D55E00",
    "re-normalised": "#E69F00",
    "after": "#0072B2",
    "supervised": "#009E73",
    "true": "#1A1A1A",
}
"""One colour per role in every figure: the palette of Okabe & Ito (2008), told apart with any common colour blindness."""

TARGETS = ("#0072B2", "#56B4E9", "#009E73", "#B5A900", "#E69F00", "#D55E00", "#CC79A7", "#1A1A1A")
"""Colours of up to eight targets in order of angle; more begin again. Their places on the page say the same."""

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#404040",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
}

WIDTH_IN = 7.2
"""Inches. The width of a two-column page."""


@contextmanager
def figure(height_in: float, width_in: float = WIDTH_IN) -> Iterator[Figure]:
    """Give an empty figure to draw in; this style holds inside the block alone."""
    with matplotlib.rc_context(RC):
        made = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(made)
        yield made
