"""What the paper claims of codes and of generated trials, as numbers, for any space of codes.

Source: GNOCCHI (McCart et al.), Figures 2 to 4; realism as in LDNS (Kapoor et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from bci_align.augmentation.moments import Moments, lagged, windows_as_stream
from bci_align.augmentation.navigate import Navigator, variables
from bci_align.augmentation.spaces import Space
from bci_align.augmentation.trials import Array, TrialSet

Floats = NDArray[np.float64]
RIDGE = 1e-2
STEPS = (-1.0, -2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0)
"""Seven values of a traversal, in units of half the range of the target's coordinate."""
LEAST_SLOPE = 0.1
"""Of a traversal, for what it changes to be said per way gone."""
READ_LAGS, READ_RIDGE = 6, 0.1
HALVES = 16
"""Random pairs of real trials' halves whose mean is the floor of realism: one pair's is two or three times another's."""


def _ridge(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    mean, middle = x.mean(0), y.mean(0)
    penalty = RIDGE * len(x) * np.eye(x.shape[1])
    slope = np.linalg.solve((x - mean).T @ (x - mean) + penalty, (x - mean).T @ (y - middle))
    return slope, middle - mean @ slope


def _unit(codes: Array, like: Array) -> Floats:
    """Codes in standard deviations around the mean of those ``like`` them; a number that is constant there counts as 0."""
    c = like.astype(np.float64)
    sd = c.std(0)
    return (codes - c.mean(0)) / np.where(sd > 1e-6 * sd.max(), sd, np.inf)


def code_snr(seen: tuple[Array, Floats], unseen: tuple[Array, Floats]) -> float:
    """Signal to noise of the target (n, D) in codes (n, L): R2 / (1 - R2) of a ridge read-out.

    It is fitted on codes and targets of trials that were ``seen`` in training and scored on those of ``unseen`` ones: codes of
    trials that they were trained on tell more. Below 0: worse than the mean; NaN where the unseen targets are all one.
    """
    slope, bias = _ridge(_unit(seen[0], seen[0]), seen[1])
    error = float(np.square(unseen[1] - _unit(unseen[0], seen[0]) @ slope - bias).sum())
    total = float(np.square(unseen[1] - unseen[1].mean(0)).sum())
    r2 = 1 - error / total if total > 0 else float("nan")
    return r2 / max(1 - r2, 1e-9)


def condition_snr(codes: Array, trials: TrialSet) -> float:
    """Signal to noise of the conditions: trace of the codes' variance between conditions over that within, without bias.

    Of conditions with at least two trials; as in an analysis of variance, the scatter of means of so few trials is taken off. NaN
    where fewer than two conditions have so many.
    """
    many = np.bincount(trials.conditions()[1])[trials.conditions()[1]] > 1
    c, (known, which) = _unit(codes, codes)[many], trials.of(many).conditions()
    n, k = len(c), len(known)
    if k < 2:
        return float("nan")
    sizes = np.bincount(which)
    means = np.stack([c[which == i].mean(0) for i in range(k)])
    within = np.square(c - means[which]).sum() / (n - k)
    between = (np.square(means[which] - c.mean(0)).sum() / (k - 1) - within) / ((n - np.square(sizes).sum() / n) / (k - 1))
    return float(between / max(within, 1e-12))


def rate_r2(space: Space, trials: TrialSet, gain: Floats | None = None, draws: int = 8) -> Floats:
    """R2 (C,) of each neuron's smoothed rate against ``decode(encode(x))``, the mean of ``draws`` samples.

    A neuron whose rate never changes gives NaN.
    """
    codes = space.encode(trials)
    made = np.mean([space.decode(codes, seed)[0] for seed in range(draws)], 0) * (1.0 if gain is None else gain)
    error = np.square(trials.rates - made).sum((0, 1))
    total = np.square(trials.rates - trials.rates.mean((0, 1))).sum((0, 1))
    return np.where(total > 1e-6, 1 - error / np.maximum(total, 1e-12), np.nan)


class Reader:
    """A ridge read-out of kinematics from rates, fitted on real trials: what generated activity is decoded by.

    ``READ_LAGS`` bins of rates in units of their noise.
    """

    def __init__(self, trials: TrialSet) -> None:
        self.scale = (1 / np.sqrt(trials.rates.mean((0, 1)) + 0.02)).astype(np.float32)
        self.spread = trials.kinematics.std((0, 1)) + 1e-12
        y = windows_as_stream((trials.kinematics / self.spread).astype(np.float32))[0]
        self.weights = Moments.of(self._design(trials.rates), y).solve(READ_RIDGE)

    def _design(self, rates: Array) -> Floats:
        stream, breaks = windows_as_stream(rates * self.scale)
        return lagged(stream, np.arange(len(stream)), READ_LAGS, breaks)

    def __call__(self, rates: Array) -> Array:
        """Kinematics (n, T, K), physical units, of rates (n, T, C)."""
        y = (self._design(rates) @ self.weights).reshape(*rates.shape[:2], -1) * self.spread
        return y.astype(np.float32)


def read_variables(reader: Reader, ends: tuple[Floats, Floats], rates: Array, before: int) -> dict[str, Floats]:
    """Variables of generated ``rates`` as the ``reader`` decodes them; ``ends`` (slope, bias) makes a target of an end."""
    kinematics = reader(rates)
    slope, bias = ends
    target = kinematics[:, -4:].mean(1) @ slope + bias
    return variables(TrialSet(rates, rates, kinematics, target), before)


def ends_to_targets(reader: Reader, trials: TrialSet) -> tuple[Floats, Floats]:
    """Least squares of the target on where the decoded movement of real trials ends (its last four bins)."""
    return _ridge(reader(trials.rates)[:, -4:].mean(1).astype(np.float64), trials.target)


def traversal(
    space: Space, navigator: Navigator, trials: TrialSet, before: int, seed: int = 0, most: int = 40
) -> dict[str, float]:
    """Walk along target x and target y with one noise, decode what is generated, and say what moved.

    ``slope``: decoded change of the target over the change asked for (mean of both axes); ``linearity``: R2 of a line through the
    mean decoded values; ``unintended``: absolute change of all *other* variables, each in its standard deviation, summed, over
    the change intended in its standard deviation, ``unintended, of the way gone`` the same over ``slope`` (NaN below a tenth, of
    walks that hardly go anywhere); ``cosine``: |cosine| between the directions of target x and target y, start and speed. What
    the task itself has of them: :func:`of_the_task`.
    """
    reader = Reader(trials)
    ends = ends_to_targets(reader, trials)
    rows = np.random.default_rng(seed).permutation(len(trials))[:most]
    codes = space.encode(trials.of(rows))
    names = [n for n, sd in zip(navigator.names, navigator.sd, strict=True) if np.isfinite(sd)]
    sd = dict(zip(navigator.names, navigator.sd, strict=True))
    slopes, lines, stray = [], [], []
    for name in [n for n in names if n.startswith("target")]:
        at = navigator.names.index(name)
        half = float(np.ptp(trials.target[:, int(at)]) / 2) if at < trials.target.shape[1] else 1.0
        values = [
            read_variables(reader, ends, space.decode(navigator.move(codes, name, step * half), seed, True)[0], before)
            for step in STEPS
        ]
        asked = np.array(STEPS) * half
        got = np.array([v[name] - values[3][name] for v in values])
        mean = got.mean(1)
        fitted = np.polyfit(asked, mean, 1)
        slopes.append(fitted[0])
        left = mean - np.polyval(fitted, asked)
        lines.append(1 - np.square(left).sum() / max(np.square(mean - mean.mean()).sum(), 1e-12))
        other = sum(np.abs(np.array([v[n] - values[3][n] for v in values])).mean(1) / sd[n] for n in names if n != name)
        moved = np.abs(asked) / sd[name]
        stray.append(float(np.sum(other) / moved.sum()))
    slope = float(np.mean(slopes))
    return {
        "slope": slope,
        "linearity": float(np.mean(lines)),
        "unintended": float(np.mean(stray)),
        "unintended, of the way gone": float(np.mean(stray)) / slope if slope > LEAST_SLOPE else float("nan"),
        "cosine": direction_cosine(navigator),
    }


def of_the_task(trials: TrialSet, before: int) -> dict[str, float]:
    """What a walk and codes would show that knew the task alone, under the names of :func:`traversal`.

    ``unintended``: the change of speed alone if the walk's movements were straight, took as long as the trials' own and ended at
    the moved targets, so that speed is proportional to the distance from start to target (least squares). Trials of one distance
    cannot show that it is; ``speed by distance`` is the R2 of that line over them. ``cosine``: mean |partial correlation| of the
    variables over the trials, which is the cosine in codes of unit covariance that hold nothing but the variables; codes that
    hold noise, too, may have less.
    """
    values = variables(trials, before)
    # the walk is in the target's units: where a movement begins and ends is told in them
    kinematics = trials.kinematics.astype(np.float64)
    slope, bias = _ridge(kinematics[:, -4:].mean(1), trials.target)
    start = kinematics[:, : max(before, 1)].mean(1) @ slope + bias
    far = np.linalg.norm(trials.target - start, axis=1)
    per = float((values["speed"] @ far) / np.square(far).sum())
    stray = []
    for axis in np.flatnonzero(trials.target.std(0) > 1e-9 * max(float(np.abs(trials.target).max()), 1e-300)):
        half, unit = float(np.ptp(trials.target[:, axis]) / 2), np.eye(trials.target.shape[1])[axis]
        changes = [
            np.abs(np.linalg.norm(trials.target + step * half * unit - start, axis=1) - far).mean() * per for step in STEPS
        ]
        moved = np.abs(STEPS).sum() * half / trials.target[:, axis].std()
        stray.append(float(np.sum(changes) / values["speed"].std() / moved))
    v = np.stack([x for x in values.values() if x.std() > 1e-9 * max(float(np.abs(x).max()), 1e-300)], 1)
    inverse = np.linalg.pinv(np.atleast_2d(np.corrcoef(v.T)))
    size = np.sqrt(np.diag(inverse))
    partial = np.abs(inverse / np.outer(size, size))[np.triu_indices(len(inverse), 1)]
    left = np.square(values["speed"] - per * far).mean() / max(values["speed"].var(), 1e-300)
    return {
        "unintended": float(np.mean(stray)) if stray else float("nan"),
        "cosine": float(partial.mean()) if len(partial) else float("nan"),
        "speed by distance": float(1 - left),
    }


def direction_cosine(navigator: Navigator) -> float:
    """Mean |cosine| between the directions of all pairs of variables that vary, in raw code space."""
    v = navigator.directions[np.isfinite(navigator.sd)]
    v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    return float(np.abs((v @ v.T)[np.triu_indices(len(v), 1)]).mean())


def held_out_error(space: Space, train: TrialSet, test: TrialSet) -> float:
    """Error of the target (mean distance, task units) that a ridge on ``train``'s codes reads off those of ``test``'s."""
    c = space.encode(train)
    slope, bias = _ridge(_unit(c, c), train.target)
    found = _unit(space.encode(test), c) @ slope + bias
    return float(np.linalg.norm(found - test.target, axis=1).mean())


def realism(made: Array, real: Array) -> dict[str, float]:
    """How counts ``made`` (n, T, C) differ from ``real`` ones (m, T, C) beyond each trial's content.

    ``population KL``: of the distribution of spikes per bin over the array, nats (histograms smoothed alike); ``correlation
    RMSE``: of the neurons' pairwise correlations; ``ISI mean RMSE``, ``ISI sd RMSE``: of each neuron's intervals between spikes,
    in bins (spikes of one bin are spread evenly over it), of neurons with at least 50 intervals in both.
    """
    a, b = made.sum(2).ravel(), real.sum(2).ravel()
    edges = np.arange(0, max(a.max(), b.max()) + 2)
    smooth = max(float(b.std()) / 4, 0.5)
    p, q = (gaussian_filter1d(np.histogram(v, edges)[0].astype(float), smooth, mode="constant") + 1e-3 for v in (a, b))
    p, q = p / p.sum(), q / q.sum()
    flat = [x.reshape(-1, x.shape[2]) for x in (made, real)]
    awake = (flat[0].std(0) > 1e-6) & (flat[1].std(0) > 1e-6)
    upper = np.triu_indices(int(awake.sum()), 1)
    c1, c2 = (np.atleast_2d(np.corrcoef(f[:, awake].T))[upper] for f in flat)
    i1, i2 = intervals(made), intervals(real)
    both = [k for k in range(len(i1)) if len(i1[k]) >= 50 and len(i2[k]) >= 50]

    def rmse(of: Sequence[float] | Floats) -> float:
        return float(np.sqrt(np.mean(np.square(of)))) if len(of) else float("nan")

    return {
        "population KL": float((q * np.log(q / p)).sum()),
        "correlation RMSE": rmse(c1 - c2),
        "ISI mean RMSE": rmse([float(i1[k].mean() - i2[k].mean()) for k in both]),
        "ISI sd RMSE": rmse([float(i1[k].std() - i2[k].std()) for k in both]),
    }


def floor_of_realism(real: Array, size: int, seed: int) -> dict[str, float]:
    """:func:`realism` of ``size`` trials of ``real`` (n, T, C) against as many others, the mean of :data:`HALVES` random pairs.

    Generated trials cannot be expected to be nearer. Where there are too few trials a half is half of them.
    """
    rng, size = np.random.default_rng(seed), min(size, len(real) // 2)
    orders = [rng.permutation(len(real)) for _ in range(HALVES)]
    return averaged([realism(real[o[:size]], real[o[size : 2 * size]]) for o in orders])


def averaged(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every measure, over those ``found`` in which it is known (NaN where it never is)."""
    known = {k: [f[k] for f in found if not np.isnan(f[k])] for k in found[0]}
    return {k: float(np.mean(v)) if v else float("nan") for k, v in known.items()}


def intervals(counts: Array) -> list[Floats]:
    """Intervals (bins) between the spikes of each neuron of ``counts`` (n, T, C), within trials."""
    _, bins, channels = counts.shape
    out = []
    for k in range(channels):
        parts = []
        for trial in counts[:, :, k].astype(int):
            at = np.repeat(np.arange(bins), trial)
            within = np.concatenate([(np.arange(m) + 0.5) / m for m in trial if m]) if trial.any() else np.zeros(0)
            parts.append(np.diff(at + within))
        out.append(np.concatenate(parts))
    return out
