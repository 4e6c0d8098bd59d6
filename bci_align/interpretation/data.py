"""A session as the factors see it: whole rewarded trials of counts and behaviours, some held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bci_align.config.interpretation import BehaviourConfig
from bci_align.errors import InterpretationError
from bci_align.session.types import Session, refuse_generated
from bci_align.training import source_split

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]

LEAST_TRIALS = 10
"""Trials below which nothing is judged: resampling fewer gives an interval that is far too narrow, of one trial none at all."""


@dataclass(frozen=True)
class FactorTrials:
    """Whole trials: one array each of ``counts`` (T_i, C), ``behaviours`` (T_i, B) in their own units, and ``names`` (B).

    A behaviour is NaN where it is not labelled.
    """

    counts: tuple[Array, ...]
    behaviours: tuple[Array, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.counts)

    def lengths(self) -> list[int]:
        """Bins of every trial."""
        return [len(c) for c in self.counts]


def standard(session: Session) -> dict[str, BehaviourConfig]:
    """What is asked for when nothing is: every column of the kinematics; of two columns of one unit their speed, too."""
    names, units = session.kinematics_names, session.kinematics_units
    wanted = {name: BehaviourConfig(columns=(name,)) for name in names}
    if len(names) == 2 and units[0] == units[1] and "speed" not in names:
        wanted["speed"] = BehaviourConfig(columns=names, how="length" if units[0].endswith("/s") else "speed")
    return wanted


def behaviours(session: Session, wanted: Mapping[str, BehaviourConfig] | None = None) -> tuple[Array, tuple[str, ...]]:
    """Behaviours (T, B) of a ``session`` and their names, in the order of ``wanted`` (none: :func:`standard`).

    :class:`InterpretationError` for a session without kinematics, for columns that it does not have, and for a mean whose
    standard deviations are not known (:func:`settled` fills them in).
    """
    where = f"session {session.name!r}"
    if session.kinematics is None:
        raise InterpretationError(f"{where}: behaviour: expected kinematics to tell factors by, found none")
    wanted = wanted or standard(session)
    columns = []
    for name, how in wanted.items():
        for column in how.columns:
            if column not in session.kinematics_names:
                raise InterpretationError(
                    f"{where}: behaviour {name!r}: expected columns among {', '.join(session.kinematics_names)}, found {column!r}"
                )
        if how.how == "value" and len(how.columns) != 1:
            raise InterpretationError(f"{where}: behaviour {name!r}: expected one column for a value, found {len(how.columns)}")
        if how.how == "mean" and len(how.sd or ()) != len(how.columns):
            raise InterpretationError(
                f"{where}: behaviour {name!r}: expected {len(how.columns)} standard deviations, one per column, "
                f"found {len(how.sd or ())}"
            )
        columns.append(_made(session, how))
    return np.stack(columns, axis=1).astype(np.float32), tuple(wanted)


def _made(session: Session, how: BehaviourConfig) -> NDArray[np.float64]:
    """One behaviour (T,) of its columns."""
    assert session.kinematics is not None
    x = session.kinematics[:, [session.kinematics_names.index(c) for c in how.columns]].astype(np.float64)
    if how.how == "value":
        return x[:, 0]
    if how.how == "mean":
        return np.asarray((x / np.array(how.sd)).mean(1))
    if how.how == "speed":
        x = np.concatenate([np.gradient(x[a:b], axis=0) if b - a > 1 else 0 * x[a:b] for a, b in session.stretches()])
        x = x / session.bin_s
    return np.asarray(np.linalg.norm(x, axis=1))


def settled(session: Session, wanted: Mapping[str, BehaviourConfig], rows: NDArray[np.int64]) -> dict[str, BehaviourConfig]:
    """``wanted`` with what is measured filled in: standard deviations of a mean's columns in the trials ``rows`` (n, 2).

    Those are the training trials': a behaviour is one and the same thing in held-out trials and on later days. A column that
    never changes there counts in its own unit; so does one that the session does not have, which :func:`behaviours` refuses.
    """
    out = dict(wanted)
    for name, how in wanted.items():
        if how.how == "mean" and how.sd is None and session.kinematics is not None:
            inside = np.concatenate([session.kinematics[a:b] for a, b in rows]).astype(np.float64)
            at = {c: np.nanstd(inside[:, i]) for i, c in enumerate(session.kinematics_names) if c in how.columns}
            out[name] = how.model_copy(update={"sd": tuple(float(at.get(c, 0.0)) or 1.0 for c in how.columns)})
    return out


@dataclass(frozen=True)
class FactorDay:
    """A whole session as a factor model keeps it.

    ``counts`` (T, C) spikes per bin, ``behaviours`` (T, B) in their own units and what they are ``made_of``, by name; ``trials``
    (n, 2) first bin and one past the last of every rewarded trial, ``held_out`` (n,) which of them trained nothing; ``breaks``
    bins after a gap; ``bin_s`` seconds; ``numbers`` (n,) the trials' indices in the session.
    """

    counts: NDArray[np.int32]
    behaviours: Array
    made_of: Mapping[str, BehaviourConfig]
    trials: NDArray[np.int64]
    held_out: Bools
    breaks: tuple[int, ...]
    bin_s: float
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, session: Session, wanted: Mapping[str, BehaviourConfig] | None, share: float, seed: int) -> FactorDay:
        """Take a session; ``share`` of its rewarded trials, drawn by ``seed``, are held out. Errors as :func:`behaviours`."""
        rewarded = session.rewarded()
        if len(rewarded) < 2:
            raise InterpretationError(f"session {session.name!r}: expected at least 2 rewarded trials, found {len(rewarded)}")
        _, held_out = source_split(session, share, seed)
        bins = np.array([session.trial_bins(int(i)) for i in rewarded], np.int64)
        out = np.isin(rewarded, held_out)
        made_of = settled(session, wanted or standard(session), bins[~out])
        values, _ = behaviours(session, made_of)
        return cls(session.counts, values, made_of, bins, out, session.breaks, session.bin_s, rewarded.astype(np.int64))

    @classmethod
    def later(cls, session: Session, wanted: Mapping[str, BehaviourConfig], trials: NDArray[np.intp]) -> FactorDay:
        """Take a later day, of which nothing is fitted and ``trials`` (indices) are scored.

        :class:`SessionError` for generated trials, which are no evidence; :class:`InterpretationError` for fewer than
        :data:`LEAST_TRIALS`, a behaviour that is constant in them, and as :func:`behaviours`.
        """
        refuse_generated(session, "judging an alignment")
        where = f"session {session.name!r}"
        if len(trials) < LEAST_TRIALS:
            raise InterpretationError(f"{where}: expected at least {LEAST_TRIALS} trials to judge by, found {len(trials)}")
        values, _ = behaviours(session, wanted)
        bins = np.array([session.trial_bins(int(i)) for i in trials], np.int64)
        every = np.ones(len(trials), np.bool_)
        day = cls(session.counts, values, wanted, bins, every, session.breaks, session.bin_s, trials.astype(np.int64))
        check_varies(day.cut(True), where, "scored")
        return day

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the behaviours (B)."""
        return tuple(self.made_of)

    def rows(self, held_out: bool) -> NDArray[np.int64]:
        """First and one past the last bin (n, 2) of the trials that are held out, or of the others."""
        return self.trials[self.held_out == held_out]

    def cut(self, held_out: bool) -> FactorTrials:
        """The trials that are held out, or the others."""
        rows = [slice(a, b) for a, b in self.rows(held_out)]
        return FactorTrials(
            tuple(self.counts[r].astype(np.float32) for r in rows), tuple(self.behaviours[r] for r in rows), self.names
        )

    def stretches(self) -> list[tuple[int, int]]:
        """First bin and one past the last bin of every stretch without a gap."""
        return list(pairwise((0, *self.breaks, len(self.counts))))


