"""Labelled trials as windows of rates and kinematics: what a code model is trained on, and what it generates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError
from bci_align.session.types import Session, bin_of

MOST_COORDINATES = 3
"""Of a target."""
LEAST_BIN_S = 1e-4
"""Seconds; no recording is binned more finely, and a window of such bins would hold no network."""
Array = NDArray[np.float32]
Index = NDArray[np.intp]
LABEL_SHARE = 0.2
"""Variance of all kinematics together, in units of that of all channels."""
STILL = 1e-5
"""Deviation of a kinematic variable, in units of its largest size, below which it is rounding and not movement."""


@dataclass(frozen=True)
class TrialSet:
    """Windows of n trials, T bins each.

    ``counts`` (n, T, C) spikes per bin, ``rates`` (n, T, C) expected spikes per bin, ``kinematics`` (n, T, K) physical units,
    ``target`` (n, D) in the task's own units.
    """

    counts: Array
    rates: Array
    kinematics: Array
    target: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, rows: Index | NDArray[np.bool_]) -> TrialSet:
        """The trials ``rows`` alone."""
        return TrialSet(self.counts[rows], self.rates[rows], self.kinematics[rows], self.target[rows])

    def with_counts(self, counts: Array) -> TrialSet:
        """The same trials with other spikes."""
        return replace(self, counts=counts.astype(np.float32))

    def conditions(self) -> tuple[NDArray[np.float64], Index]:
        """Give the targets that occur, in order, (k, D), and which of them each trial has (n,)."""
        which, inverse = np.unique(np.round(self.target, 6), axis=0, return_inverse=True)
        return which, inverse.reshape(-1)


def joined(*sets: TrialSet) -> TrialSet:
    """All trials of several sets, one after the other."""
    return TrialSet(
        np.concatenate([s.counts for s in sets]),
        np.concatenate([s.rates for s in sets]),
        np.concatenate([s.kinematics for s in sets]),
        np.concatenate([s.target for s in sets]),
    )


def anchors(session: Session, trials: Index) -> Index:
    """Bin (n,) that holds each trial's go cue, its start where it has none."""
    t = session.trials
    when = np.where(np.isnan(t.go_s[trials]), t.start_s[trials], t.go_s[trials])
    return np.array([bin_of(float(w), session.bin_s) for w in when], np.intp)


def window_bins(config: AugmentConfig, bin_s: float) -> tuple[int, int]:
    """Bins of a window before and after the bin of the go cue; together T."""
    if not bin_s >= LEAST_BIN_S:
        raise AugmentationError(f"bin width: expected at least {LEAST_BIN_S:g} s, found {bin_s:g} s")
    before, after = round(config.before_s / bin_s), max(round(config.after_s / bin_s), 1)
    if before + after < 8:
        raise AugmentationError(
            f"before_s and after_s: expected windows of at least 8 bins of {bin_s:g} s, found {before + after}"
        )
    return before, after


def cut(session: Session, trials: Index, config: AugmentConfig) -> tuple[TrialSet, Index]:
    """Cut the windows of ``trials`` (indices) out of ``session``; gives the set and the indices that are in it.

    Rates are :func:`smoothed` counts. A trial whose window would leave its stretch is left out. :class:`AugmentationError` for a
    session without kinematics or targets, where too few trials are left, and for windows that reach into another trial's window
    or into its own bins, which decoders are scored on: a trial that is held out would be seen in its neighbours'.
    """
    if session.kinematics is None:
        raise AugmentationError(f"session {session.name!r}: kinematics: expected some to generate beside rates, found none")
    if session.trials.target is None:
        raise AugmentationError(f"session {session.name!r}: trials.target: expected targets to navigate by, found none")
    _check_targets(session, trials)
    before, after = window_bins(config, session.bin_s)
    starts, kept = [], []
    for trial, at in zip(trials, anchors(session, trials), strict=True):
        first = session.stretch_start(int(at))
        last = next((b for b in (*session.breaks, session.bins) if b > at), session.bins)
        if first <= at - before and at + after <= last:
            starts.append(at - before)
            kept.append(trial)
    if len(kept) < config.min_trials:
        raise AugmentationError(
            f"session {session.name!r}: expected at least {config.min_trials} rewarded trials with {config.before_s:g} s before "
            f"and {config.after_s:g} s after the go cue, found {len(kept)} of {len(trials)}"
        )
    _check_apart(session, np.array(starts), np.array(kept), before + after)
    rows = np.array(starts)[:, None] + np.arange(before + after)
    counts = session.counts[rows].astype(np.float32)
    chosen = np.array(kept, np.intp)
    target = np.asarray(session.trials.target, float)[chosen]
    return TrialSet(counts, smoothed(counts, config, session.bin_s), session.kinematics[rows], target), chosen


