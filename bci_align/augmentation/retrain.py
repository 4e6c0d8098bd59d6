"""Refitting a decoder on labelled trials with as many generated ones as held-out trials say, none if they say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bci_align.augmentation.moments import Moments, as_wiener, lagged, windows_as_stream
from bci_align.augmentation.trials import Index, TrialSet
from bci_align.config import RetrainConfig
from bci_align.decoders import Floats, Wiener
from bci_align.errors import AugmentationError
from bci_align.session.types import Session

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Ridges tried, per bin, in squared units of features; real trials alone are given the same choice."""

DRAWS, MOST = 4, 240
"""Generated trials for each that the largest ratio asks for, together weighing what it asks for: fewer would bring in the scatter
of their own spikes. And the most per target that are worth their time."""

LEAST_SHARE = 0.25
"""Of the trials that generated ones are to weigh as: where the screen lets fewer through, none are taken."""

Featured = Callable[[NDArray[np.float32], Sequence[int]], Floats]
"""Counts (T, C) and the bins before which lies a gap -> features (T, d): latents, or counts in units of noise."""


@dataclass(frozen=True)
class Choice:
    """How many generated trials per real one, and which ridge; ``table`` has R2 (%) on the held-out trials by ratio.

    The ratio that was used may be smaller than the one that was proved (:func:`carried_over`).

    ``gain`` and ``error``: mean of the held-out trials' paired gain of the best ratio over no generated trials, and its standard
    error, in shares of the variance. ``yields``: share of generated trials that passed each test; of those that were used, or,
    with none, of those that the decision was made on. ``used``: generated trials that the decoder was fitted on. ``reason``: why
    a model's trials were left out, empty where they were not.
    """

    ratio: float
    ridge: float
    table: dict[float, float]
    gain: float
    error: float
    yields: dict[str, float] = field(default_factory=dict)
    used: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Made:
    """Generated ``trials``, as many, and the ``sums`` over their bins."""

    sums: Moments
    trials: int


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
        spread = np.ptp(np.concatenate([session.kinematics[r] for r in rows]), axis=0)
        for name, found in zip(session.kinematics_names, spread, strict=True):
            if not found > 0:
                raise AugmentationError(
                    f"session {session.name!r}: kinematics: expected {name!r} to vary over the {len(trials)} trials, "
                    "found a constant"
                )
        self._sums: dict[bytes, Moments] = {}

    def generated(self, trials: TrialSet) -> Made | None:
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
        return Made(Moments.of(lagged(f, rows, self.lags, breaks), y), n)

    def fit(self, rows: Index, made: Made | None, ratio: float, ridge: float) -> Floats:
        """Weights from the real trials ``rows`` (indices) and ``ratio`` times their bins of generated ones.

        No generated trial weighs more than a real one does on average: where there are fewer than ``ratio`` asks for, their
        share is smaller.
        """
        real = self._real(rows)
        if made is not None and ratio > 0:
            real = real.plus(made.sums, min(ratio, made.trials / len(rows)) * real.bins / made.sums.bins)
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
        found = float(np.square(y - y.mean(0)).sum())
        if not found > 0:
            raise AugmentationError(
                f"kinematics: expected some that vary over the {len(rows)} trials to score on, found constants"
            )
        return found

    def r2(self, weights: Floats, rows: Index) -> float:
        """R2 (%) over all bins of ``rows``, outputs weighed in units of ``scale``."""
        return float(100 * (1 - self.errors(weights, rows).sum() / self.variation(rows)))

    def decoder(self, weights: Floats) -> Wiener:
        """The decoder of :meth:`fit`."""
        return as_wiener(weights, self.lags)


