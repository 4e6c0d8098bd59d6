"""Three ways to say which source channel each of today's channels is: by label, in order, and in no order at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from bci_align.alignment.registration import features
from bci_align.alignment.registration.matching import Evidence, Matching, match, read_in_of
from bci_align.alignment.registration.types import Float, Index, Registration
from bci_align.alignment.start import renormalise
from bci_align.errors import MismatchError
from bci_align.models.encoder import ReadIn
from bci_align.session.types import UnlabelledTrials

GAP = -1.0
"""Nats; a pair in order is taken from this score on, since being next in order already speaks for it. Picked on simulated
turnover, on halves of a source day, and with the agreement of matchings of target halves in view; never on a target score."""

GAP_WITHOUT_ORDER = 2.0
"""Nats; without order every channel could be any other, so a pair must speak for itself."""

TRUSTED, GROWTH = 0.2, 0.15
"""Share of the pairs, best margin first, that are company in the first round without order, and its growth per round: early pairs
are mostly wrong, and those that stand out are not."""

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
    found = match(evidence, in_order, _all)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(trials.channels)) for _ in range(shuffles)]
    null = [match(evidence.with_target(o), in_order, _all).total() for o in orders]
    record = _record("order-preserving", found, len(source.channels)) | {"total_score_shuffled": [round(n, 2) for n in null]}
    spread = float(np.std(null)) if shuffles > 1 else 0.0
    record["confidence"] = round((found.total() - float(np.mean(null))) / spread, 2) if spread > 0 else None
    return Registration(read_in_of(found.matched, read_in, trials), "order-preserving", found.matched, record)


def by_features(source: UnlabelledTrials, trials: UnlabelledTrials, read_in: ReadIn) -> Registration:
    """Match the same neurons in any order: the features of :func:`order_preserving`, one-to-one assignment.

    ``record["confidence"]``: median over the busier half of matched channels of the score's margin, nats, to the best other pair
    of either channel. Quiet channels all look alike, and it hardly matters which is which.
    """
    features.check(source, trials, read_in)
    phases = features.common_phases(source, trials)
    evidence = Evidence(features.phased(source, phases), features.phased(trials, phases))
    found = match(evidence, one_to_one, _best, settle=3)
    record = _record("by features", found, len(source.channels))
    margin, rate = (v[found.matched >= 0] for v in (margins(found.scores, found.matched), evidence.y.mean((0, 1))))
    margin = margin[rate >= np.median(rate)] if len(rate) else rate
    record["confidence"] = round(float(np.median(margin)), 2) if len(margin) else None
    return Registration(read_in_of(found.matched, read_in, trials), "by features", found.matched, record)


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


def one_to_one(scores: Float) -> Index:
    """Best matching (C_t,) of ``scores`` (C_s, C_t) in any order; -1 where no pair beats the gap."""
    gain = np.maximum(scores - GAP_WITHOUT_ORDER, 0)
    i, j = linear_sum_assignment(-gain)
    matched = np.full(scores.shape[1], -1, np.intp)
    worth = gain[i, j] > 0
    matched[j[worth]] = i[worth]
    return matched


def margins(scores: Float, matched: Index) -> Float:
    """Score of each target channel's pair above the best other pair of either of its channels (C_t,); -inf for none."""
    j = np.flatnonzero(matched >= 0)
    i = matched[j]
    rest = scores.copy()
    rest[i, j] = -np.inf
    margin = np.full(len(matched), -np.inf)
    margin[j] = scores[i, j] - np.maximum(rest[i].max(1, initial=-np.inf), rest[:, j].max(0, initial=-np.inf))
    return margin


def _all(scores: Float, matched: Index, at: int) -> Index:
    return np.flatnonzero(matched >= 0)


def _best(scores: Float, matched: Index, at: int) -> Index:
    j = np.flatnonzero(matched >= 0)
    count = max(6, int(min(1.0, TRUSTED + GROWTH * at) * len(j)))
    return np.sort(j[np.argsort(-margins(scores, matched)[j], kind="stable")][:count])


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