def units(session: Session, wanted: Mapping[str, BehaviourConfig]) -> dict[str, str]:
    """Unit of every column of the kinematics that ``wanted`` behaviours are made of."""
    every = dict(zip(session.kinematics_names, session.kinematics_units, strict=True))
    return {c: every[c] for how in wanted.values() for c in how.columns if c in every}


def check_varies(trials: FactorTrials, where: str, which: str) -> None:
    """Refuse a behaviour that is constant, or nowhere labelled, in ``trials``; ``which`` says which trials they are."""
    values = np.concatenate(trials.behaviours).astype(np.float64)
    for b, name in enumerate(trials.names):
        known = values[np.isfinite(values[:, b]), b]
        if not known.size:
            raise InterpretationError(f"{where}: behaviour {name!r}: expected labelled frames in the {which} trials, found none")
        if np.ptp(known) <= 1e-9 * max(float(np.abs(known).max()), 1e-30):
            raise InterpretationError(
                f"{where}: behaviour {name!r}: expected values that vary in the {which} trials, found a constant {known[0]:.6g}"
            )


def scale(trials: FactorTrials, where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (B,), (B,) of the labelled training frames; errors as :func:`check_varies`."""
    check_varies(trials, where, "training")
    values = np.concatenate(trials.behaviours).astype(np.float64)
    return np.nanmean(values, 0), np.nanstd(values, 0)
