"""Figures of a day in numbers: scores, the day's course, the stages of the alignment.

Every function takes plain arrays, gives a :class:`matplotlib.figure.Figure` that can be read alone, and touches no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.report.style import COLOUR, Role, figure

Floats = NDArray[np.float64]


class Bar(NamedTuple):
    """One bar of :func:`scores`: its ``label``, ``r2`` in per cent and the ``role`` that colours it."""

    label: str
    r2: float
    role: Role


class Curve(NamedTuple):
    """One curve of :func:`timeline`: ``minutes`` (n,), ``r2`` (n,) in per cent; ``dashed`` for what was decoded offline."""

    label: str
    minutes: Floats
    r2: Floats
    role: Role
    dashed: bool = False


def scores(bars: Sequence[Bar], note: str = "") -> Figure:
    """Horizontal bars of R2 (%), the first on top, each with its number; ``note`` says what they were scored on."""
    with figure(0.75 + 0.36 * len(bars)) as fig:
        ax = fig.add_subplot()
        # A bar of a decoder worse than the mean is cut at the axis; its number is not.
        low = min(0.0, max(min(b.r2 for b in bars), -50.0))
        for y, b in enumerate(bars):
            ax.barh(y, max(b.r2, low), color=COLOUR[b.role], height=0.66)
            ax.text(max(b.r2, 0.0) + 1, y, f"{b.r2:.1f}", va="center", fontweight="bold", color=COLOUR["true"])
        ax.set_yticks(range(len(bars)), [b.label for b in bars])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(low, 106)
        ax.set_xticks([x for x in range(-40, 101, 20) if x >= low])
        ax.axvline(0, color="#404040", lw=0.8)
        ax.set_xlabel(f"R² (%){'; ' + note if note else ''}")
        ax.spines["left"].set_visible(False)
    return fig


def timeline(
    curves: Sequence[Curve],
    calibration_min: tuple[float, float] | None = None,
    swaps_min: Sequence[float] = (),
    lost_min: Floats | Sequence[float] = (),
    trials_per_point: int = 1,
) -> Figure:
    """The day's course: R2 (%) over the stream's time in minutes.

    ``calibration_min`` shades the block of trials that was aligned on; between it and the first swap the aligner worked
    (hatched). ``swaps_min`` are marked by lines, ``lost_min`` by red ticks along the bottom (bins never answered).
    """
    with figure(3.2) as fig:
        ax = fig.add_subplot()
        for c in curves:
            ax.plot(
                c.minutes,
                c.r2,
                color=COLOUR[c.role],
                ls=(0, (3, 2)) if c.dashed else "-",
                lw=1.3 if c.dashed else 2.0,
                label=c.label,
            )
        values = np.concatenate([c.r2 for c in curves]) if curves else np.zeros(1)
        ax.set_ylim(max(min(0.0, float(np.nanmin(values)) - 5), -60.0), 100)
        top = ax.get_xaxis_transform()
        if calibration_min is not None:
            ax.axvspan(*calibration_min, color="#E8E8E8", lw=0, zorder=0, label="calibration trials (no labels)")
            if swaps_min:
                span = (calibration_min[1], swaps_min[0])
                ax.axvspan(*span, fc="none", ec="#DADADA", hatch="////", lw=0, zorder=0, label="aligning beside decoding")
        for k, x in enumerate(swaps_min):
            ax.axvline(x, color=COLOUR["after"], lw=1.2)
            word = "swap" if len(swaps_min) == 1 else f"swap {k + 1}"
            ax.text(x, 1.02, word, transform=top, ha="center", va="bottom", color=COLOUR["after"], fontweight="bold")
        if len(lost_min):
            ax.plot(lost_min, np.full(len(lost_min), 0.02), "|", transform=top, color="#CC0000", ms=9, label="lost bins")
        ax.set_xlabel("time in the stream (min)")
        per = "each trial" if trials_per_point == 1 else f"{trials_per_point} trials together"
        ax.set_ylabel(f"R² (%), {per}")
        ax.set_xlim(left=0)
        ax.margins(x=0.01)
        fig.legend(loc="outside lower center", ncols=3)
    return fig


def stages(record: Sequence[Mapping[str, Any]]) -> Figure:
    """What every stage of an alignment left of the objective's terms.

    ``record``: mappings with ``stage``, ``denoising``, ``kl`` (nats) and perhaps ``share``, of a transfer's way.
    """
    terms = {"denoising": "denoising loss under the prior", "kl": "KL to the source (nats)"}
    names = [str(s["stage"]) + (f"\n({100 * s['share']:.0f} % of the way)" if "share" in s else "") for s in record]
    y = np.arange(len(names))
    with figure(0.9 + 0.42 * len(names), 6.4) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, (key, label) in zip(axes, terms.items(), strict=True):
            ax.plot([s[key] for s in record], y, color=COLOUR["after"], marker="o", ms=3.5)
            ax.margins(x=0.1, y=0.12)
            ax.set_xlabel(label)
        axes[0].set_yticks(y, names)
        axes[0].invert_yaxis()
    return fig