def smoothed(counts: Array, config: AugmentConfig, bin_s: float) -> Array:
    """Rates (n, T, C) of the ``counts`` of windows, each smoothed by a Gaussian on its own.

    Nothing of what lies outside is in a window's rates, be it a held-out trial's next to it. At the edges counts are mirrored:
    the mean of a steady rate and the number of spikes stay what they are, at the price of rates that are flat in the last bin.
    """
    rates: Array = gaussian_filter1d(counts.astype(np.float64), config.smoothing_s / bin_s, axis=1, mode="reflect")
    return rates.astype(np.float32)


def _check_apart(session: Session, starts: Index, trials: Index, bins: int) -> None:
    """Refuse windows of ``bins`` from ``starts`` (n,) that share bins, or that hold bins of another of ``trials`` (n,)."""
    own = np.array([session.trial_bins(int(i)) for i in trials]).reshape(-1, 2)
    shared = np.minimum(starts[:, None] + bins, own[:, 1]) - np.maximum(starts[:, None], own[:, 0])
    np.fill_diagonal(shared, 0)
    order = np.argsort(starts, kind="stable")
    apart = np.diff(starts[order])
    near = np.flatnonzero(apart < bins)
    if len(near):
        a, b = (int(trials[order[near[0] + k]]) for k in (0, 1))
        raise AugmentationError(
            f"session {session.name!r}: before_s and after_s: expected windows of at most {apart.min() * session.bin_s:g} s, the "
            f"shortest time between two go cues, found {bins * session.bin_s:g} s: {len(near)} of {len(trials)} windows reach "
            f"into the next one, that of trial {a} into trial {b}'s"
        )
    window, trial = np.unravel_index(shared.argmax(), shared.shape)
    if shared[window, trial] > 0:
        raise AugmentationError(
            f"session {session.name!r}: before_s and after_s: expected windows that hold bins of no other trial, found "
            f"{int((shared > 0).any(1).sum())} of {len(trials)} that do: trial {int(trials[window])}'s holds "
            f"{shared[window, trial] * session.bin_s:g} s of trial {int(trials[trial])} itself"
        )


def _check_targets(session: Session, trials: Index) -> None:
    """Refuse targets that cannot be navigated by."""
    target = np.asarray(session.trials.target, float)
    where = f"session {session.name!r}: trials.target"
    if not 1 <= target.shape[1] <= MOST_COORDINATES:
        raise AugmentationError(f"{where}: expected targets of 1 to {MOST_COORDINATES} coordinates, found {target.shape[1]}")
    bad = [int(i) for i in trials if not np.isfinite(target[i]).all()]
    if bad:
        raise AugmentationError(
            f"{where}: expected finite coordinates, found NaN or infinite ones for {len(bad)} of {len(trials)} trials, "
            f"the first of them trial {bad[0]}"
        )


@dataclass(frozen=True)
class Scaler:
    """Between a trial in its own units and what the networks see: square root of rates, then z-scores, channel by channel.

    Kinematics are few beside channels, and labels: their z-scores are enlarged until they have :data:`LABEL_SHARE` of the
    variance.

    ``mean``, ``sd`` (C + K,) of square-root rates and kinematics; ``channels`` is C.
    """

    mean: Array
    sd: Array
    channels: int

    @classmethod
    def fit(cls, trials: TrialSet) -> Scaler:
        """Fit on training trials; a channel that hardly ever changes gets a deviation of 1, lest its noise be blown up.

        Kinematics have units of their own, and no other yardstick than themselves: metres are learnt as millimetres are. One that
        never changes gets a deviation that is small beside its size.
        """
        x = _raw(trials).astype(np.float64)
        mean, sd = x.mean((0, 1)), x.std((0, 1))
        channels, outputs = trials.rates.shape[2], trials.kinematics.shape[2]
        sd[:channels] = np.where(sd[:channels] > 1e-2 * np.median(sd[:channels]), sd[:channels], 1.0)
        size = np.abs(x[..., channels:]).max((0, 1))
        sd[channels:] = np.maximum(sd[channels:], np.where(size > 0, STILL * size, 1.0))
        sd[channels:] /= max(np.sqrt(LABEL_SHARE * channels / outputs), 1.0)
        return cls(mean.astype(np.float32), sd.astype(np.float32), trials.rates.shape[2])

    def to(self, trials: TrialSet) -> Array:
        """z-scored trials (n, T, C + K)."""
        x: Array = ((_raw(trials) - self.mean) / self.sd).astype(np.float32)
        return x

    def back(self, x: Array) -> tuple[Array, Array]:
        """Rates (n, T, C), never negative, and kinematics (n, T, K) of z-scored trials (n, T, C + K)."""
        y = x * self.sd + self.mean
        return np.square(np.maximum(y[..., : self.channels], 0)), y[..., self.channels :]


def _raw(trials: TrialSet) -> Array:
    return np.concatenate([np.sqrt(trials.rates), trials.kinematics], 2)
