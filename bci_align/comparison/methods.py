"""Everything that is compared in one run, as one list: ours, every rival, supervised refitting with few and with many trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment import erdiff
from bci_align.alignment.registration import order_preserving
from bci_align.alignment.rivals import RIVALS, Adapted, Rival
from bci_align.bundle.graph import build
from bci_align.bundle.pipeline import Pipeline
from bci_align.bundle.store import Bundle
from bci_align.comparison.pairs import Pair
from bci_align.config import AlignConfig
from bci_align.errors import AlignmentError
from bci_align.evaluation.metrics import Floats
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.training.oracle import supervised

Kind = Literal["ours", "rival", "supervised"]

LABELLED = (5, 10, 20, 40)
"""Labelled trials of the supervised refits, beside all of them."""

RENORMALISE = "renormalise"
ORACLE = "supervised (all)"


class Aligned(Protocol):
    """What an aligner of ours may give, with ``channels``, a JSON-ready ``record``, a ``core`` that moved with the read-in."""

    @property
    def read_in(self) -> ReadIn: ...


Ours = Callable[[Bundle, UnlabelledTrials, int], "Aligned | ReadIn | Bundle"]
"""``align(bundle, trials, seed)``: the target day's trials in its own channels. A function of a module: it goes to a worker."""


def erdiff_default(bundle: Bundle, trials: UnlabelledTrials, seed: int) -> erdiff.Candidate:
    """Run our aligner as a user gets it."""
    return erdiff.align(bundle, trials, AlignConfig(), seed)


def ours() -> dict[str, Ours]:
    """Give our aligner under the name that tables show: what the package's own command compares."""
    return {"ours": erdiff_default}


@dataclass(frozen=True)
class Fitted:
    """A fitted method: ``adapted`` decodes ``day`` (the target day in the channels that it takes) through ``bundle``.

    ``seconds`` of CPU time that fitting took, registration included. ``core``: the encoder where more than the read-in moved.
    """

    bundle: Bundle
    adapted: Adapted
    day: Session
    seconds: float
    record: dict[str, Any] = field(default_factory=dict)
    core: SourceModel | None = None

    def decode(self) -> Floats:
        """Decode the whole day causally from its first bin, the state anew after every gap: (T, K) in physical units."""
        counts = self.day.counts.astype(np.float32)
        if isinstance(self.adapted, ReadIn):
            return pipeline(self.bundle, len(self.day.channels), self.core).run(counts, self.adapted, self.day.breaks)
        return self.bundle.pipeline().run(self.adapted(counts), self.bundle.read_in, self.day.breaks)

    @property
    def read_in(self) -> ReadIn | None:
        """Its read-in, or None for a map of counts."""
        return self.adapted if isinstance(self.adapted, ReadIn) else None


@dataclass(frozen=True)
class Method:
    """A method under its ``name``, given ``trials`` calibration trials: labelled ones for kind 'supervised' alone."""

    name: str
    kind: Kind
    trials: int
    fit: Callable[[], Fitted]


@dataclass(frozen=True)
class Task:
    """One pair and seed, and what its methods share; ``work`` is a folder for what they write."""

    pair: Pair
    bundle: Bundle
    seed: int
    work: Path

    def calibration(self, trials: int, day: Session | None = None) -> UnlabelledTrials:
        """Give the first ``trials`` rewarded trials of the target day, or of ``day``, unlabelled."""
        day = day or self.pair.target
        return unlabelled(day, day.rewarded()[:trials], self.bundle.manifest.run_in)

    @property
    def scored(self) -> NDArray[np.intp]:
        """Rewarded trials of the target day that no method was given (indices)."""
        return self.pair.target.rewarded()[self.pair.calibration :]

    def registered(self, trials: int) -> tuple[Session, float]:
        """Give the target day in the source's channels and the CPU seconds that it took; as it is where the labels agree.

        Rivals and supervised refitting take channel i for channel i. Where the days' channels differ they come after the
        order-preserving matching that ours may use, found on the same ``trials``: they are beaten by refinement or not at all.
        """
        if trials not in self._registered:
            source, target = self.bundle.manifest.channels, self.pair.target
            if target.channels == source:
                self._registered[trials] = target, 0.0
            else:
                started = time.process_time()
                found = order_preserving(
                    self.bundle.source_trials(),
                    self.calibration(trials),
                    self.bundle.source_read_in(),
                    shuffles=0,
                    seed=self.seed,
                )
                assert found.matched is not None  # only rotations match no channels
                self._registered[trials] = reordered(target, found.matched, source), time.process_time() - started
        return self._registered[trials]

    @cached_property
    def _registered(self) -> dict[int, tuple[Session, float]]:
        return {}


