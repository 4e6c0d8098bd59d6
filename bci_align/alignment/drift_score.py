"""Is aligning worth it today? How far unlabelled trials have drifted from the source day under the read-in that decodes them.

Two parts, each blind to what the other sees, and each counted beyond what as many trials of the source day itself would show by
chance (``CHANCE``):

``latents``
    Gaussian KL of the latents to the source's, nats beyond the source day's own: channels that became louder or quieter.
``tuning``
    cosine between the channels' tuning, measured without labels, and the source day's, short of the source day's own: channels
    that hear something else. Re-normalisation hides the first part and not this one.

The score is the points of R2 that both foretell together (``POINTS``, fitted on simulated subjects that no benchmark reports):
0 is a day like the source day, and from 1 on, one point, aligning is worth its risk. How well it follows the true loss is printed
by ``python -m benchmarks.drift``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.evidence import agreement
from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.alignment.start import check
from bci_align.alignment.tuning import Measurement, measure, tuning
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread

POINTS = {"latents": 1.0, "tuning": 60.0}
"""Points of R2 (%) that one nat, and a cosine of one, foretell."""
DRAWS = 20
"""Times that as many trials as today's are drawn from the source day."""
CHANCE = 2.0
"""Standard deviations of those draws that are put down to chance: few trials tell a tuning badly."""
LEAST_TRIALS = 5
"""Fewer trials tell no tuning at all."""


@dataclass(frozen=True)
class DriftScore:
    """``value``: 0 like the source day, 1 the default threshold; ``parts``: what each adds; ``sentence``: why the verdict."""

    value: float
    parts: dict[str, float]
    verdict: Literal["align", "do not align"]
    sentence: str


@dataclass(frozen=True)
class _Day:
    """What the score needs of a block of trials: latents (m, d) of its bins, and the channels' measurement."""

    latents: Tensor
    measured: Sequence[Measurement]
    trials: int

    @classmethod
    def of(cls, bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials) -> _Day:
        model, _ = bundle.models()
        model.set_read_in(read_in)
        block = Block.of(trials, read_in)
        return cls(encode(model, block.x)[block.inside], measure(model, block), len(block))

    def some(self, kept: Tensor) -> _Day:
        """The trials where ``kept`` (n,) is true."""
        bins = kept[self.measured[0].trial]
        cut = [Measurement(m.channels, _centred(m.z[bins]), _centred(m.x[bins]), m.trial[bins]) for m in self.measured]
        return _Day(self.latents[bins], cut, int(kept.sum()))

    def kl(self) -> float:
        return float(gaussian_kl_to_source(self.latents))

    def slope(self) -> Tensor:
        return tuning(list(self.measured)).slope


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


@one_thread()
@torch.no_grad()
def score(bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials, align_from: float = 1.0) -> DriftScore:
    """Score unlabelled ``trials`` decoded with ``read_in``; below ``align_from`` the verdict is 'do not align'.

    Raises :class:`MismatchError` for trials of other channels than the bundle's or another bin width,
    :class:`AlignmentError` for too few.
    """
    check(bundle, trials, LEAST_TRIALS)
    today = _Day.of(bundle, read_in, trials)
    source = _of_source_day(bundle)
    kl, cosine = _of_its_own(source, len(trials))
    found = {"latents": today.kl() - kl}
    if tuple(bundle.manifest.source_channels) == trials.channels:
        found["tuning"] = cosine - agreement(today.slope(), source.slope())
    if not all(np.isfinite(v) for v in found.values()):
        raise AlignmentError(f"drift score: expected finite latents, found {found}")
    parts = {name: max(POINTS[name] * v, 0.0) for name, v in found.items()}
    value = sum(parts.values())
    verdict: Literal["align", "do not align"] = "align" if value >= align_from else "do not align"
    told = ", ".join(f"{name} {v:.2f}" for name, v in parts.items())
    return DriftScore(value, parts, verdict, f"drift score {value:.2f} ({told}), aligned from {align_from:g}: {verdict}")


_days: dict[str, _Day] = {}
_own: dict[int, tuple[float, float]] = {}


def _of_source_day(bundle: Bundle) -> _Day:
    """Measure the source day, once per bundle: it never changes."""
    if bundle.identity not in _days:
        _days.clear()
        _own.clear()
        _days[bundle.identity] = _Day.of(bundle, bundle.source_read_in(), bundle.source_trials())
    return _days[bundle.identity]


def _of_its_own(source: _Day, trials: int) -> tuple[float, float]:
    """Largest KL and least cosine that chance explains: of as many of the source day's own trials (half of them at most).

    The cosine is that with the tuning in the trials that were not drawn.
    """
    n = max(min(trials, source.trials // 2), 1)
    if n not in _own:
        rng, found = np.random.default_rng(0), []
        for _ in range(DRAWS):
            kept = torch.zeros(source.trials, dtype=torch.bool)
            kept[torch.from_numpy(rng.permutation(source.trials)[:n])] = True
            drawn = source.some(kept)
            found.append((drawn.kl(), agreement(drawn.slope(), source.some(~kept).slope())))
        kl, cosine = np.mean(found, 0) + CHANCE * np.std(found, 0) * (1, -1)
        _own[n] = float(kl), float(cosine)
    return _own[n]
