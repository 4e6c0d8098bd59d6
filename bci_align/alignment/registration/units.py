"""Two ways to say which source channel each of today's channels is: by label, and in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from bci_align.alignment.registration import features
from bci_align.alignment.registration.matching import Evidence, Matching, match, read_in_of
from bci_align.alignment.registration.types import Float, Index, Registration
from bci_align.alignment.start import renormalise
from bci_align.errors import MismatchError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

GAP = -1.0
"""Nats; a pair in order is taken from this score on, since being next in order already speaks for it. Picked on simulated
turnover, on halves of a source day, and with the agreement of matchings of target halves in view; never on a target score."""

SHUFFLES = 8
"""Shuffled orders that the matching in order is compared with."""


def identity(source: UnlabelledTrials, trials: UnlabelledTrials, read_in: ReadIn) -> Registration:
    """Same labels, same electrodes: per-channel re-normalisation. Raises MismatchError where labels differ."""
    features.check(source, trials, read_in)
    if source.channels != trials.channels:
        raise MismatchError("identity: expected the source day's channel labels in their order, found others")
    return Registration(renormalise(read_in, trials), "identity", np.arange(len(trials.channels)), {"method": "identity"})


def order_preserving(
    source: UnlabelledTrials, trials: UnlabelledTrials, read_in: ReadIn, shuffles: int = SHUFFLES, seed: int = 0
) -> Registration:
    """Match channels that kept their order while some were lost and others gained (global alignment, Needleman & Wunsch 1970).

    ``record["confidence"]``: by how many standard deviations the matching's total score exceeds that of the whole procedure on
    ``shuffles`` shuffled target orders; about 0 where the order means nothing. None with fewer than two shuffles.
    """
    features.check(source, trials, read_in)
    phases = features.common_phases(source, trials)
    evidence = Evidence(features.phased(source, phases), features.phased(trials, phases))
    found = match(evidence, in_order)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(trials.channels)) for _ in range(shuffles)]
    null = [match(evidence.with_target(o), in_order).total() for o in orders]
    record = _record("order-preserving", found, len(source.channels)) | {"total_score_shuffled": [round(n, 2) for n in null]}
    spread = float(np.std(null)) if shuffles > 1 else 0.0
    record["confidence"] = round((found.total() - float(np.mean(null))) / spread, 2) if spread > 0 else None
    return Registration(read_in_of(found.matched, read_in, trials), "order-preserving", found.matched, record)


def in_order(scores: Float) -> Index:
    """Best matching (C_t,) of ``scores`` (C_s, C_t) that keeps the order of both sides; -1 for none."""
    n, m = scores.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], best[i, :-1] + scores[i] - GAP))
    matched = np.full(m, -1, np.intp)
    i, j = n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matched[j] = i
    return matched


def _record(method: str, found: Matching, of: int) -> dict[str, Any]:
    pairs = int((found.matched >= 0).sum())
    return {
        "method": method,
        "matched": pairs,
        "source_channels": of,
        "target_channels": len(found.matched),
        "rounds": found.rounds,
        "total_score": round(found.total(), 2),
        "mean_score": round(found.total() / pairs, 3) if pairs else None,
    }
