"""What a recorded day is: spike counts in fixed-width bins, kinematics, and the trials' events.

Time runs in seconds from the start of bin 0; bin ``k`` covers ``[k * bin_s, (k + 1) * bin_s)`` and is stamped with its end.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import SessionError

TIME_TOLERANCE_S = 1e-6
"""Events closer than this to the next bin's edge count as on it, so that a clock offset never moves an event by a bin."""


def bin_of(time_s: float, bin_s: float) -> int:
    """Index of the bin that holds ``time_s`` (seconds from the start of bin 0)."""
    return math.floor((time_s + TIME_TOLERANCE_S) / bin_s)


@dataclass(frozen=True)
class Trials:
    """Trial events of one day, one row per trial, in order of time.

    ``start_s``, ``go_s``, ``end_s`` (n,) seconds, ``go_s`` may be NaN where a task has no go cue; ``success`` (n,) bool;
    ``target`` (n, D) in the task's own units, or None. ``target`` is a label: only scorers and figures may read it.
    """

    start_s: NDArray[np.float64]
    go_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    success: NDArray[np.bool_]
    target: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True)
class Session:
    """One recorded day.

    ``counts`` (T, C) integer spikes per bin; ``bin_s`` seconds; ``channels`` C unique labels;
    ``kinematics`` (T, K) float32 or None, with ``kinematics_names`` and ``kinematics_units`` (K each);
    ``meta`` free text (origin, citation, how it was made); ``breaks`` the bins at which the recording starts anew after a gap
    (bin 0 is not among them), between which lie its *stretches*. Construct freely, then :func:`validate`.
    """

    counts: NDArray[np.int32]
    bin_s: float
    channels: tuple[str, ...]
    trials: Trials
    kinematics: NDArray[np.float32] | None = None
    kinematics_names: tuple[str, ...] = ()
    kinematics_units: tuple[str, ...] = ()
    name: str = "session"
    meta: dict[str, str] = field(default_factory=dict)
    breaks: tuple[int, ...] = ()

    @property
    def bins(self) -> int:
        """Number of bins T."""
        return int(self.counts.shape[0])

    def stretches(self) -> list[tuple[int, int]]:
        """First bin and one past the last bin of every stretch without a gap, in order of time."""
        return list(pairwise((0, *self.breaks, self.bins)))

    def stretch_start(self, bin: int) -> int:
        """First bin of the stretch that holds ``bin``: where every decoder's state was zero."""
        at = bisect_right(self.breaks, bin)
        return self.breaks[at - 1] if at else 0

    def fingerprint(self) -> str:
        """SHA-256 of the counts, by which a bundle knows the session that it was trained on."""
        return hashlib.sha256(np.ascontiguousarray(self.counts, np.int32).tobytes()).hexdigest()

    def rewarded(self) -> NDArray[np.intp]:
        """Indices of the successful trials, in order of time."""
        return np.flatnonzero(self.trials.success)

    def trial_bins(self, trial: int) -> tuple[int, int]:
        """First bin and one past the last bin of a trial: the bins that hold its start and its end, both included."""
        first = max(bin_of(float(self.trials.start_s[trial]), self.bin_s), 0)
        last = min(bin_of(float(self.trials.end_s[trial]), self.bin_s), self.bins - 1)
        return first, last + 1


GENERATED = "generated"
"""Key of ``meta`` that marks a session whose trials a model made; its value says which."""


def refuse_generated(session: Session, what: str) -> None:
    """Raise :class:`SessionError` for a session that is marked as generated: it must not count as evidence in ``what``."""
    if GENERATED in session.meta:
        raise SessionError(
            f"session {session.name!r}: {what}: expected recorded trials, found generated ones ({session.meta[GENERATED]})"
        )


@dataclass(frozen=True)
class UnlabelledTrials:
    """All that an aligner may see of a target day: counts of whole trials, and nothing else.

    ``counts``: one (T_i, C) float32 array per trial, its first ``run_in[i]`` bins before the trial's start, there only to
    settle the recurrent state. Fewer than asked for where the recording begins so shortly before the trial: there the
    state is zero, as it is live. No kinematics, no targets, no directions: labels cannot leak through a type without them.
    """

    counts: tuple[NDArray[np.float32], ...]
    run_in: tuple[int, ...]
    bin_s: float
    channels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.counts)

    def bodies(self) -> list[NDArray[np.float32]]:
        """The trials without their run-in: one (T_i, C) array each."""
        return [t[r:] for t, r in zip(self.counts, self.run_in, strict=True)]


