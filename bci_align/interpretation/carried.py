"""What a bundle's latents carry of every factor, on any day: before and after an alignment, with trial-bootstrap intervals.

A readout from the latents to the factors, and a line from every factor to every behaviour, are fitted on the source day, through
the read-in that it was trained with, and then frozen, as a decoder is. On a later day nothing is fitted: its behaviour scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.errors import InterpretationError, MismatchError
from bci_align.evaluation.score import difference
from bci_align.interpretation.bootstrap import LEVEL, Interval, bootstrap, interval, lines, paired, r2, sums
from bci_align.interpretation.data import LEAST_TRIALS, FactorDay
from bci_align.interpretation.factors import read_factors
from bci_align.models.encoder import SourceModel
from bci_align.models.factor_vae import FactorVAE
from bci_align.session.types import Session
from bci_align.threads import one_thread
from bci_align.training import source

Floats = NDArray[np.float64]
Verdict = Literal["kept", "weakened", "lost", "not carried"]

REACH = 2
"""Bins of latents on either side of the one whose factors are read out: the report is made offline, the factors are smooth."""
RIDGE = 1.0
LEAST = 0.1
"""R2 that a factor must reach on the source day before anything can be said to be lost of it."""
LOST = 0.5
"""Share of the source day's R2 below which a factor is lost."""
MARGIN = 0.05
"""Fall of R2 from before the alignment to after it that is not called weakened, however sure: an alignment on a day that hardly
drifted costs a few hundredths now and then."""


@dataclass(frozen=True)
class Judged:
    """One labelled factor, told by its behaviour: R2 ``source`` on :func:`source_trials`, ``before``, ``after``."""

    factor: str
    verdict: Verdict
    source: Interval
    before: Interval
    after: Interval
    change: Interval

    def line(self) -> str:
        """The verdict in one line."""
        return (
            f"{self.factor}: {self.verdict}; R2 {self.after} after the alignment, {self.before} before, change {self.change}, "
            f"{self.source} on the source day"
        )


@dataclass(frozen=True)
class Carried:
    """What two bundles carry on one day: R2 matrices (D, B) of ``before`` and ``after``, ``source`` the source day's.

    ``source`` is of ``source_trials`` trials that did not train the factors; ``untouched`` says whether they did not train the
    bundles, either (:func:`source_trials`).
    """

    judged: tuple[Judged, ...]
    source: Floats
    before: Floats
    after: Floats
    trials: int
    source_trials: int
    untouched: bool

    def bar(self) -> str:
        """What the bar is that the source day sets, in one sentence without a full stop."""
        if self.untouched:
            return f"R2 on the source day is of {self.source_trials} trials that trained neither the factors nor the bundle"
        return (
            f"R2 on the source day is of {self.source_trials} trials that the bundle may have been trained on, because fewer "
            f"than {LEAST_TRIALS} trained neither it nor the factors: it is the higher for it, and 'lost' the sooner said"
        )


def check_day(bundle: Bundle, session: Session, what: str) -> None:
    """Refuse a day whose channels or bin width are not those of a bundle's read-in; ``what`` names the bundle."""
    if session.channels != bundle.manifest.channels:
        raise MismatchError(f"session {session.name!r} and {what}: {difference(bundle.manifest.channels, session.channels)}")
    if abs(session.bin_s - bundle.manifest.bin_s) > 1e-9:
        raise MismatchError(
            f"session {session.name!r} and {what}: expected bins of {bundle.manifest.bin_s:g} s, found {session.bin_s:g} s"
        )


def check_units(session: Session, units: Mapping[str, str]) -> None:
    """Refuse a day whose kinematics are in other ``units`` than the factor model's session: frozen lines tell the latter."""
    for name, found in zip(session.kinematics_names, session.kinematics_units, strict=True):
        if found != units.get(name, found):
            raise MismatchError(
                f"session {session.name!r}: kinematics {name!r}: expected unit {units[name]!r} as in the factor model, "
                f"found {found!r}"
            )


def check_bundle(bundle: Bundle, channels: tuple[str, ...], bin_s: float, fingerprint: str, what: str) -> None:
    """Refuse a bundle whose source day is not the factor model's session; ``what`` names the bundle."""
    m = bundle.manifest
    if m.source_channels != channels:
        found = difference(channels, m.source_channels).replace("as in the bundle", "as in the factor model")
        raise MismatchError(f"{what}: source channels: {found}")
    if abs(m.bin_s - bin_s) > 1e-9:
        raise MismatchError(f"{what}: expected bins of {bin_s:g} s as in the factor model, found {m.bin_s:g} s")
    trained_on = m.training.get("counts_sha256")
    if trained_on != fingerprint:
        raise MismatchError(
            f"{what}: expected a bundle trained on the factor model's session (counts {fingerprint[:12]}...), "
            f"found one of {m.training.get('session')!r} (counts {str(trained_on)[:12]}...)"
        )


