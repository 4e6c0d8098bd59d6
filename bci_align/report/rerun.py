"""The figure of a recording that was decoded again: where the two outputs part, and how they look there."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.report.style import COLOUR, figure

_WINDOW_S = 6.0


def two_outputs(
    names: tuple[str, ...],
    units: tuple[str, ...],
    bin_s: float,
    recorded: NDArray[np.float64],
    now: NDArray[np.float64],
    label: str,
) -> Figure:
    """``recorded`` and ``now`` (n, K), one row per sample: their RMS difference in every second, and beside it both of them.

    Both are shown over the stretch of six seconds in which they differ most. ``label`` names what decoded ``now``.
    """
    per_s = max(round(1 / bin_s), 1)
    seconds = max(len(now) // per_s, 1)
    difference = (now - recorded)[: seconds * per_s]
    rms = np.sqrt((difference.reshape(seconds, -1, len(names)) ** 2).mean(axis=1))
    half = int(_WINDOW_S / 2 * per_s)
    middle = int(rms.mean(axis=1).argmax() * per_s + per_s // 2)
    first = max(min(middle - half, len(now) - 2 * half), 0)
    window = slice(first, first + 2 * half)
    t = np.arange(len(now)) * bin_s
    with figure(2.0 * len(names) + 0.6) as fig:
        axes = fig.subplots(len(names), 2, squeeze=False, sharex="col", gridspec_kw={"width_ratios": (1, 1.6)})
        for k, (name, unit) in enumerate(zip(names, units, strict=True)):
            left, right = axes[k]
            left.plot((np.arange(seconds) + 0.5) / 60, rms[:, k], color=COLOUR["day 0"])
            left.set_ylabel(f"{name}: RMS difference ({unit})")
            left.set_ylim(bottom=0)
            right.plot(t[window], recorded[window, k], color=COLOUR["before"], label="recorded")
            right.plot(t[window], now[window, k], color=COLOUR["after"], label=label)
            right.set_ylabel(f"{name} ({unit})")
        axes[-1][0].set_xlabel("Time (min)")
        axes[-1][1].set_xlabel("Time (s), where they differ most")
        fig.legend(*axes[0][1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return fig