def validate(session: Session, where: str = "session") -> Session:
    """Return ``session`` if it keeps its contract, else raise :class:`SessionError` with one sentence naming ``where``."""
    s = session

    def fail(field_name: str, expected: str, found: object) -> SessionError:
        return SessionError(f"{where}: {field_name}: expected {expected}, found {found}")

    if not (isinstance(s.bin_s, float) and math.isfinite(s.bin_s) and s.bin_s > 0):
        raise fail("bin_s", "a positive number of seconds", s.bin_s)
    if s.counts.ndim != 2 or 0 in s.counts.shape:
        raise fail("counts", "a (bins, channels) array with at least one of each", f"shape {s.counts.shape}")
    if not np.issubdtype(s.counts.dtype, np.integer):
        raise fail("counts", "integers", f"dtype {s.counts.dtype}")
    if int(s.counts.min()) < 0:
        raise fail("counts", "no negative spike counts", f"a minimum of {int(s.counts.min())}")
    if len(s.channels) != s.counts.shape[1]:
        raise fail("channels", f"{s.counts.shape[1]} labels, one per column of counts", f"{len(s.channels)}")
    if len(set(s.channels)) != len(s.channels):
        twice = next(c for c in s.channels if s.channels.count(c) > 1)
        raise fail("channels", "unique labels", f"{twice!r} more than once")
    if s.kinematics is not None:
        k = s.kinematics
        if k.ndim != 2 or k.shape[0] != s.bins:
            raise fail("kinematics", f"({s.bins}, K), one row per bin of counts", f"shape {k.shape}")
        if not np.isfinite(k).all():
            raise fail("kinematics", "finite values", f"{int((~np.isfinite(k)).sum())} NaN or infinite")
        if len(s.kinematics_names) != k.shape[1] or len(s.kinematics_units) != k.shape[1]:
            raise fail(
                "kinematics",
                f"{k.shape[1]} names and units",
                f"{len(s.kinematics_names)} names and {len(s.kinematics_units)} units",
            )
    t = s.trials
    if len(t) == 0:
        raise fail("trials", "at least one trial with a start and an end event", "no trial events")
    for name in ("go_s", "end_s", "success"):
        if len(getattr(t, name)) != len(t):
            raise fail(f"trials.{name}", f"{len(t)} values, one per trial", f"{len(getattr(t, name))}")
    if t.target is not None and (t.target.ndim != 2 or len(t.target) != len(t)):
        raise fail("trials.target", f"({len(t)}, D)", f"shape {t.target.shape}")
    if not (np.isfinite(t.start_s).all() and np.isfinite(t.end_s).all()):
        raise fail("trials", "finite start and end times", "NaN or infinite times")
    if (t.end_s <= t.start_s).any():
        bad = int(np.flatnonzero(t.end_s <= t.start_s)[0])
        raise fail("trials", "every end after its start", f"trial {bad} from {t.start_s[bad]:g} s to {t.end_s[bad]:g} s")
    if (np.diff(t.start_s) < 0).any():
        raise fail("trials", "trials in order of time", f"trial {int(np.flatnonzero(np.diff(t.start_s) < 0)[0]) + 1} too early")
    if (t.start_s[1:] < t.end_s[:-1] - TIME_TOLERANCE_S).any():
        bad = int(np.flatnonzero(t.start_s[1:] < t.end_s[:-1] - TIME_TOLERANCE_S)[0])
        raise fail("trials", "trials that do not overlap", f"trial {bad + 1} starting before trial {bad} ends")
    if t.start_s[0] < -TIME_TOLERANCE_S or t.end_s.max() > s.bins * s.bin_s + TIME_TOLERANCE_S:
        raise fail(
            "trials",
            f"times inside the recording (0 to {s.bins * s.bin_s:g} s)",
            f"{t.start_s[0]:g} to {t.end_s.max():g} s",
        )
    _validate_breaks(s, fail)
    return session


def _validate_breaks(s: Session, fail: Callable[[str, str, object], SessionError]) -> None:
    """Breaks are bins inside the recording, in order, and no trial goes on across one."""
    for before, at in pairwise((0, *s.breaks)):
        if isinstance(at, bool) or not isinstance(at, int) or not before < at < s.bins:
            raise fail("breaks", f"bins between 1 and {s.bins - 1}, each after the one before", at)
    for i in range(len(s.trials) if s.breaks else 0):
        first, stop = s.trial_bins(i)
        if s.stretch_start(stop - 1) > first:
            raise fail(
                "breaks", "trials that lie between two breaks", f"trial {i} across the break at bin {s.stretch_start(stop - 1)}"
            )


def unlabelled(session: Session, trials: NDArray[np.intp], run_in: int) -> UnlabelledTrials:
    """Cut ``trials`` (indices) out of ``session`` with ``run_in`` bins before each, and drop everything that is a label.

    A trial that begins sooner than that after the recording's start or after a break gets the bins that there are: the
    state is zero at either, live and offline, so nothing is missing.
    """
    cuts, before = [], []
    for i in trials:
        first, stop = session.trial_bins(int(i))
        before.append(min(run_in, first - session.stretch_start(first)))
        cuts.append(session.counts[first - before[-1] : stop].astype(np.float32))
    return UnlabelledTrials(tuple(cuts), tuple(before), session.bin_s, session.channels)
