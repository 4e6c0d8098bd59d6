"""Channels that sit at one count: since when, and for how long chance alone would let one be silent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float32]
Trail = tuple[Counts, Any]
"""Counts of one bin and the trail of the bins before it, ``()`` at its end: it grows by a bin without being copied."""

IMPROBABLE = 1e-9
"""Probability of a silence, at a channel's own rate, below which it is one: an hour of an array holds a million chances."""


def unchanged_since(trail: Trail, n: int, since: NDArray[np.int64]) -> NDArray[np.int64]:
    """Value of ``n`` at which each channel (C,) came to the count that it has in bin ``n``, the first of ``trail``.

    ``since`` says so of the last bin of the trail. It is asked for at a look, not in every bin, of which only one in dozens is.
    """
    rows = []
    while trail:
        rows.append(trail[0])
        trail = trail[1]
    if len(rows) == 2:  # a channel at fault is looked at in every bin
        return np.where(rows[0] != rows[1], n, since)
    counts = np.array(rows)
    changed = counts[:-1] != counts[1:]
    back = changed.argmax(0)  # bins since the latest change, if there was one
    return np.where(changed[back, np.arange(len(back))], n - back, since)


def silence(mean: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins of silence that have probability :data:`IMPROBABLE` for channels of ``mean`` and ``sd`` (C,) spikes per bin.

    Counts are taken as Poisson, or as negative binomial where they are spread wider: a neuron that bursts is silent for longer.
    Infinite for a channel that never fires.
    """
    with np.errstate(all="ignore"):
        fano = np.maximum(sd * sd / mean, 1.0)
        excess = fano - 1.0
        per_bin = mean * np.where(excess > 1e-6, np.log(fano) / excess, 1.0)
        bins = -math.log(IMPROBABLE) / per_bin
    speaks = (mean > 0) & np.isfinite(sd) & (per_bin > 0)
    return np.where(speaks, bins, np.inf)
