"""Unit matching without labels: the evidence for every pair, gathered in rounds, and the read-in that a matching gives.

First each unit is compared by itself (rate, variability, mean time course); the pairs so found are company for the next round, in
which units are compared by how they vary together with them. Rounds end when the matching stops changing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bci_align.alignment.registration import features, likeness
from bci_align.alignment.registration.features import Described
from bci_align.alignment.registration.types import Float, Index
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.signal import normaliser

ROUNDS = 15
"""Most rounds; simulated and real days settled after three to eight."""

Solve = Callable[[Float], Index]
"""Gives ``matched`` (C_t,), -1 for none, for scores (C_s, C_t)."""


@dataclass(frozen=True)
class Matching:
    """``matched`` (C_t,) source channels or -1, ``scores`` (C_s, C_t) in nats that it was found on, and ``rounds`` needed."""

    matched: Index
    scores: Float
    rounds: int

    def total(self) -> float:
        """Sum of the matched pairs' scores, nats."""
        return float(self.scores[self.matched[self.matched >= 0], np.flatnonzero(self.matched >= 0)].sum())


class Evidence:
    """What two days of phased counts ``x`` (n_s, P, C_s) and ``y`` (n_t, P, C_t) say about every pair of channels."""

    def __init__(self, x: Float, y: Float) -> None:
        self.x, self.y = x, y
        a, b = likeness.describe(x, features.alone), likeness.describe(y, features.alone)
        course = likeness.components(_columns(a, 3, None), _columns(b, 3, None), features.PROFILE)
        self.alone = [(_columns(a, 0, 3), _columns(b, 0, 3)), course]

    def first(self) -> Float:
        """Scores (C_s, C_t) of the channels by themselves."""
        return _sum(likeness.score(*pair) for pair in self.alone)

    def given(self, of_source: Index, of_target: Index) -> Float:
        """Scores (C_s, C_t) with matched channels as company; how constant each feature is, is taken from those pairs."""
        a = likeness.describe(self.x, lambda v: features.company(v, of_source))
        b = likeness.describe(self.y, lambda v: features.company(v, of_target))
        pairs = [*self.alone, likeness.components(a, b, features.COMPANY)]
        return _sum(likeness.score(*p, likeness.constancy(*p, of_source, of_target)) for p in pairs)

    def with_target(self, order: Index) -> Evidence:
        """The same evidence with the target's channels in another ``order`` (C_t,)."""
        other = object.__new__(Evidence)
        other.x, other.y = self.x, self.y[:, :, order]
        other.alone = [(a, Described(b.value[order], b.variance[order])) for a, b in self.alone]
        return other


def match(evidence: Evidence, solve: Solve) -> Matching:
    """Match in rounds, all matched channels being company for the next, until a matching comes back that was seen before."""
    scores = evidence.first()
    seen: list[Index] = []
    for at in range(ROUNDS):
        matched = solve(scores)
        if any(np.array_equal(matched, m) for m in seen):
            break
        seen.append(matched)
        j = np.flatnonzero(matched >= 0)
        if len(j) < 2 or at == ROUNDS - 1:
            break
        scores = evidence.given(matched[j], j)
    return Matching(matched, scores, len(seen))


def read_in_of(matched: Index, read_in: ReadIn, trials: UnlabelledTrials) -> ReadIn:
    """The source's weights for matched channels behind a normaliser fitted on today's trials; no weight for the others.

    A channel matched to one that was silent on the source day has no weight either: that one's weights never saw a spike.
    """
    mean, gain = normaliser.fit(trials.bodies())
    known = (matched >= 0) & (read_in.gain[np.maximum(matched, 0)] > 0)
    weight = np.where(known[:, None], read_in.weight[np.maximum(matched, 0)], np.float32(0))
    return ReadIn(mean, np.where(known, gain, np.float32(0)), weight, read_in.bias.copy())


def _columns(d: Described, first: int, stop: int | None) -> Described:
    return Described(d.value[:, first:stop], d.variance[:, first:stop])


def _sum(parts: object) -> Float:
    return np.asarray(sum(parts))  # type: ignore[call-overload]