def choose(
    ground: Ground, training: Index, held_out: Index, made: Made | None, config: RetrainConfig, yields: dict[str, float]
) -> Choice:
    """Choose ratio and ridge on ``held_out`` trials that neither the decoder nor what made ``made`` has seen.

    No generated trials are taken unless the best ratio's gain over real trials alone, paired trial by trial and each at its best
    ridge, is more than nothing with ``confidence`` (Student's t, one-sided, Bonferroni over the ratios): the fallback is zero.
    """
    ratios = sorted({0.0, *config.ratios}) if made is not None else [0.0]
    variation = ground.variation(held_out) / len(held_out)
    best: dict[float, tuple[float, float, Floats]] = {}
    for ratio in ratios:
        tried = [(ridge, ground.errors(ground.fit(training, made, ratio, ridge), held_out)) for ridge in RIDGES]
        ridge, errors = min(tried, key=lambda pair: float(pair[1].sum()))
        best[ratio] = (float(errors.sum()), ridge, errors)
    table = {r: 100 * (1 - e / (variation * len(held_out))) for r, (e, _, _) in best.items()}
    offered = min((r for r in best if r > 0), key=lambda r: best[r][0], default=0.0)
    paired = (best[0.0][2] - best[offered][2]) / variation
    gain = float(paired.mean())
    error = float(paired.std(ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else float("inf")
    # The best of several ratios looks good by chance on few trials: each has to be as sure as makes all of them so together.
    surely = 1 - (1 - config.confidence) / max(len(ratios) - 1, 1)
    if offered > 0 and gain > error * float(student.ppf(surely, max(len(paired) - 1, 1))):
        return Choice(offered, best[offered][1], table, gain, error, yields)
    if made is not None and not offered:
        reason = "no ratio but 0 was tried"
    elif made is not None:
        reason = f"no sure gain on {len(held_out)} held-out trials ({100 * gain:.2g} +- {100 * error:.2g} points of R2 at best)"
    else:
        reason = "none of those to prove them on passed the screen" if yields else ""
    return Choice(0.0, best[0.0][1], table, gain, error, yields, reason=reason)


def counts_in_noise(counts: NDArray[np.float32], rows: Index) -> Featured:
    """Features that are counts (T, C) divided by the square root of their mean over the bins ``rows``: their Poisson noise."""
    scale = 1 / np.sqrt(counts[rows].mean(0) + 0.05)

    def features(x: NDArray[np.float32], breaks: Sequence[int]) -> Floats:
        return np.asarray(x * scale, np.float64)

    return features


def carried_over(ratio: float, targets: Floats, real: Floats, proved_beside: int) -> float:
    """Give the ratio beside all trials, of ``real`` targets (n, D), that is worth what ``ratio`` was beside ``proved_beside``.

    Beside real trials of their own target generated ones are a prior, worth so many trials however many real ones there are:
    their ratio falls as the real trials grow more. For ``targets`` (m, D) without real trials it is their share that was proved.
    """
    seen = (np.abs(targets[:, None] - real[None]).max(2) < 1e-6).any(1).mean()
    return float(ratio * (1 - seen * (1 - proved_beside / len(real))))


Maker = Callable[[NDArray[np.float64], int, int], tuple[TrialSet, dict[str, float]]]
"""``(targets (m, D), count per target, seed) -> trials``, those that passed the screen, and each test's yield."""


def augmented(
    ground: Ground,
    held_out: Index,
    proof: Maker,
    full: Maker,
    real: Floats,
    targets: Floats,
    proof_targets: Floats,
    config: RetrainConfig,
    seed: int,
) -> tuple[Floats, Choice]:
    """Weights of the decoder refitted on all real trials with as many generated ones as ``held_out`` trials say, and that choice.

    ``real`` (n, D) are the targets of the ground's trials. ``proof`` has not seen the ``held_out`` ones (indices among them),
    makes trials for ``proof_targets`` (those that it is tried on) and decides the ratio; ``full`` then makes those for
    ``targets`` (m, D), weighed as :func:`carried_over` says. Where its screen lets through less than :data:`LEAST_SHARE` of what
    that asks for, none are used, and the choice says so.
    """
    every = np.arange(len(ground.trials))
    training = np.setdiff1d(every, held_out)
    made, yields = proof(proof_targets, _count(config, len(training), len(proof_targets)), seed)
    choice = choose(ground, training, held_out, ground.generated(made), config, yields)
    if choice.ratio == 0:
        return ground.fit(every, None, 0.0, choice.ridge), choice
    choice = replace(choice, ratio=carried_over(choice.ratio, targets, real, len(training)))
    trials, yields = full(targets, _count(config, len(every), len(targets)), seed + 1)
    asked = choice.ratio * len(every)
    if len(trials) < max(LEAST_SHARE * asked, 1):
        reason = f"{len(trials)} passed the screen, fewer than a quarter of the {asked:.0f} that were to be used"
        alone = choose(ground, training, held_out, None, config, {}).ridge
        choice = replace(choice, ratio=0.0, ridge=alone, yields=yields, reason=reason)
        return ground.fit(every, None, 0.0, alone), choice
    choice = replace(choice, yields=yields, used=len(trials))
    return ground.fit(every, ground.generated(trials), choice.ratio, choice.ridge), choice


def _count(config: RetrainConfig, real: int, targets: int) -> int:
    """Generated trials per target."""
    return int(np.clip(np.ceil(DRAWS * max(config.ratios) * real / targets), DRAWS, MOST))
