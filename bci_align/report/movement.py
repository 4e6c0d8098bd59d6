"""Figures of the decoded movement itself: traces in time, and paths in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.report.style import COLOUR, TARGETS, Role, figure

Floats = NDArray[np.float64]


class Stretch(NamedTuple):
    """Some seconds of one stream: ``seconds`` (T,), ``true`` (T, K), ``decoded`` by role, each (T, K) with NaN where lost.

    ``trials_s`` are the (start, end) of the trials inside, in the same seconds.
    """

    title: str
    seconds: Floats
    true: Floats
    decoded: dict[Role, Floats]
    trials_s: Sequence[tuple[float, float]] = ()


class Paths(NamedTuple):
    """One panel of :func:`trajectories`: a path (T_i, 2) per trial, from its start at the origin."""

    title: str
    paths: Sequence[Floats]


LABEL: dict[str, str] = {
    "before": "source generation",
    "after": "aligned generation",
    "re-normalised": "re-normalised",
    "supervised": "supervised",
    "day 0": "day 0",
}
"""What a trace of each role is called in a legend."""


def traces(stretches: Sequence[Stretch], names: Sequence[str], unit: str) -> Figure:
    """Decoded beside true kinematics: one column per stretch, one row per output; trials are shaded."""
    rows = len(names)
    with figure(0.7 + 1.35 * rows) as fig:
        widths = [float(s.seconds[-1] - s.seconds[0]) for s in stretches]
        axes = fig.subplots(rows, len(stretches), squeeze=False, sharey="row", sharex="col", width_ratios=widths)
        for column, s in enumerate(stretches):
            for row in range(rows):
                ax = axes[row, column]
                for first, stop in s.trials_s:
                    ax.axvspan(first, stop, color="#F0F0F0", lw=0, zorder=0)
                ax.axhline(0, color="#C8C8C8", lw=0.6, zorder=1)
                ax.plot(s.seconds, s.true[:, row], color=COLOUR["true"], lw=1.1, label="true" if row + column == 0 else None)
                for role, y in s.decoded.items():
                    known = any(role in earlier.decoded for earlier in stretches[:column]) or row > 0
                    ax.plot(s.seconds, y[:, row], color=COLOUR[role], lw=1.5, label=None if known else LABEL[role])
                ax.set_xlim(s.seconds[0], s.seconds[-1])
                if column == 0:
                    ax.set_ylabel(f"{names[row]} ({unit})")
            axes[0, column].set_title(s.title)
            axes[-1, column].set_xlabel("time in the stream (s)")
        fig.legend(loc="outside lower center", ncols=4)
    return fig


def trajectories(panels: Sequence[Paths], target: Floats, unit: str) -> Figure:
    """Paths made of integrated velocity, coloured by target: one panel each for the true, the old and the new decoding.

    ``target`` (n, 2) is where each of the n trials was to go, in the paths' ``unit``; every panel has n paths. All panels share
    their limits, which hold every path of the first panel; a path of another one that runs far out is cut.
    """
    unique, which = np.unique(np.round(target, 6), axis=0, return_inverse=True)
    by_angle = np.argsort(np.mod(np.arctan2(unique[:, 1], unique[:, 0]) + 1e-9, 2 * np.pi))
    rank = np.empty(len(unique), dtype=int)
    rank[by_angle] = np.arange(len(unique))
    colour = [TARGETS[rank[k] % len(TARGETS)] for k in which.ravel()]
    reach = 1.1 * max(_reach(panels), 1.1 * float(np.abs(unique).max()))
    with figure(2.75) as fig:
        axes = fig.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            for path, c in zip(panel.paths, colour, strict=True):
                ax.plot(path[:, 0], path[:, 1], color=c, lw=0.8, alpha=0.75)
                ax.plot(path[-1, 0], path[-1, 1], "o", color=c, ms=2.4, mew=0)
            _targets(ax, unique, [TARGETS[r % len(TARGETS)] for r in rank])
            ax.set_title(panel.title)
            ax.set_aspect("equal")
            ax.set_xlim(-reach, reach)
            ax.set_ylim(-reach, reach)
            ax.set_xlabel(f"x ({unit})")
        axes[0].set_ylabel(f"y ({unit})")
    return fig


def _targets(ax: Axes, places: Floats, colours: Sequence[str]) -> None:
    """Rings where the targets are, and a cross at the start."""
    for place, c in zip(places, colours, strict=True):
        ax.plot(place[0], place[1], "o", ms=11, mfc="none", mec=c, mew=1.4, zorder=4)
    ax.plot(0, 0, "+", color="#404040", ms=7, zorder=4)


def _reach(panels: Sequence[Paths]) -> float:
    """Half the side of a square that holds every path, but is at most half as large again as the first panel needs."""
    each = [max((float(np.abs(p).max()) for p in panel.paths), default=1.0) for panel in panels]
    return min(max(each), 1.5 * each[0])
