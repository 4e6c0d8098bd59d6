"""Which of several registrations to start from, judged by a score that needs no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bci_align.alignment.registration.types import Float, Registration
from bci_align.errors import AlignmentError
from bci_align.models.read_in import ReadIn

SAME_OUTPUT = 0.8
"""Two registrations count as one where their outputs correlate this well: they agree, and are no rivals."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how clearly.

    ``best`` of the candidates; ``scores`` of all, by method; ``margin``: by how much, relative to the best score's size, the
    ``runner_up``, the best candidate that *differs*, scores higher (None if there is none); ``sure`` if that is enough.
    """

    best: Registration
    scores: dict[str, float]
    margin: float | None
    runner_up: str | None
    sure: bool


def choose(
    candidates: Sequence[Registration],
    score: Callable[[Registration], float],
    outputs: Callable[[Registration], Float],
    least_margin: float,
) -> Choice:
    """Take the candidate with the lowest label-free ``score`` and say how clearly it won.

    A candidate whose score is not finite cannot win. A lone candidate has no margin, and so no rival that casts doubt on it:
    it is sure as far as choosing goes. ``outputs`` (n, K) tell which candidates come to the same thing: what the frozen decoder
    makes of today's trials through the read-in.
    """
    if not candidates:
        raise AlignmentError("registration: expected at least one candidate, found none")
    scores = [float(score(c)) for c in candidates]
    ranked = sorted((i for i in range(len(scores)) if np.isfinite(scores[i])), key=scores.__getitem__)
    if not ranked:
        raise AlignmentError("registration: expected a finite score of at least one candidate, found none")
    best = ranked[0]
    winner = outputs(candidates[best])
    rivals = [i for i in ranked[1:] if likeness_of(winner, outputs(candidates[i])) < SAME_OUTPUT]
    margin = (scores[rivals[0]] - scores[best]) / max(abs(scores[best]), 1e-12) if rivals else None
    return Choice(
        candidates[best],
        {c.method: s for c, s in zip(candidates, scores, strict=True)},
        margin,
        candidates[rivals[0]].method if rivals else None,
        margin is None or margin >= least_margin,
    )


def combined(matching: Registration, rotation: Registration) -> Registration:
    """Halfway between a matching and a rotation that confirm each other: rows and biases averaged, the matching's channels.

    Both estimate the same map and err in ways of their own, so the mean decodes about as well as the better one where one is
    better and better than both where they are alike. The prior cannot choose between such two: on drifted halves of a source
    day it liked the smoother latents of the rotation every time, and the matching decoded better every time.
    """
    a, b = matching.read_in, rotation.read_in
    weight = (a.weight * (a.gain > 0)[:, None] + b.weight * (b.gain > 0)[:, None]) / 2
    gain = np.where(a.gain > 0, a.gain, b.gain)
    mean = np.where(a.gain > 0, a.mean, b.mean)
    read_in = ReadIn(mean, gain, weight.astype(np.float32), ((a.bias + b.bias) / 2).astype(np.float32))
    method = f"{matching.method} and {rotation.method}"
    record = {matching.method: matching.record, rotation.method: rotation.record}
    return Registration(read_in, method, matching.matched, record, averaged=True)


def likeness_of(a: Float, b: Float) -> float:
    """Correlation of outputs (n, K) around their means, all columns together; 0 where one does not move."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0
