"""The latents of a day beside those of the source day, in the plane that carries the source day's movement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bci_align.report.style import COLOUR, Role, figure

Floats = NDArray[np.float64]

SHARES = (0.5, 0.9)
"""Shares of the bins that the contours hold."""


class Cloud(NamedTuple):
    """Latents (n, d) of one ``role``, whitened on the source day."""

    title: str
    latents: Floats
    role: Role


def movement_plane(latents: Floats, kinematics: Floats) -> Floats:
    """Two orthonormal axes (d, 2) of source-day ``latents`` (n, d) along which ``kinematics`` (n, >= 2) are told best.

    The latents are whitened, so that principal axes would be arbitrary: every direction has the same variance. These are the
    left singular vectors of the regression of the kinematics, each in units of its standard deviation, on the latents.
    """
    y = (kinematics - kinematics.mean(0)) / kinematics.std(0)
    weight, *_ = np.linalg.lstsq(latents - latents.mean(0), y, rcond=None)
    axes, _, turn = np.linalg.svd(weight, full_matrices=False)
    # Turned so that the first axis leans on the first output and the second on the second, with their signs.
    return np.asarray((axes @ turn)[:, :2])


def latents(source: Cloud, targets: Sequence[Cloud], plane: Floats, names: Sequence[str]) -> Figure:
    """Density contours in the ``plane`` (d, 2): each of ``targets`` over the ``source`` day, one panel each, same limits.

    ``names`` are the two outputs that the plane's axes lean on.
    """
    flat = [c.latents @ plane for c in (source, *targets)]
    reach = 1.1 * float(np.percentile(np.abs(np.concatenate(flat)), 99.9))
    with figure(3.7) as fig:
        axes = fig.subplots(1, len(targets), squeeze=False, sharex=True, sharey=True)[0]
        for ax, cloud, points in zip(axes, targets, flat[1:], strict=True):
            _contours(ax, flat[0], COLOUR[source.role], reach, filled=True)
            _contours(ax, points, COLOUR[cloud.role], reach, filled=False)
            ax.plot(*points.mean(0), "x", color=COLOUR[cloud.role], ms=7, mew=2)
            ax.plot(*flat[0].mean(0), "+", color="#303030", ms=9, mew=1.4)
            ax.set_title(cloud.title, color=COLOUR[cloud.role])
            ax.set_aspect("equal")
            ax.set_xlabel(f"latent axis of {names[0]} (source SD)")
        share = " and ".join(f"{100 * s:.0f} %" for s in SHARES)
        handles: list[Artist] = [Patch(color="#D0D0D0", label=f"Day 0 ({share} of the bins)")]
        handles += [Line2D([], [], color=COLOUR[c.role], lw=2, label=c.title) for c in targets]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        axes[0].set_ylabel(f"latent axis of {names[1]} (source SD)")
    return fig


def _contours(ax: Axes, points: Floats, colour: str, reach: float, *, filled: bool) -> None:
    """Contours that hold :data:`SHARES` of ``points`` (n, 2)."""
    cells = 80
    edges = np.linspace(-reach, reach, cells + 1)
    density, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))
    density = _smooth(density.T, width=0.28 * cells / (2 * reach))
    centres = (edges[1:] + edges[:-1]) / 2
    ranked = np.sort(density.ravel())[::-1]
    held = np.cumsum(ranked) / max(ranked.sum(), 1e-12)
    levels = sorted({float(ranked[min(int(np.searchsorted(held, s)), len(ranked) - 1)]) for s in SHARES})
    if filled:
        ax.contourf(centres, centres, density, [*levels, max(float(density.max()) * 1.01, levels[-1] + 1e-9)],
                    colors=["#E2E2E2", "#BDBDBD"][-len(levels):])  # fmt: skip
    else:
        ax.contour(centres, centres, density, levels, colors=[colour], linewidths=[1.2, 2.0][-len(levels) :])


def _smooth(density: Floats, width: float) -> Floats:
    """Gaussian smoothing of a grid along both axes; ``width`` is the standard deviation in cells."""
    half = min(max(int(4 * width), 1), len(density) // 2 - 1)
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / max(width, 0.3)) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        density = np.apply_along_axis(lambda row: np.convolve(row, kernel, mode="same"), axis, density)
    return density
