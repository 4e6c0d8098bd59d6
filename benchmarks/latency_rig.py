"""A rig in a process of its own: real outlets, bins on a fixed grid, and a listener that notes when every answer came.

It plays a simulated day over and over, each bin with the trial events that lie in it just before it. Pushing and hearing are
two threads on the real-time scheduler where that is granted, which nothing but the decoder's own process competes with.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import StreamError
from bci_align.runtime.player import script
from bci_align.session.types import Session
from bci_align.streams.contract import Bin, Decoded, Flags, RigInlet, StreamSpec, TrialEvent
from bci_align.streams.registry import make_rig
from benchmarks.latency_days import days
from benchmarks.latency_process import Pipe, real_time

LINGER_S = 2.0
CONNECT_S = 60.0

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What a rig does: ``bins`` of a simulated subject over the transport of ``source`` and ``sink``."""

    source: SourceConfig
    sink: SinkConfig
    channels: int
    bin_s: float
    bins: int
    out: str
    drifted: bool = True
    """Whether the day is one on which the array has drifted: some channels are silent then."""


@dataclass(frozen=True)
class Heard:
    """What a rig noted, one entry per bin (n,).

    ``due``, ``pushed`` and ``heard`` in seconds of ``time.monotonic`` (NaN: not pushed, no answer), ``t`` its stamp on the
    sender's clock; ``answers`` how many samples came for it, ``t_out``, ``generation`` and ``flags`` of the first. ``order``:
    sequence numbers of all samples in the order in which they came. ``losses``: how often the decoder's output went away.
    """

    due: Floats
    pushed: Floats
    t: Floats
    heard: Floats
    t_out: Floats
    answers: Integers
    generation: Integers
    flags: Integers
    order: Integers
    losses: int | Integers = 0

    @classmethod
    def load(cls, path: str | Path) -> Heard:
        """Read what :func:`run` wrote."""
        with np.load(path, allow_pickle=False) as f:
            return cls(**{k: f[k] for k in cls.__dataclass_fields__})

    @property
    def round_trip(self) -> Floats:
        """Seconds from push to answer (n,)."""
        return self.heard - self.pushed

    def chains(self, generation: Integers) -> tuple[str, str]:
        """SHA-256 over (seq, generation, t) of all bins as they were sent, and of all samples as they came back.

        ``generation`` (m,) is what must have decoded each bin that was sent, by what the live system said of its swaps.
        """
        sent = chain((k, int(g), float(self.t[k])) for k, g in enumerate(generation.tolist()))
        order = self.order.tolist()
        back = chain((k, int(self.generation[k]), float(self.t_out[k])) for k in order)
        return sent, back


def chain(rows: Iterator[tuple[int, int, float]]) -> str:
    """Each row's hash goes into the next one's, so that no bin can be missing, changed, moved or there twice.

    Times count to the nanosecond, which is what ZeroMQ's messages hold of them.
    """
    link = b""
    for seq, generation, t in rows:
        link = hashlib.sha256(link + struct.pack("<qqq", seq, generation, round(t * 1e9))).digest()
    return link.hex()


def items(session: Session, bins: int) -> Iterator[tuple[list[TrialEvent], NDArray[np.float32]]]:
    """Events (times from the stream's start) and counts of every bin of ``session`` played over and over."""
    per_bin, counts, length = script(session), session.counts.astype(np.float32), session.bins
    for k in range(bins):
        lap, at = divmod(k, length)
        events = [TrialEvent(e.t + lap * length * session.bin_s, e.name, e.value) for e in per_bin[at]]
        yield events, counts[at]


