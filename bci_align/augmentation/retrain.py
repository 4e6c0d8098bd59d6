"""Refitting a decoder on labelled trials with as many generated ones as held-out trials say, none if they say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bci_align.augmentation.moments import Moments, as_wiener, lagged, windows_as_stream
from bci_align.augmentation.trials import Index, TrialSet
from bci_align.config import RetrainConfig
from bci_align.decoders import Floats, Wiener
from bci_align.errors import AugmentationError
from bci_align.session.types import Session

RIDGES = (0.01, 0.03, 0.1, 0.3)
"""Ridges tried, per bin, in squared units of features; real trials alone are given the same choice."""

Featured = Callable[[NDArray[np.float32], Sequence[int]], Floats]
"""Counts (T, C) and the bins before which lies a gap -> features (T, d): latents, or counts in units of noise."""


@dataclass(frozen=True)
class Choice:
    """How many generated trials per real one, and which ridge; ``table`` has R2 (%) on the held-out trials by ratio.

    ``gain`` and ``error``: mean of the held-out trials' paired gain over no generated trials, and its standard error, in shares
    of the variance. ``yields``: share of generated trials that passed each test.
    """

    ratio: float
    ridge: float
    table: dict[float, float]
    gain: float
    error: float
    yields: dict[str, float] = field(default_factory=dict)


class Ground:
    """Real ``trials`` (indices) of ``session`` as the decoder under test sees them.

    ``scale`` (K,) divides the kinematics; ``lags`` are the decoder's; the first ``run_in`` bins of a generated window only settle
    it.
    """

    def __init__(self, session: Session, trials: Index, features: Featured, scale: Floats, lags: int, run_in: int = 0) -> None:
        if session.kinematics is None:
            raise AugmentationError(f"session {session.name!r}: kinematics: expected some to retrain on, found none")
        self.featured, self.scale, self.lags, self.trials = features, scale, lags, trials
        self.run_in = max(run_in, lags - 1)
        f = features(session.counts.astype(np.float32), session.breaks)
        rows = [np.arange(*session.trial_bins(int(i))) for i in trials]
        self.designs = [lagged(f, r, lags, session.breaks) for r in rows]
        self.truths = [session.kinematics[r] / scale for r in rows]
        self._sums: dict[bytes, Moments] = {}

    def generated(self, trials: TrialSet) -> Moments | None:
        """Sums of generated trials, without their run-in; None without trials."""
        if not len(trials):
            return None
        n, bins, _ = trials.counts.shape
        stream, breaks = windows_as_stream(trials.counts)
        f = self.featured(stream.astype(np.float32), breaks)
        if bins <= self.run_in:
            raise AugmentationError(
                f"generated trials: expected more than {self.run_in} bins, the decoder's run-in, found {bins}"
            )
        rows = np.concatenate([np.arange(i * bins + self.run_in, (i + 1) * bins) for i in range(n)])
        y = windows_as_stream(trials.kinematics)[0][rows] / self.scale
        return Moments.of(lagged(f, rows, self.lags, breaks), y)

    def fit(self, rows: Index, made: Moments | None, ratio: float, ridge: float) -> Floats:
        """Weights from the real trials ``rows`` (indices) and ``ratio`` times their bins of generated ones."""
        real = self._real(rows)
        if made is not None and ratio > 0:
            real = real.plus(made, ratio * real.bins / made.bins)
        return real.solve(ridge)

    def _real(self, rows: Index) -> Moments:
        """Sums of the real trials ``rows``, made once."""
        key = np.asarray(rows, np.intp).tobytes()
        if key not in self._sums:
            chosen = [np.concatenate([a[i] for i in rows]) for a in (self.designs, self.truths)]
            self._sums[key] = Moments.of(*chosen)
        return self._sums[key]

    def errors(self, weights: Floats, rows: Index) -> Floats:
        """Squared error (n,) of every real trial in ``rows``, summed over bins and outputs."""
        return np.array([np.square(self.truths[i] - self.designs[i] @ weights).sum() for i in rows])

    def variation(self, rows: Index) -> float:
        """Summed squares of the truth of ``rows`` around its mean."""
        y = np.concatenate([self.truths[i] for i in rows])
        return float(np.square(y - y.mean(0)).sum())

    def r2(self, weights: Floats, rows: Index) -> float:
        """R2 (%) over all bins of ``rows``, outputs weighed in units of ``scale``."""
        return float(100 * (1 - self.errors(weights, rows).sum() / self.variation(rows)))

    def decoder(self, weights: Floats) -> Wiener:
        """The decoder of :meth:`fit`."""
        return as_wiener(weights, self.lags)


def choose(
    ground: Ground, training: Index, held_out: Index, made: Moments | None, config: RetrainConfig, yields: dict[str, float]
) -> Choice:
    """Choose ratio and ridge on ``held_out`` trials that neither the decoder nor what made ``made`` has seen.

    No generated trials are taken unless the best ratio's gain over real trials alone, paired trial by trial and each at its best
    ridge, is more than nothing with ``confidence`` (Student's t, one-sided): the fallback is zero.
    """
    ratios = sorted({0.0, *config.ratios}) if made is not None else [0.0]
    variation = ground.variation(held_out) / len(held_out)
    best: dict[float, tuple[float, float, Floats]] = {}
    for ratio in ratios:
        tried = [(ridge, ground.errors(ground.fit(training, made, ratio, ridge), held_out)) for ridge in RIDGES]
        ridge, errors = min(tried, key=lambda pair: float(pair[1].sum()))
        best[ratio] = (float(errors.sum()), ridge, errors)
    table = {r: 100 * (1 - e / (variation * len(held_out))) for r, (e, _, _) in best.items()}
    ratio = min(best, key=lambda r: best[r][0])
    paired = (best[0.0][2] - best[ratio][2]) / variation
    gain = float(paired.mean())
    error = float(paired.std(ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else float("inf")
    if ratio > 0 and not gain > error * float(student.ppf(config.confidence, max(len(paired) - 1, 1))):
        ratio = 0.0
    return Choice(ratio, best[ratio][1], table, gain, error, yields)


def counts_in_noise(counts: NDArray[np.float32], rows: Index) -> Featured:
    """Features that are counts (T, C) divided by the square root of their mean over the bins ``rows``: their Poisson noise."""
    scale = 1 / np.sqrt(counts[rows].mean(0) + 0.05)

    def features(x: NDArray[np.float32], breaks: Sequence[int]) -> Floats:
        return np.asarray(x * scale, np.float64)

    return features


Maker = Callable[[NDArray[np.float64], int, int], tuple[TrialSet, dict[str, float]]]
"""``(targets (m, D), count per target, seed) -> trials``, those that passed the screen, and each test's yield."""


def augmented(
    ground: Ground,
    held_out: Index,
    proof: Maker,
    full: Maker,
    targets: NDArray[np.float64],
    proof_targets: NDArray[np.float64],
    config: RetrainConfig,
    seed: int,
) -> tuple[Floats, Choice]:
    """Weights of the decoder refitted on all real trials with as many generated ones as ``held_out`` trials say, and that choice.

    ``proof`` has not seen the ``held_out`` trials (indices among the ground's), makes trials for ``proof_targets`` (those that it
    is tried on) and decides the ratio; ``full`` then makes those for ``targets`` (m, D).
    """
    every = np.arange(len(ground.trials))
    training = np.setdiff1d(every, held_out)
    made, yields = proof(proof_targets, _count(config, len(training), len(proof_targets)), seed)
    choice = choose(ground, training, held_out, ground.generated(made), config, yields)
    pool = None
    if choice.ratio > 0:
        pool = ground.generated(full(targets, _count(config, len(every), len(targets)), seed + 1)[0])
    return ground.fit(every, pool, choice.ratio, choice.ridge), choice


def _count(config: RetrainConfig, real: int, targets: int) -> int:
    """Generated trials per target: as many as the largest ratio asks for, but no more than are worth their time."""
    return int(np.clip(np.ceil(max(config.ratios) * real / targets), 4, 30))