def source_trials(bundle: Bundle, day: FactorDay) -> tuple[NDArray[np.int64], bool]:
    """First and one past the last bin (n, 2) of the source day's trials that set the bar, and whether they are untouched.

    Those that trained neither the factors nor, by its manifest, the bundle. Where these are fewer than :data:`LEAST_TRIALS`
    (another seed drew other trials), all that the factors were not trained on, and False: they may have trained the bundle.
    :class:`InterpretationError` where these are too few, too.
    """
    told = bundle.manifest.training.get("validation_trials")
    kept = np.isin(day.numbers, np.array(told if isinstance(told, list) else [], np.int64)) & day.held_out
    if kept.sum() >= LEAST_TRIALS:
        return day.trials[kept], True
    if day.held_out.sum() < LEAST_TRIALS:
        raise InterpretationError(
            f"factor model: expected at least {LEAST_TRIALS} held-out trials to judge by, found {int(day.held_out.sum())}"
        )
    return day.trials[day.held_out], False


@one_thread()
def compare(
    model: FactorVAE, day: FactorDay, bundles: tuple[Bundle, Bundle], later: FactorDay, level: float = LEVEL, seed: int = 0
) -> Carried:
    """Compare what ``bundles`` (before, after) carry of the labelled factors on the trials of ``later``.

    ``day`` is the session that ``model`` and both bundles were trained on (:func:`check_bundle`). ``later`` has the same
    behaviours in the same units (:func:`check_units`); its channels are those of both read-ins (:func:`check_day`). The
    bootstrap is over trials, paired. :class:`InterpretationError` where a behaviour varies in too few trials to resample them,
    and where a latent is not finite: no verdict is made of that.
    """
    bar, untouched = source_trials(bundles[0], day)
    factors, _ = read_factors(model, day.cut(False).counts)
    z = np.concatenate(factors)
    scores = []
    for bundle, read_in in ((bundles[0], "source"), (bundles[0], "own"), (bundles[1], "own")):
        encoder, _ = bundle.models()
        encoder.set_read_in(bundle.source_read_in())
        train = _windows(encoder, day, day.rows(False))
        weight = _ridge(np.concatenate(train), z)
        told = np.concatenate([_tell(x, weight) for x in train])
        fitted = lines(told, np.concatenate(day.cut(False).behaviours).astype(np.float64))
        where, rows = (day, bar) if read_in == "source" else (later, later.trials)
        if read_in == "own":
            encoder.set_read_in(bundle.read_in)
        read = [_tell(x, weight) for x in _windows(encoder, where, rows)]
        scores.append(sums(read, [where.behaviours[a:b].astype(np.float64) for a, b in rows], fitted))
    rng = np.random.default_rng(seed)
    drawn = [bootstrap(s, rng) for s in (scores[0],)] + list(paired(scores[1], scores[2], rng))
    point = [r2(s.sum(0)) for s in scores]
    judged = []
    for k, name in enumerate(day.names):
        what = f"behaviour {name!r}"
        source_, before, after = (
            interval(p[k, k], b[:, k, k], level, what, which)
            for p, b, which in zip(point, drawn, ("source day's", "later", "later"), strict=True)
        )
        change = interval(point[2][k, k] - point[1][k, k], drawn[2][:, k, k] - drawn[1][:, k, k], level, what, "later")
        judged.append(Judged(name, _verdict(source_, after, change), source_, before, after, change))
    return Carried(tuple(judged), point[0], point[1], point[2], len(later.trials), len(bar), untouched)


def _verdict(source_: Interval, after: Interval, change: Interval) -> Verdict:
    """Lost: surely below half of what the source day had. Weakened: surely less than before the alignment."""
    if source_.low < LEAST:
        return "not carried"
    if after.high < LOST * source_.value:
        return "lost"
    return "weakened" if change.high < -MARGIN else "kept"


@torch.no_grad()
def _windows(encoder: SourceModel, day: FactorDay, rows: NDArray[np.int64]) -> list[Floats]:
    """Latents of every trial's bins with their neighbours (T_i, (2 REACH + 1) d); the edge's own where there is no neighbour."""
    latents = source.latents(encoder, day.counts.astype(np.float32), day.stretches()).double().numpy()
    out = []
    for a, b in rows:
        at = np.clip(np.arange(a, b)[:, None] + np.arange(-REACH, REACH + 1), a, b - 1)
        out.append(latents[at].reshape(b - a, -1))
    return out


def _ridge(x: Floats, y: Floats) -> Floats:
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(x.shape[1], RIDGE)
    penalty[-1] = 0.0
    return np.asarray(np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y), np.float64)


def _tell(x: Floats, weight: Floats) -> Floats:
    return np.asarray(x @ weight[:-1] + weight[-1])