class _Ear(threading.Thread):
    """Notes every sample, and connects again when the decoder's output goes: another decoder may take over."""

    def __init__(self, inlet: RigInlet, bins: int) -> None:
        super().__init__(name="rig ear", daemon=True)
        self._inlet = inlet
        self.heard, self.t_out = np.full(bins, np.nan), np.full(bins, np.nan)
        # Touched at once, so that the process does not grow while it plays.
        self.answers, self.generation, self.flags = (np.full(bins, 0, np.int64) for _ in range(3))
        self.order = np.full(2 * bins + 1000, 0, np.int64)
        self.n = 0
        self.last = -1
        self.stale = self.losses = 0
        self.error: Exception | None = None
        self.stop = False

    def run(self) -> None:
        """Hear until told to stop."""
        try:
            while not self.stop:
                try:
                    samples = self._inlet.read(0.1)
                except StreamError:
                    self.losses += 1
                    self._again()
                    continue
                now = time.monotonic()
                for s in samples:
                    self._note(s, now)
        except Exception as e:  # for the pushing thread to raise
            self.error = e

    def _again(self) -> None:
        while not self.stop:
            self._inlet.close()
            with contextlib.suppress(StreamError):
                self._inlet.open(1.0)
                return

    def _note(self, s: Decoded, now: float) -> None:
        if s.flags & Flags.STALE:  # no answer to a bin
            self.stale += 1
            return
        k = s.seq_in
        if not 0 <= k < len(self.heard):
            raise ValueError(f"a sample for bin {k}, which was never sent")
        self.answers[k] += 1
        if self.answers[k] == 1:
            self.heard[k], self.t_out[k], self.generation[k], self.flags[k] = now, s.t, s.generation, int(s.flags)
        if self.n < len(self.order):
            self.order[self.n] = k
            self.n += 1
        self.last = max(self.last, k)


def run(plan: Plan, pipe: Pipe) -> None:
    """One rig: announce, wait for the decoder and for the parent's word, play, stay until all is answered, write ``plan.out``."""
    day = days(0, plan.channels, plan.bin_s)[plan.drifted]
    scheduler = real_time(True)  # before any LSL or ZeroMQ object: their threads inherit it
    outlet, inlet = make_rig(plan.source.kind, plan.source, plan.sink)
    due, pushed, t = (np.full(plan.bins, np.nan) for _ in range(3))
    ear = _Ear(inlet, plan.bins)
    try:
        outlet.open(StreamSpec(day.channels, plan.bin_s, "benchmark rig", uuid.uuid4().hex))
        pipe.send(open=True, scheduler=scheduler)
        outlet.wait_for_decoder(CONNECT_S)
        inlet.open(CONNECT_S)
        ear.start()
        pipe.send(connected=True)
        while not pipe.told(1.0):
            pass
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles
        ahead = _clock(plan.source.kind) - time.monotonic()
        start = time.monotonic() + plan.bin_s
        told = 0.0
        for k, (events, counts) in enumerate(items(day, plan.bins)):
            due[k] = start + (k + 1) * plan.bin_s
            t[k] = due[k] + ahead
            left = due[k] - time.monotonic()
            if left > 0:
                time.sleep(left)
            for e in events:
                outlet.push(TrialEvent(start + ahead + e.t, e.name, e.value))
            pushed[k] = time.monotonic()
            outlet.push(Bin(k, float(t[k]), counts))
            if ear.error is not None:
                raise ear.error
            if pushed[k] - told > 1.0:
                told = float(pushed[k])
                pipe.send(sent=k + 1, heard=ear.n, stale=ear.stale)
                if pipe.told():  # to end early
                    break
        patience = time.monotonic() + LINGER_S
        while ear.last < k and time.monotonic() < patience:
            time.sleep(0.02)
        time.sleep(0.2)  # for what comes twice
        ear.stop = True
        ear.join()
        arrays = {k: getattr(ear, k) for k in ("heard", "t_out", "answers", "generation", "flags")}
        np.savez(plan.out, due=due, pushed=pushed, t=t, order=ear.order[: ear.n], losses=ear.losses, **arrays)
        pipe.send(done=True, stale=ear.stale)
        while not pipe.told(1.0):  # the streams stay until the decoder has been stopped
            pass
    finally:
        inlet.close()
        outlet.close()


def _clock(kind: str) -> float:
    """Seconds on the clock that stamps this transport's samples."""
    if kind == "lsl":
        import pylsl

        return float(pylsl.local_clock())
    return time.monotonic()
