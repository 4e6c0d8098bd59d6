"""Figures of one pair: R2 against unlabelled trials, latents before and after, cost against quality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bci_align.comparison.methods import ORACLE, RENORMALISE
from bci_align.comparison.statistics import Floats
from bci_align.comparison.summary import Row, Summary
from bci_align.report.style import COLOUR, Role, figure

LOW, SPREADS = 40.0, 3.0
"""R2 points below the best, and times the median's distance to it, at which an axis ends at the latest: a method that decodes
nothing must not squeeze the others together."""

OURS = ("#0072B2", "#56B4E9", "#004B77")
"""Colours of ours where there is more than one (ablations)."""

RIVAL = "#CC79A7"

RIVAL_COLOURS = ("#6E6E6E", "#CC79A7", "#D55E00", "#8C6BB1", "#1A1A1A")
OUR_MARKERS = ("*", "h", "d", "p")
MARKERS = ("s", "v", "^", "P", "X", "<", ">")
"""Of methods in the cost figure; the numbers of colours and markers share no factor, so that pairs do not come back soon."""

LEAST_S = 1e-3
"""CPU seconds below which a log axis would show the clock and not the method."""

REACH = 1.6
"""How much further than the source day's trials a panel of latents may reach for those of the new day."""


def figures(s: Summary, latents: Mapping[str, Sequence[Floats]]) -> dict[str, Figure]:
    """Every figure that the pair has the data for, by name."""
    made = {}
    if any(r.r2 for r in s.rows):
        made[f"{s.pair}-curve"] = curve(s)
        made[f"{s.pair}-cost"] = cost(s)
    if latents:
        made[f"{s.pair}-latents"] = trial_latents(latents)
    return made


def curve(s: Summary) -> Figure:
    """R2 (%) against the number of trials, mean over seeds with their range.

    Ours, re-normalisation and the best rival; supervised refitting against its labelled ones (dashed).
    """
    lines: list[tuple[str, list[Row], str, bool]] = []
    for k, name in enumerate(list(dict.fromkeys(r.method for r in s.rows if r.kind == "ours"))[: len(OURS)]):
        lines.append((name, _of(s, name), OURS[k % len(OURS)], False))
    lines.append(("re-normalised", _of(s, RENORMALISE), COLOUR["re-normalised"], False))
    if s.best_rival and s.best_rival != RENORMALISE:
        lines.append((f"best rival ({s.best_rival})", _of(s, s.best_rival), RIVAL, False))
    refits = sorted((r for r in s.rows if r.kind == "supervised" and r.r2), key=lambda r: r.trials)
    lines.append(("supervised, labelled trials", refits, COLOUR["supervised"], True))
    with figure(3.4) as fig:
        ax = fig.add_subplot()
        drawn = [line for line in lines if line[1]]
        for k, (label, rows, colour, dashed) in enumerate(drawn):
            # Side by side, so that the seeds' ranges of two methods with as many trials can both be seen.
            x = [r.trials * 1.012 ** (k - (len(drawn) - 1) / 2) for r in rows]
            y = [r.mean or 0.0 for r in rows]
            style = (0, (4, 2)) if dashed else "-"
            ax.plot(x, y, color=colour, ls=style, marker="o", ms=4.5, label=label, zorder=3)
            ax.vlines(x, [min(r.r2 or (0,)) for r in rows], [max(r.r2 or (0,)) for r in rows], color=colour, lw=1.0, alpha=0.7)
        ax.set_xscale("log")
        ticks = _apart(sorted({r.trials for _, rows, _, _ in drawn for r in rows}))
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        _quality_limits(ax, [m for _, rows, _, _ in drawn for r in rows if (m := r.mean) is not None])
        ax.set_xlabel("calibration trials of the new day")
        ax.set_ylabel(f"R² (%), {s.scored} later trials")
        ax.set_title(f"{s.pair} (bars: range over seeds)")
        fig.legend(loc="outside lower center", ncols=2 if len(drawn) > 3 else max(len(drawn), 1))
    return fig


def cost(s: Summary) -> Figure:
    """CPU seconds of fitting (log axis) against R2 (%), mean over seeds: all methods with all of their trials."""
    top = max((r.trials for r in s.rows if r.kind != "supervised"), default=0)
    rows = [
        r
        for r in s.rows
        if r.r2 and r.seconds is not None and (r.method == ORACLE or (r.kind != "supervised" and r.trials == top))
    ]
    rows.sort(key=lambda r: -(r.mean or 0.0))
    means = [r.mean or 0.0 for r in rows]
    x = [max(r.seconds or 0.0, LEAST_S) for r in rows]
    with figure(max(3.2, 0.22 * len(rows) + 0.9)) as fig:
        ax = fig.add_subplot()
        _quality_limits(ax, means)
        low = ax.get_ylim()[0]
        ax.set_xscale("log")
        ax.set_xlim(min(x) / 1.8, max(x) * 1.8)
        ours, rivals = count(), count()
        for r, at, mean in zip(rows, x, means, strict=True):
            colour, marker = _mark(r, ours, rivals)
            label = f"{mean:6.1f}  {r.method}" + (" (below the axis)" if mean < low else "")
            size, order = (9.0, 4) if r.kind == "ours" else (6.5, 3)
            ax.plot(
                at, max(mean, low), marker, color=colour, ms=size, mec="white", mew=0.5, zorder=order, clip_on=False, label=label
            )
        ax.set_xlabel(f"CPU seconds of fitting, one core ({LEAST_S:g}: that or less)")
        ax.set_ylabel(f"R² (%), {s.scored} later trials")
        ax.set_title(f"{s.pair}, {top} calibration trials")
        fig.legend(loc="outside right center", title="R² (%)", alignment="left", labelspacing=0.55)
    return fig


