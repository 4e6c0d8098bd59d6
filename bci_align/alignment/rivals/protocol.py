"""What every rival is: unlabelled trials of two days in, a read-in or a causal map of counts out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.metrics import Floats
from bci_align.evaluation.score import difference
from bci_align.models.read_in import Array, ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread


class CountsMap(Protocol):
    """A causal map of today's counts (T, C) to source-like counts (T, C) float32, decoded with the bundle's own read-in.

    Every call starts from the state that calibration left: row ``t`` of the result depends on rows ``0 .. t`` alone.
    """

    def __call__(self, counts: Array) -> Array: ...


Adapted = ReadIn | CountsMap
"""What a rival returns: a read-in where its result is linear in the counts, else a map of the counts."""

Method = Callable[[Bundle, UnlabelledTrials, UnlabelledTrials, int], Adapted]
"""``method(bundle, source, trials, seed)``: the source day's and the target day's trials, in any order, neither labelled."""


@dataclass(frozen=True)
class Rival:
    """A method of others under its ``name``, with one line on what it does (``about``) and where it is from (``citation``)."""

    name: str
    method: Method
    about: str
    citation: str


def decode(bundle: Bundle, adapted: Adapted, counts: Array, breaks: Collection[int] = ()) -> Floats:
    """Decode ``counts`` (T, C) through what a rival returned, the state anew at ``breaks``: outputs (T, K), physical units."""
    if isinstance(adapted, ReadIn):
        return bundle.pipeline().run(counts, adapted, breaks)
    return bundle.pipeline().run(adapted(counts), bundle.read_in, breaks)


_A = TypeVar("_A", covariant=True)


def checked(
    method: Callable[[Bundle, UnlabelledTrials, UnlabelledTrials, int], _A],
) -> Callable[[Bundle, UnlabelledTrials, UnlabelledTrials, int], _A]:
    """Let ``method`` see only trials of the bundle's channels and bin width, and run it on one torch thread."""

    @wraps(method)
    def run(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> _A:
        for what, day in (("source trials", source), ("calibration trials", trials)):
            _check(bundle, day, what)
        with one_thread():
            return method(bundle, source, trials, seed)

    return run


def _check(bundle: Bundle, trials: UnlabelledTrials, what: str) -> None:
    """Rivals take channel ``i`` of one day for channel ``i`` of the other; anything else would be silently wrong."""
    m = bundle.manifest
    if trials.channels != m.channels:
        raise MismatchError(f"{what}: {difference(m.channels, trials.channels)}")
    if abs(trials.bin_s - m.bin_s) > 1e-9:
        raise MismatchError(f"{what}: expected bins of {m.bin_s:g} s as in the bundle, found {trials.bin_s:g} s")
    if sum(len(t) for t in trials.bodies()) < 2:
        raise AlignmentError(f"{what}: expected at least 2 bins of trials to fit on, found fewer")


@dataclass(frozen=True)
class Normalised:
    """Both days' trials in units of each day's own standard deviation.

    ``start`` is the re-normalised read-in; ``source`` (n, C) and ``target`` (m, C) float64 are the bins of the trials, run-in
    left out, in the bundle's and in ``start``'s normaliser.
    """

    start: ReadIn
    source: NDArray[np.float64]
    target: NDArray[np.float64]


def normalised(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials) -> Normalised:
    """Re-normalise, the common start of every rival that may have one."""
    start = renormalise(bundle.read_in, trials)
    s, t = (np.concatenate(day.bodies()).astype(np.float64) for day in (source, trials))
    r = bundle.read_in
    return Normalised(start, (s - r.mean) * r.gain, (t - start.mean) * start.gain)


def to_source_counts(read_in: ReadIn, activity: Array) -> Array:
    """Turn normalised activity (T, C) into counts (T, C) that ``read_in``'s normaliser maps back to it.

    A channel that was silent on the source day has gain 0 and gets its mean: no count would say anything there.
    """
    sd = np.divide(1.0, read_in.gain, out=np.zeros_like(read_in.gain), where=read_in.gain > 0)
    return (read_in.mean + activity * sd).astype(np.float32)
