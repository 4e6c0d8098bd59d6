"""Label-free descriptions of channels: what a unit looks like on its own, and in the company of units already matched.

Every description comes with its sampling variance (jackknife over trials), so that a unit with few spikes is trusted less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bci_align.alignment.registration.types import Float, Index
from bci_align.errors import AlignmentError, MismatchError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

PHASES = 16
"""Trials of any length are resampled to at most this many parts."""

BLOCKS = 4
"""Parts of a trial in which counts are correlated: enough to tell early from late tuning, few enough to hold several spikes."""

FOLDS = 8
"""Groups of trials that the jackknife leaves out in turn."""

LEAST_TRIALS = 2
"""Fewer trials have no correlations at all."""

HALF_SPIKE = 0.5
"""Added to counts before logarithms: a unit that never fired has a low rate, not none."""

PROFILE = 6
"""Principal components kept of the mean time profiles."""

COMPANY = 16
"""Principal components kept of the correlations with matched units."""


@dataclass(frozen=True)
class Described:
    """Features of C channels: ``value`` (C, F) and ``variance`` (C, F), the sampling variance of each."""

    value: Float
    variance: Float


def check(source: UnlabelledTrials, trials: UnlabelledTrials, read_in: ReadIn) -> None:
    """Refuse days that cannot be compared: other bins, a read-in of another day, or too few trials (AlignmentError)."""
    if abs(source.bin_s - trials.bin_s) > 1e-9:
        raise MismatchError(
            f"calibration trials: expected bins of {source.bin_s:g} s as on the source day, found {trials.bin_s:g} s"
        )
    if len(source.channels) != len(read_in.mean):
        raise MismatchError(
            f"source trials: expected {len(read_in.mean)} channels as in the read-in, found {len(source.channels)}"
        )
    for name, day in (("source", source), ("calibration", trials)):
        usable = sum(len(t) >= 2 for t in day.bodies())
        if usable < LEAST_TRIALS:
            raise AlignmentError(
                f"{name} trials: expected at least {LEAST_TRIALS} of 2 bins or more for registration, found {usable}"
            )


def common_phases(source: UnlabelledTrials, trials: UnlabelledTrials) -> int:
    """Parts into which the trials of both days are cut: no finer than the shorter day's median trial."""
    lengths = [float(np.median([len(t) for t in day.bodies() if len(t) >= 2])) for day in (source, trials)]
    return int(np.clip(min(lengths), 2, PHASES))


def phased(trials: UnlabelledTrials, phases: int) -> Float:
    """Resample every trial to ``phases`` parts of equal length: (n, phases, C) spikes per bin, in an order of its own.

    Trials are sorted by numbers that depend on neither their order nor their channels' order. What is computed afterwards is
    then the same to the last bit however the trials were shuffled.
    """
    cut = []
    for body in trials.bodies():
        if len(body) < 2:
            continue
        edges = np.linspace(0, len(body), phases + 1)
        total = np.concatenate([np.zeros((1, body.shape[1])), np.cumsum(body, 0, dtype=np.float64)])
        below = np.minimum(edges.astype(np.intp), len(body) - 1)
        at = total[below] + (edges - below)[:, None] * (total[below + 1] - total[below])
        cut.append(np.diff(at, axis=0) * (phases / len(body)))
    x = np.stack(cut)
    when = np.arange(1, phases + 1, dtype=np.float64)
    keys = np.round([x.sum((1, 2)), (x * x).sum((1, 2)), x.sum(2) @ when, (x.sum(1) ** 2).sum(1)], 6)
    order = np.lexsort(keys)
    return np.asarray(x[order])


def alone(x: Float) -> Float:
    """Describe each channel of ``x`` (n, P, C) by itself: (C, 3 + P).

    Log mean rate, log Fano factor of parts and of trials, and the mean time profile of square-root counts.
    """
    n, phases, _ = x.shape
    mean = (x.sum((0, 1)) + HALF_SPIKE) / (n * phases)
    rate = np.log(mean)
    parts = np.log((x.var((0, 1)) + 0.5 * mean) / mean)
    whole = np.log((phases * x.mean(1).var(0) + 0.5 * mean) / mean)
    course = np.sqrt(x.mean(0) + HALF_SPIKE / n)
    course = (course - course.mean(0)).T
    return np.column_stack([rate, parts, whole, course])


def company(x: Float, partners: Index) -> Float:
    """Correlations of each channel with ``partners`` (m,): (C, 2 m), of parts around their mean course and of whole trials.

    A channel's correlation with itself is set to 0: it says nothing, and would say it loudly.
    """
    phases, channels = x.shape[1:]
    edges = np.linspace(0, phases, min(BLOCKS, phases) + 1).astype(np.intp)
    blocks = np.add.reduceat(np.sqrt(x), edges[:-1], axis=1)
    blocks = blocks - blocks.mean(0)
    parts = _correlation(blocks.reshape(-1, channels))[:, partners]
    whole = _correlation(blocks.sum(1))[:, partners]
    for c in (parts, whole):
        c[partners, np.arange(len(partners))] = 0
    return np.concatenate([parts, whole], axis=1)


def _correlation(x: Float) -> Float:
    x = x - x.mean(0)
    norm = np.sqrt((x * x).sum(0))
    x = x / np.where(norm > 1e-9, norm, np.inf)
    return np.asarray(x.T @ x)
