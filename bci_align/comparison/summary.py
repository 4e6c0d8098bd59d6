"""From outcomes to what is shown: a row per method and number of trials, headlines with intervals, what failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bci_align.comparison.methods import ORACLE, RENORMALISE, Kind, supervised_refits
from bci_align.comparison.pairs import Pair
from bci_align.comparison.run import Outcome, Seed
from bci_align.comparison.statistics import DRAWS, Floats, Resampled, Truth, of_oracle, r2, recovered, resample, worth, worth_text

Key = tuple[str, Kind, int]
"""Name, kind and number of trials of a method."""


@dataclass(frozen=True)
class Row:
    """One method with one number of trials, over seeds; None for what could not be had.

    ``r2`` per seed in %, in order of ``seeds``; ``worst_gain``: least difference of it to re-normalisation on the same trials.
    """

    method: str
    kind: Kind
    trials: int
    seeds: tuple[int, ...]
    r2: tuple[float, ...] | None
    worst_gain: float | None
    of_oracle: float | None
    recovered: float | None
    worth: str
    seconds: float | None
    prior_loss: float | None
    gaussian_kl: float | None
    failed: int

    @property
    def mean(self) -> float | None:
        """Mean R2 (%) over seeds."""
        return float(np.mean(self.r2)) if self.r2 else None


@dataclass(frozen=True)
class Headline:
    """One number of ours beside the best rival's: each with its interval (95 %), and that of their paired difference.

    Intervals are of the bootstrap over seeds and blocks of trials. ``shown`` are the two numbers as a table shows them.
    """

    name: str
    ours: float | None
    ours_interval: tuple[float, float]
    rival: float | None
    difference: float | None
    difference_interval: tuple[float, float]
    shown: tuple[str, str]


@dataclass(frozen=True)
class Summary:
    """One pair: ``rows``; ``headlines`` of each of ours against ``best_rival`` with all unlabelled trials; ``failures``."""

    pair: str
    scored: int
    calibration: int
    labelled: bool
    registered: bool
    rows: tuple[Row, ...]
    best_rival: str | None
    headlines: dict[str, tuple[Headline, ...]]
    failures: tuple[str, ...]

    def row(self, method: str, trials: int) -> Row | None:
        """Find a row."""
        return next((r for r in self.rows if (r.method, r.trials) == (method, trials)), None)


def summarise(pair: Pair, seeds: Sequence[Seed], draws: int = DRAWS) -> Summary:
    """Summarise the ``seeds`` of ``pair``. A method that failed with a seed is averaged over the others, and says so."""
    mine = [s for s in seeds if s.pair == pair.name]
    good = [s for s in mine if s.failed is None]
    failures = [f"seed {s.seed}: {s.failed}" for s in mine if s.failed]
    failures += [
        f"seed {s.seed}: {o.method} with {o.trials} trials: {o.failed}" for s in good for o in s.outcomes if o.failed is not None
    ]
    found: dict[Key, list[tuple[Seed, Outcome]]] = {}
    for s in good:
        for o in s.outcomes:
            found.setdefault((o.method, o.kind, o.trials), []).append((s, o))
    scores = {key: _scores(runs) for key, runs in found.items()}
    means = {key: float(np.mean(list(v.values()))) for key, v in scores.items() if v}
    labelled = pair.target.kinematics is not None
    curve = [means.get((n, "supervised", k), math.nan) for n, k in supervised_refits(pair.calibration).items()]
    rows = tuple(_row(key, runs, scores, means, curve, pair) for key, runs in found.items())
    top = pair.unlabelled_counts[-1]
    rivals = {k[0]: v for k, v in means.items() if k[1] == "rival" and k[2] == top}
    best = max(rivals, key=rivals.__getitem__) if rivals else None
    names = dict.fromkeys(k[0] for k in found if k[1] == "ours")
    headlines = {name: _headlines(name, best, pair, good, draws) for name in names} if best else {}
    return Summary(
        pair.name,
        len(pair.target.rewarded()) - pair.calibration,
        pair.calibration,
        labelled,
        pair.source.channels != pair.target.channels,
        rows,
        best,
        {name: lines for name, lines in headlines.items() if lines},
        tuple(failures),
    )


def _scores(runs: Sequence[tuple[Seed, Outcome]]) -> dict[int, float]:
    """R2 (%) of each seed that has one."""
    return {s.seed: float(r2(s.truth, o.error)) for s, o in runs if s.truth is not None and o.error is not None}


def _row(
    key: Key,
    runs: Sequence[tuple[Seed, Outcome]],
    scores: Mapping[Key, Mapping[int, float]],
    means: Mapping[Key, float],
    curve: Sequence[float],
    pair: Pair,
) -> Row:
    name, kind, trials = key
    mine, value = scores[key], means.get(key, math.nan)
    plain: Key = (RENORMALISE, "rival", trials) if kind != "supervised" else (RENORMALISE, "rival", pair.unlabelled_counts[-1])
    again: Mapping[int, float] = scores.get(plain, {})
    gains = [v - again[s] for s, v in mine.items() if s in again]
    oracle = means.get((ORACLE, "supervised", pair.calibration), math.nan)
    known = [o for _, o in runs if o.failed is None]

    def mean(of: str) -> float | None:
        values = [v for o in known if (v := getattr(o, of)) is not None]
        return float(np.mean(values)) if values else None

    return Row(
        name,
        kind,
        trials,
        tuple(mine) or tuple(s.seed for s, o in runs if o.failed is None),
        tuple(mine.values()) or None,
        min(gains) if gains else None,
        _number(of_oracle(value, oracle)),
        _number(recovered(value, means.get(plain, math.nan), oracle)),
        worth_text(worth(value, list(supervised_refits(pair.calibration).values()), curve), _ks(pair)),
        mean("seconds"),
        mean("prior_loss"),
        mean("gaussian_kl"),
        len(runs) - len(known),
    )


def _headlines(ours: str, best: str, pair: Pair, seeds: Sequence[Seed], draws: int) -> tuple[Headline, ...]:
    """R2 and the three headline numbers, on the seeds with which everything that they need has worked."""
    top, refits = pair.unlabelled_counts[-1], supervised_refits(pair.calibration)
    needed = [(ours, top), (best, top), (RENORMALISE, top), *refits.items()]
    truths: list[Truth] = []
    errors: dict[str, list[Floats]] = {name: [] for name, _ in needed}
    for s in seeds:
        has = {(o.method, o.trials): o.error for o in s.outcomes if o.error is not None}
        if s.truth is not None and all(n in has for n in needed):
            truths.append(s.truth)
            for name in errors:
                errors[name].append(has[name, dict(needed)[name]])
    if not truths:
        return ()
    drawn = resample(truths, errors, draws)
    ks = _ks(pair)

    def labels(of: str) -> Callable[[Mapping[str, float]], float]:
        return lambda v: worth(v[of], ks, [v[n] for n in refits])

    def clipped(of: str) -> Callable[[Mapping[str, float]], float]:
        """Beyond the ends of the curve nothing is known: a difference counts from the ends."""
        return lambda v: float(np.clip(labels(of)(v), ks[0], ks[-1]))

    return (
        _headline("R2 (%)", drawn, lambda m: lambda v: v[m], ours, best),
        _headline("R2 / oracle", drawn, lambda m: lambda v: of_oracle(v[m], v[ORACLE]), ours, best),
        _headline(
            "recovered share of the oracle's gain",
            drawn,
            lambda m: lambda v: recovered(v[m], v[RENORMALISE], v[ORACLE]),
            ours,
            best,
        ),
        _headline("worth labelled trials", drawn, labels, ours, best, clipped, lambda k: worth_text(k, ks)),
    )


Quantity = Callable[[Mapping[str, float]], float]


def _headline(
    name: str,
    drawn: Resampled,
    of: Callable[[str], Quantity],
    ours: str,
    best: str,
    compared: Callable[[str], Quantity] | None = None,
    text: Callable[[float], str] = lambda v: "-" if math.isnan(v) else f"{v:.3g}",
) -> Headline:
    compared = compared or of
    mine, theirs = of(ours)(drawn.value), of(best)(drawn.value)

    def difference(v: Mapping[str, float]) -> float:
        return compared(ours)(v) - compared(best)(v)

    low, high = drawn.interval(of(ours))
    return Headline(
        name,
        _number(mine),
        (low, high),
        _number(theirs),
        _number(difference(drawn.value)),
        drawn.interval(difference),
        (f"{text(mine)} [{text(low)}, {text(high)}]", text(theirs)),
    )


def _ks(pair: Pair) -> list[int]:
    return list(supervised_refits(pair.calibration).values())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(summary: Summary) -> dict[str, Any]:
    """Plain dictionaries and lists; numbers that are not finite become None."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = [vars(r) | {"r2_mean": r.mean} for r in summary.rows]
    headlines = {name: [vars(h) for h in lines] for name, lines in summary.headlines.items()}
    return dict(plain(vars(summary) | {"rows": rows, "headlines": headlines}))