def trial_latents(latents: Mapping[str, Sequence[Floats]], shown: int = 24) -> Figure:
    """Trials as lines in two principal components of the source day's latents: source, and the new day before and after.

    Whitened latents have no principal components bin by bin; those of the trials' means are the plane in which whole movements
    differ most. Trials of the new day go from light to dark in order of time; a cross marks the centre of all bins.
    """
    centre = np.concatenate(list(latents["source"])).mean(0)
    _, size, axes = np.linalg.svd(np.stack([t.mean(0) for t in latents["source"]]) - centre, full_matrices=False)
    share = (size**2 / (size**2).sum())[:2] * 100
    flat = {name: [_smooth(t - centre) @ axes[:2].T for t in trials[:shown]] for name, trials in latents.items()}
    middle, half = _window(flat)
    panels: list[tuple[str, str, Role]] = [
        ("source", "Source day", "day 0"),
        ("before", "New day, source's read-in", "before"),
        ("after", "New day, aligned", "after"),
    ]
    with figure(3.4) as fig:
        grid = fig.subplots(1, 3, sharex=True, sharey=True)
        for ax, (name, head, role) in zip(grid, panels, strict=True):
            shades = _shades(role)
            if name != "source":
                for t in flat["source"]:
                    ax.plot(*t.T, color="#E4E4E4", lw=0.6, zorder=1)
            for k, t in enumerate(flat[name]):
                ax.plot(*t.T, color=shades(0.35 + 0.65 * k / max(len(flat[name]) - 1, 1)), lw=0.8, zorder=2)
            mean = np.concatenate(list(latents[name])).mean(0) - centre
            ax.plot(*(axes[:2] @ mean), "+", color=COLOUR["true"], ms=9, mew=1.6, zorder=4)
            ax.set_title(head, color=COLOUR[role])
            ax.set(xlim=middle[0] + half * np.array([-1, 1]), ylim=middle[1] + half * np.array([-1, 1]), aspect="equal")
            ax.set_xlabel(f"PC 1 ({share[0]:.0f} %)")
        grid[0].set_ylabel(f"PC 2 ({share[1]:.0f} %)")
        handles = [
            Line2D([], [], color="#C4C4C4", lw=2, label="source day's trials (behind)"),
            Line2D([], [], color=COLOUR["after"], lw=0, label="light to dark: order of time"),
            Line2D([], [], color=COLOUR["true"], marker="+", ms=8, mew=1.6, lw=0, label="mean of all bins"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _window(flat: Mapping[str, Sequence[Floats]]) -> tuple[Floats, float]:
    """Middle (2,) and half width of square panels that hold the source day's trials, and the new day's unless far out."""
    source = np.concatenate(list(flat["source"]))
    reach = REACH * np.abs(source).max()
    points = np.concatenate([t for lines in flat.values() for t in lines])
    points = points[(np.abs(points) <= reach).all(1)]
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, 1.05 * float((high - low).max()) / 2


def _of(s: Summary, method: str) -> list[Row]:
    return sorted((r for r in s.rows if r.method == method and r.r2), key=lambda r: r.trials)


def _mark(r: Row, ours: Iterator[int], rivals: Iterator[int]) -> tuple[str, str]:
    """Colour and marker of a method: its role's where it has one, else the next of the rivals'."""
    if r.kind == "ours":
        k = next(ours)
        return OURS[k % len(OURS)], OUR_MARKERS[k % len(OUR_MARKERS)]
    if r.kind == "supervised":
        return COLOUR["supervised"], "D"
    if r.method == RENORMALISE:
        return COLOUR["re-normalised"], "o"
    k = next(rivals)
    return RIVAL_COLOURS[k % len(RIVAL_COLOURS)], MARKERS[k % len(MARKERS)]


def _apart(ticks: Sequence[int]) -> list[int]:
    """Leave out ticks whose labels would touch their right neighbour's on a log axis; the last one stays."""
    kept: list[int] = []
    room = 0.035 * math.log(ticks[-1] / ticks[0]) if len(ticks) > 1 else 0.0
    for t in reversed(ticks):
        if not kept or math.log(kept[-1] / t) > room:
            kept.append(t)
    return kept[::-1]


def _quality_limits(ax: Axes, values: Sequence[float]) -> None:
    """Limits of the R2 axis: most of it for the better half, no further than LOW below the best."""
    top = max(values)
    low = max(min(values), top - min(LOW, max(SPREADS * (top - float(np.median(values))), 3.0)))
    room = max(0.08 * (top - low), 0.3)
    ax.set_ylim(low - room, top + room)


def _shades(role: Role) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list(role, ["#FFFFFF", COLOUR[role]])


def _smooth(trial: Floats, bins: int = 5) -> Floats:
    """Moving average over ``bins`` of (T, d), shorter at the ends: lines that the eye can follow."""
    weight = np.convolve(np.ones(len(trial)), np.ones(bins), "same")[: len(trial)]
    return np.stack([np.convolve(column, np.ones(bins), "same")[: len(trial)] for column in trial.T], axis=1) / weight[:, None]
