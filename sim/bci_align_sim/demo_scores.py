"""The demonstration's numbers: what was decoded live, and what else could have been done with the same trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.decoders import Wiener, run
from bci_align.evaluation.score import evaluate, rows, score_outputs
from bci_align.report.day import StreamedDay
from bci_align.report.style import Role
from bci_align.runtime.replay import ReplayResult
from bci_align.session.types import Session, unlabelled
from bci_align.signal import normaliser
from bci_align.training.oracle import supervised

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LEAST_LATER = 3
"""Fewest trials after the swap that anything is scored on."""


@dataclass(frozen=True)
class Trials:
    """Day K's rewarded trials (indices).

    ``before`` were over before the swap, ``calibration`` were aligned on, ``later`` began after the swap. Where nothing was
    swapped in, or so late that fewer than :data:`LEAST_LATER` trials began after it, ``swapped`` is false and the calibration
    block's end takes the swap's place.
    """

    before: Indices
    calibration: Indices
    later: Indices
    swapped: bool


@dataclass(frozen=True)
class Row:
    """One line of the table; ``short`` and ``role`` name and colour its bar, which it has none of without a role."""

    name: str
    r2: float
    rmse: float
    trials: int
    short: str = ""
    role: Role | None = None


def split(day_k: Session, calibration: int, replayed: ReplayResult) -> Trials:
    """Which trials came before the swap, were calibrated on, and came after."""
    rewarded = day_k.rewarded()
    block = rewarded[:calibration]
    end = day_k.trial_bins(int(block[-1]))[1]
    if replayed.swaps:
        trials = _around(day_k, block, replayed.swaps[0]["bin"], True)
        if len(trials.later) >= LEAST_LATER:
            return trials
    return _around(day_k, block, end, False)


def _around(day_k: Session, block: Indices, cut: int, swapped: bool) -> Trials:
    rewarded, bounds = day_k.rewarded(), [day_k.trial_bins(int(i)) for i in day_k.rewarded()]
    before, later = np.array([b <= cut for _, b in bounds]), np.array([a >= cut for a, _ in bounds])
    return Trials(rewarded[before], block, rewarded[later], swapped)


def score_rows(
    folder: Path,
    day0: Session,
    day_k: Session,
    replayed: ReplayResult,
    trials: Trials,
    seed: int,
    work: Path,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Row], StreamedDay]:
    """Every row of the table, and the day for its figures.

    The bundles are read from ``folder``; ``work`` takes what need not stay.
    """
    source = load_bundle(folder / "generation-0")
    aligned = load_bundle(folder / "generation-1") if replayed.swaps else None
    counts = day_k.counts.astype(np.float32)
    pipeline = source.pipeline()

    def later(name: str, outputs: Floats, short: str, role: Role) -> Row:
        return _row(f"day K later, {name}", source, day_k, trials.later, outputs, short, role)

    validation = np.array(source.manifest.training["validation_trials"], dtype=np.intp)
    held_out = evaluate(source, day0, validation)
    unaligned = pipeline.run(counts, source.read_in)
    block = unlabelled(day_k, trials.calibration, source.manifest.run_in)
    renormalised = renormalise(source.read_in, block)
    table = [
        Row("day 0, held-out trials", held_out["r2"], held_out["rmse"], held_out["trials"], "day 0, held-out trials", "day 0"),
        _row("day K before the swap, live", source, day_k, trials.before, replayed.outputs),
        later("no alignment (offline)", unaligned, "no alignment", "before"),
        later("re-normalisation only (offline)", pipeline.run(counts, renormalised), "re-normalisation only", "re-normalised"),
    ]
    live = "after the swap, live" if trials.swapped else "live, too late a swap" if aligned else "live, nothing swapped in"
    table.append(later(live, replayed.outputs, live, "after" if trials.swapped else "before"))
    wiener = _wiener_with_labels(source, day_k, trials.calibration)
    table.append(later("Wiener filter trained with labels", wiener, "Wiener filter, with labels", "supervised"))
    progress("oracle (labels)", 0, 1)
    oracle = supervised(source, day_k, trials.calibration, seed, work / "oracle")
    fine_tuned = oracle.pipeline().run(counts, oracle.read_in)
    progress("oracle (labels)", 1, 1)
    table.append(later("oracle: all fine-tuned with labels", fine_tuned, "oracle: fine-tuned, with labels", "supervised"))
    day = StreamedDay(
        day0,
        source,
        day_k,
        replayed.outputs,
        unaligned,
        trials.calibration,
        trials.later,
        aligned,
        replayed.swaps[0]["bin"] if replayed.swaps else None,
    )
    return table, day


def _wiener_with_labels(source: Bundle, session: Session, trials: Indices) -> Floats:
    """What a laboratory does today: a Wiener filter on the counts, trained anew on ``trials`` with their kinematics."""
    assert session.kinematics is not None
    inside, scale = rows(session, trials), np.array(source.manifest.scale)
    counts = session.counts.astype(np.float32)
    mean, gain = normaliser.fit([counts[inside]])
    normal = ((counts - mean) * gain).astype(np.float64)
    # The penalty is the best one on day 0 (50 trials against the others), not on this day.
    return run(Wiener.fit(normal, session.kinematics / scale, inside, ridge=1000.0), normal) * scale


def _row(
    name: str, source: Bundle, session: Session, trials: Indices, outputs: Floats, short: str = "", role: Role | None = None
) -> Row:
    score = score_outputs(source, session, trials, outputs)
    return Row(name, score["r2"], score["rmse"], score["trials"], short, role)
