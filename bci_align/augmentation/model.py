"""A model of one session's trials: a generator trained on all of them, and its twin that proves what it is worth.

The twin is trained without the held-out trials. Only it may choose how many generated trials a decoder gets, since the other
has seen every trial there is to choose on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation import codes
from bci_align.augmentation.carry import with_earlier
from bci_align.augmentation.encoding import Encoding
from bci_align.augmentation.generate import Generator
from bci_align.augmentation.trials import Index, TrialSet, cut, window_bins
from bci_align.config import AugmentConfig
from bci_align.diffusion.fit import Checkpoint
from bci_align.errors import AugmentationError
from bci_align.session.types import Session, refuse_generated

HoldOut = Literal["trials", "target"]
SHARE = 0.25
"""Of every target's trials, held out from the twin."""
PROVING = 8
"""Trials to prove a ratio on where half of all are as many: of fewer, the error of a paired gain is anybody's guess."""
EDGE = 0.25
"""Trials that each shore of whole targets must have, in units of the share that is held out of all trials else."""
Progress = Callable[[str, int, int], None]
Keep = Callable[[str], Checkpoint]
"""Where each of the two trainings, ``all trials`` and ``held out``, keeps its state."""


@dataclass(frozen=True)
class Model:
    """``full`` knows ``trials`` (indices into the session), ``proof`` only those not in ``held_out`` (indices among them).

    ``earlier`` has an earlier day's trials as they were recorded, where there was one.
    """

    full: Generator
    proof: Generator
    trials: Index
    held_out: Index
    config: AugmentConfig
    seed: int
    earlier: TrialSet | None = None

    def start(self, seen: TrialSet) -> TrialSet:
        """Trials that a generator starts from which has ``seen`` so many of today's: those that it was trained on."""
        return with_earlier(seen, self.earlier)


def hold_out(trials: TrialSet, how: HoldOut, share: float, seed: int, config: AugmentConfig) -> Index:
    """Choose the trials (indices) that the twin must not see: a ``share`` of every target's, or whole targets.

    Of few trials the share is :data:`PROVING`, or half of them. It is dealt out over targets; a target's last trial goes only
    where no other is left to give, as where every trial has a target of its own. Whole targets are the two outermost ones (of
    four targets one) and, where a target is but a trial or two, those nearest to them (:func:`_shores`): both shores of a gap,
    where targets have no trials, and they alone, since it is what lies beyond the seen that generated trials are to prove there.
    :class:`AugmentationError` where too little would be left.
    """
    known, which = trials.conditions()
    if how == "target":
        if len(known) < 4:
            raise AugmentationError(f"hold-out of a target: expected trials of at least 4 targets, found {len(known)}")
        out = np.flatnonzero(_shores(known, np.bincount(which), EDGE * share * len(trials), seed)[which])
        if not len(out):
            raise AugmentationError(
                f"hold-out of a target: expected one of the {len(known)} targets to have at most half of the trials, found none"
            )
    else:
        rng = np.random.default_rng(seed)
        parts = [rng.permutation(np.flatnonzero(which == k)) for k in range(len(known))]
        many = max(round(share * len(trials)), min(PROVING, len(trials) // 2, len(trials) - config.min_trials), 1)
        # dealt out target by target, so that none loses more than its share
        order = [parts[j] for j in rng.permutation(len(parts))]
        dealt = [p[i] for i in range(max(map(len, parts))) for p in order if i < len(p) - 1] + [p[-1] for p in order]
        out = np.sort(np.array(dealt[:many], np.intp))
    if len(trials) - len(out) < config.min_trials:
        raise AugmentationError(
            f"hold-out of {len(out)} of {len(trials)} trials: expected at least {config.min_trials} others to train the twin on, "
            f"found {len(trials) - len(out)}"
        )
    return out


def _shores(known: NDArray[np.float64], trials: NDArray[np.intp], least: float, seed: int) -> NDArray[np.bool_]:
    """Which targets (k,) lie around the outermost two of ``known`` (k, D), each shore with so many ``trials`` (k,) if it can.

    Three targets stay, since fewer span no plane, and half of the trials.
    """
    gone = np.zeros(len(known), bool)

    def may_go(k: int, left: int) -> bool:
        return bool(not gone[k] and (~gone).sum() > left and trials[gone].sum() + trials[k] <= trials.sum() / 2)

    for left in (4, 3):  # the first shore leaves one more, for the second
        middle = next((int(k) for k in outermost(known, seed) if may_go(int(k), 3)), None)
        if middle is None:
            break
        gone[middle], taken = True, trials[middle]
        for k in np.argsort(np.linalg.norm(known - known[middle], axis=1), kind="stable"):
            if gone[k]:
                continue
            if taken >= least or not may_go(k, left):
                break
            gone[k] = True
            taken += trials[k]
    return gone


def outermost(known: NDArray[np.float64], seed: int) -> Index:
    """Order of the targets ``known`` (k, D), that which lies farthest from the mean of the others first; equals by ``seed``."""
    away = np.array([np.linalg.norm(t - np.delete(known, i, 0).mean(0)) for i, t in enumerate(known)])
    chance = np.random.default_rng(seed).permutation(len(known))
    return np.lexsort((chance, -np.round(away / max(float(away.max()), 1e-12), 6)))


def train(
    session: Session,
    trials: Index,
    config: AugmentConfig,
    seed: int,
    how: HoldOut = "trials",
    share: float = SHARE,
    progress: Progress | None = None,
    keep: Keep | None = None,
    earlier: Session | None = None,
) -> Model:
    """Train both generators on ``trials`` (indices) of ``session``, and on an ``earlier`` day's rewarded trials.

    The earlier day's trials are brought to today's channels first (:mod:`~bci_align.augmentation.carry`), for the twin by what it
    sees of today alone. :class:`AugmentationError` for too few trials, a session without kinematics or targets, an earlier day
    that does not fit; a generated session is refused.
    """
    refuse_generated(session, "training a model of trials")
    cuts, kept = cut(session, trials, config)
    out = hold_out(cuts, how, share, seed, config)
    before = window_bins(config, session.bin_s)[0]
    then = None if earlier is None else _of_earlier(earlier, session, config)

    def made(stage: str, some: TrialSet) -> Generator:
        tell = (lambda done, total: progress(stage, done, total)) if progress else None
        known = with_earlier(some, then)
        space = codes.train(known, config, seed, tell, keep(stage) if keep else None)
        encoding = Encoding.fit(known, before, session.bin_s)
        return Generator.fit(space, known, before, seed, recorded=some, encoding=encoding)

    full = made("all trials", cuts)
    proof = made("held out", cuts.of(np.setdiff1d(np.arange(len(cuts)), out)))
    return Model(full, proof, kept, out, config, seed, then)


def _of_earlier(earlier: Session, today: Session, config: AugmentConfig) -> TrialSet:
    refuse_generated(earlier, "training a model of trials")
    for what in ("channels", "bin_s", "kinematics_names", "kinematics_units"):
        if getattr(earlier, what) != getattr(today, what):
            raise AugmentationError(f"earlier day {earlier.name!r}: {what}: expected those of {today.name!r}, found others")
    return cut(earlier, earlier.rewarded(), config)[0]