def methods(task: Task, ours: Mapping[str, Ours], rivals: Sequence[str] = tuple(RIVALS)) -> Iterator[Method]:
    """Every method of one run: ours and the rivals for each number of unlabelled trials, then supervised refitting.

    Supervised refitting has the labels of its first k trials; where channels differ it has the registration of *all* calibration
    trials, since unlabelled trials cost nothing: "worth k labelled trials" is then no smaller than it should be. It is left out
    for a target day without kinematics.
    """
    for trials in task.pair.unlabelled_counts:
        for name, align in ours.items():
            yield Method(name, "ours", trials, _of_ours(task, trials, align))
        for name in rivals:
            yield Method(name, "rival", trials, _of_rival(task, trials, RIVALS[name]))
    if task.pair.target.kinematics is not None:
        for name, k in supervised_refits(task.pair.calibration).items():
            yield Method(name, "supervised", k, _of_labels(task, k))


def supervised_refits(calibration: int) -> dict[str, int]:
    """Names and numbers of labelled trials of the supervised refits, rising; all of them last."""
    return {f"supervised ({k})": k for k in LABELLED if k < calibration} | {ORACLE: calibration}


def _of_ours(task: Task, trials: int, align: Ours) -> Callable[[], Fitted]:
    def fit() -> Fitted:
        day = task.calibration(trials)
        started = time.process_time()
        made = align(task.bundle, day, task.seed)
        seconds = time.process_time() - started
        bundle = made if isinstance(made, Bundle) else task.bundle
        read_in = made if isinstance(made, ReadIn) else made.read_in
        channels = made.manifest.channels if isinstance(made, Bundle) else getattr(made, "channels", day.channels)
        if tuple(channels) != day.channels or len(read_in.weight) != len(day.channels):
            raise AlignmentError(
                f"expected a read-in for the target day's {len(day.channels)} channels, found one for {len(read_in.weight)}"
            )
        return Fitted(bundle, read_in, task.pair.target, seconds, dict(getattr(made, "record", {})), getattr(made, "core", None))

    return fit


def _of_rival(task: Task, trials: int, rival: Rival) -> Callable[[], Fitted]:
    def fit() -> Fitted:
        day, registration_s = task.registered(trials)
        source, calibration = task.bundle.source_trials(), task.calibration(trials, day)
        started = time.process_time()
        adapted = rival.method(task.bundle, source, calibration, task.seed)
        return Fitted(task.bundle, adapted, day, time.process_time() - started + registration_s)

    return fit


def _of_labels(task: Task, k: int) -> Callable[[], Fitted]:
    def fit() -> Fitted:
        day, registration_s = task.registered(task.pair.calibration)
        started = time.process_time()
        made = supervised(task.bundle, day, day.rewarded()[:k], task.seed, task.work / f"supervised-{k}")
        return Fitted(made, made.read_in, day, time.process_time() - started + registration_s)

    return fit


def reordered(session: Session, matched: NDArray[np.intp], source_channels: tuple[str, ...]) -> Session:
    """Give ``session`` with its counts in the order of ``source_channels`` and under their labels.

    ``matched`` (C_t,): the source channel of each of the session's channels, -1 for none (its counts are dropped). A source
    channel without a match has no counts.
    """
    counts = np.zeros((session.bins, len(source_channels)), session.counts.dtype)
    known = np.flatnonzero(matched >= 0)
    counts[:, matched[known]] = session.counts[:, known]
    return replace(session, counts=counts, channels=source_channels)


def pipeline(bundle: Bundle, channels: int, core: SourceModel | None = None) -> Pipeline:
    """Build the decode step for read-ins of ``channels`` rows, which may be another number than the bundle's, or another core."""
    m = bundle.manifest
    if core is None and channels == len(m.channels):
        return bundle.pipeline()
    graph = build((core or bundle.models()[0]).core, channels)
    return Pipeline(graph, bundle.decoder(), m.hidden, np.array(m.scale), np.array(m.clamp))
