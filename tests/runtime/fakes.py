"""Stand-ins for the slow parts, and streams of items as a decoder meets them.

Spawned processes import this module: nothing in it brings torch, for which a run would wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.start import renormalise
from bci_align.models.read_in import ReadIn
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.player import script
from bci_align.session.types import Session, Trials
from bci_align.streams.contract import Bin, TrialEvent


class LeakyPipeline:
    """State and output: a leaky sum of the read-in's activity. Counts its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def state0(self) -> NDArray[np.float64]:
        return np.zeros(2)

    def step(self, state: Any, counts: Any, read_in: ReadIn) -> tuple[Any, NDArray[np.float64], bool]:
        self.steps += 1
        state = 0.9 * state + read_in.apply(counts)[:2]
        return state, np.clip(state, -50, 50), bool((np.abs(state) > 50).any())

    def run(self, counts: NDArray[np.float32], read_in: ReadIn) -> NDArray[np.float64]:
        state, out = self.state0(), []
        for x in counts:
            state, y, _ = self.step(state, x, read_in)
            out.append(y)
        return np.array(out)


def read_in(seed: int, channels: int = 5, hidden: int = 3) -> ReadIn:
    rng = np.random.default_rng(seed)
    f = np.float32
    return ReadIn(
        rng.random(channels, f), rng.random(channels, f), rng.standard_normal((channels, hidden), f), rng.random(hidden, f)
    )


def small_session(seed: int, bins: int = 600, channels: int = 5, bin_s: float = 0.02) -> Session:
    """Trials of random lengths, a third of their events exactly on a bin's edge, some failed, the first one very early."""
    rng = np.random.default_rng(seed)
    times: list[float] = [float(rng.integers(0, 12)) * bin_s]
    while times[-1] < (bins - 60) * bin_s:
        step = float(rng.integers(2, 30)) * bin_s if rng.random() < 1 / 3 else float(rng.uniform(0.03, 0.5))
        times.append(times[-1] + step)
    times = times[: len(times) // 2 * 2]
    start, end = np.array(times[::2]), np.array(times[1::2])
    trials = Trials(start, np.full(len(start), np.nan), end, rng.random(len(start)) < 0.8)
    counts = rng.poisson(1.0, (bins, channels)).astype(np.int32)
    return Session(counts, bin_s, tuple(f"c{i}" for i in range(channels)), trials)


def stream(session: Session, t0: float = 0.0, late: int = 0, seed: int = 0) -> Iterator[Bin | TrialEvent]:
    """``session`` as items in order of arrival; every event up to ``late`` bins after its bin."""
    rng = np.random.default_rng(seed)
    per_bin: list[list[TrialEvent]] = [[] for _ in range(session.bins + late + 1)]
    after = 0
    for k, events in enumerate(script(session)):
        for e in events:
            after = max(after, k + int(rng.integers(0, late + 1)))  # one connection: events do not overtake each other
            per_bin[after].append(TrialEvent(t0 + e.t, e.name, e.value))
    for k, events in enumerate(per_bin):
        yield from events
        if k < session.bins:
            yield Bin(k, t0 + (k + 1) * session.bin_s, session.counts[k].astype(np.float32))


@dataclass
class FakeCandidate:
    read_in: ReadIn
    record: dict[str, Any]


@dataclass
class FakeVerdict:
    accepted: bool
    reason: str
    checks: tuple[dict[str, Any], ...] = ()


def quick_align(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> FakeCandidate:
    progress(1, 1)
    return FakeCandidate(renormalise(bundle.read_in, trials), {"method": "quick", "lengths": [len(t) for t in trials.counts]})


def poisoned_align(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> FakeCandidate:
    r = bundle.read_in
    return FakeCandidate(ReadIn(r.mean, r.gain, r.weight * np.float32(3e38), r.bias), {})


def endless_align(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> FakeCandidate:
    """Hangs without ever looking whether it should stop."""
    while True:
        time.sleep(0.05)


def broken_align(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> FakeCandidate:
    raise ZeroDivisionError("a defect in the aligner")


def accept(bundle: Any, incumbent: Any, candidate: Any, trials: Any, config: Any) -> FakeVerdict:
    return FakeVerdict(True, "every check passed")


def refuse(bundle: Any, incumbent: Any, candidate: Any, trials: Any, config: Any) -> FakeVerdict:
    return FakeVerdict(
        False, "spread of vx is 9, expected 0.5 to 2", ({"name": "spread", "value": np.float64(9.0), "passed": False},)
    )


QUICK = Methods(quick_align, accept)
REFUSING = Methods(quick_align, refuse)
POISONED = Methods(poisoned_align, accept)
ENDLESS = Methods(endless_align, accept)
BROKEN = Methods(broken_align, accept)
