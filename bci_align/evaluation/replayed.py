"""Score what came out of a replay: before the swap, after it, and against offline stepping of the same generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.evaluation.metrics import Floats
from bci_align.evaluation.score import score_outputs
from bci_align.session.types import Session


def score_replay(
    bundle: Bundle, session: Session, outputs: Floats, generation: NDArray[np.int64], swaps: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Score live ``outputs`` (T, K) of ``session``, decoded first by ``bundle`` and after each of ``swaps`` by its ``path``.

    Gives ``r2_before`` (rewarded trials that ended before the first swap), ``r2_after`` (those that started after the last),
    ``r2_after_unaligned`` (the same later trials, stepped offline by the old generation: what the swap is worth), None where
    there are no such trials or no kinematics; ``live_minus_offline``, the largest difference on any bin between what came out
    and offline stepping of the generation that made it, in source standard deviations (infinite for an answer that is no number).
    """
    counts = session.counts.astype(np.float32)
    scale = np.array(bundle.manifest.scale)
    difference = 0.0
    offline: dict[int, Floats] = {}
    for made in [bundle, *(load_bundle(Path(s["path"])) for s in swaps)]:
        g = made.manifest.generation
        offline[g] = made.pipeline().run(counts, made.read_in)
        mine = generation == g
        if mine.any():
            worst = float(np.abs((outputs[mine] - offline[g][mine]) / scale).max())
            difference = max(difference, worst if np.isfinite(worst) else np.inf)  # max(0, nan) would be 0
    first = swaps[0]["bin"] if swaps else session.bins
    last = swaps[-1]["bin"] if swaps else session.bins
    rewarded = session.rewarded()
    before = np.array([i for i in rewarded if session.trial_bins(int(i))[1] <= first], np.intp)
    after = np.array([i for i in rewarded if session.trial_bins(int(i))[0] >= last], np.intp)

    def r2(trials: NDArray[np.intp], y: Floats) -> float | None:
        if session.kinematics is None or not len(trials):
            return None
        return float(score_outputs(bundle, session, trials, y)["r2"])

    return {
        "r2_before": r2(before, outputs),
        "r2_after": r2(after, outputs),
        "r2_after_unaligned": r2(after, offline[bundle.manifest.generation]),
        "trials_before": len(before),
        "trials_after": len(after),
        "live_minus_offline": difference,
    }
