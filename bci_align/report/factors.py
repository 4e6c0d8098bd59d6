"""Figures of factors: what each tells of every behaviour, how they run over time, what an alignment left of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.report.style import COLOUR, Role, figure

Floats = NDArray[np.float64]


class Matrix(NamedTuple):
    """One panel of :func:`matrices`: R2 (D, B), not in per cent."""

    title: str
    r2: Floats


class Span(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


def matrices(panels: Sequence[Matrix], factors: Sequence[str], behaviours: Sequence[str]) -> Figure:
    """Factor x behaviour matrices side by side, one grey scale from 0 to 1; every cell has its number."""
    d, b = len(factors), len(behaviours)
    with figure(0.9 + 0.34 * d, min(1.7 + len(panels) * (0.8 + 0.62 * b), 7.2)) as fig:
        axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        size = 8.5 if b * len(panels) <= 12 else 6.5
        for ax, panel in zip(axes, panels, strict=True):
            ax.imshow(panel.r2, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for (i, j), value in np.ndenumerate(panel.r2):
                # A frozen line can be worse than the mean by any amount: what matters is that it is worse.
                text = f"{round(value, 2) + 0.0:.2f}" if value > -1 else "< -1"
                ax.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if value > 0.6 else COLOUR["true"])
            ax.set_xticks(range(b), behaviours, rotation=0 if max(map(len, behaviours)) < 7 else 30, ha="center", fontsize=size)
            ax.set_yticks(range(d), factors)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(panel.title)
        axes[0].set_ylabel("factor")
    return fig


def over_time(
    factors: Sequence[Floats], behaviours: Sequence[Floats], names: Sequence[str], free: Sequence[str], bin_s: float
) -> Figure:
    """Factors (T_i, D) of a few trials end to end, each labelled one over its behaviour (T_i, B); standard deviations.

    A factor is turned and scaled to its behaviour by one line over all the trials, as the label head does.
    """
    z, u = np.concatenate(factors), np.concatenate(behaviours)
    edges = np.cumsum([len(f) for f in factors])[:-1] * bin_s
    time = np.arange(len(z)) * bin_s
    rows = [*names, *free]
    with figure(0.5 + 0.72 * len(rows)) as fig:
        axes = fig.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for d, (ax, name) in enumerate(zip(axes, rows, strict=True)):
            shown = _standard(z[:, d])
            if d < len(names):
                true = _standard(u[:, d])
                known = np.isfinite(true)
                shown = shown * float(np.mean(shown[known] * true[known])) if known.any() else shown
                ax.plot(time, true, color=COLOUR["true"], lw=0.9, label="behaviour")
            ax.plot(time, shown, color=COLOUR["after"], lw=1.3, label="factor")
            for x in edges:
                ax.axvline(x, color="#D0D0D0", lw=0.6, zorder=0)
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
            ax.set_yticks([])
            ax.margins(x=0)
        axes[-1].set_xlabel("time in held-out trials, end to end (s)")
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper right", ncols=2)
    return fig


def _standard(x: Floats) -> Floats:
    return np.asarray((x - np.nanmean(x)) / max(float(np.nanstd(x)), 1e-12))


def intervals(rows: Sequence[str], spans: Sequence[tuple[str, Role, Sequence[Span]]], note: str) -> Figure:
    """R2 of every row with its interval, one colour per entry of ``spans`` (label, role, one span per row)."""
    with figure(0.9 + 0.2 * len(rows) * max(len(spans), 2)) as fig:
        ax = fig.add_subplot()
        for k, (label, role, values) in enumerate(spans):
            y = np.arange(len(rows)) + (k - (len(spans) - 1) / 2) * 0.22
            v = np.array([[s.value, s.low, s.high] for s in values]).clip(min=-1.0)
            ax.hlines(y, v[:, 1], v[:, 2], color=COLOUR[role], lw=2)
            ax.plot(v[:, 0], y, "o", ms=4.5, color=COLOUR[role], label=label)
        ax.set_yticks(range(len(rows)), rows)
        ax.invert_yaxis()
        ax.axvline(0, color="#A0A0A0", lw=0.8)
        ax.set_xlabel(f"R² of the behaviour, told by its factor; {note}")
        ax.set_xlim(right=1.0)
        fig.legend(loc="outside lower center", ncols=len(spans))
    return fig
