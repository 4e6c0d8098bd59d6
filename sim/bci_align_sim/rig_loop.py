"""How the simulated rig keeps time and talks: bins sent on a monotonic clock, the decoder heard in a thread of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bci_align.errors import StreamError
from bci_align.session.types import Session, bin_of
from bci_align.streams.contract import END, GO, START, Bin, Decoded, RigInlet, RigOutlet, TrialEvent
from bci_align_sim.closed_loop import ClosedLoop
from bci_align_sim.task import KINEMATICS_NAMES
from bci_align_sim.tuning import FloatArray

_ANSWER_SHARE = 0.75
"""Share of a bin after which the closed loop takes the newest decoded velocity; the rest is for the subject's step, so that
the bin's events can be sent before the bin ends."""

STALE_S = 0.2
"""A decoded velocity older than this no longer moves the cursor."""


class Pacer:
    """Waits for points of the stream's time; ``speed`` is stream seconds per second, infinity for no waiting at all.

    Deadlines count from one start, so lateness in one bin is not passed on to the next.
    """

    def __init__(
        self, speed: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._speed, self._now, self._sleep = speed, now, sleep
        self._start = now()
        self.late_s: list[float] = []
        """How late each deadline was met, seconds."""

    def until(self, stream_s: float) -> None:
        """Sleep until ``stream_s`` seconds of the stream have gone by."""
        if math.isinf(self._speed):
            return
        deadline = self._start + stream_s / self._speed
        wait = deadline - self._now()
        if wait > 0:
            self._sleep(wait)
        self.late_s.append(max(self._now() - deadline, 0.0))


class Listener:
    """Hears the decoder in a thread, which alone touches the inlet, and connects again after a loss."""

    def __init__(self, inlet: RigInlet) -> None:
        self._inlet = inlet
        self._news = threading.Condition()
        self._stop = False
        self._names: tuple[str, ...] = ()
        self._error = "no attempt to connect yet"
        self.samples: list[Decoded] = []
        """Every sample heard, in order of arrival."""
        self.times: list[float] = []
        """When each of them had come, seconds of ``time.monotonic``."""
        self.losses = 0
        """How often the decoder went away."""
        self._thread = threading.Thread(target=self._run, name="rig-listener", daemon=True)

    def start(self, timeout_s: float) -> tuple[str, ...]:
        """Begin to listen; gives the output names, or :class:`StreamError` when there is no decoder in time."""
        self._thread.start()
        with self._news:
            if not self._news.wait_for(lambda: self._names, timeout_s):
                raise StreamError(f"the decoder's output was not there within {timeout_s:g} s: {self._error}")
            return self._names

    def columns(self, names: tuple[str, ...]) -> list[int]:
        """Where the outputs ``names`` stand in a sample; :class:`StreamError` when one is not among the decoder's."""
        if missing := [n for n in names if n not in self._names]:
            found = ", ".join(self._names) or "nothing"
            raise StreamError(f"the decoder's output: expected {', '.join(names)}, found {found} (no {', '.join(missing)})")
        return [self._names.index(n) for n in names]

    def wait_for(self, seq: int, timeout_s: float) -> bool:
        """Whether the answer to bin ``seq`` or a later one has come, waiting at most ``timeout_s``."""
        with self._news:
            return self._news.wait_for(lambda: bool(self.samples) and self.samples[-1].seq_in >= seq, timeout_s)

    def latest(self) -> Decoded | None:
        """The newest sample."""
        with self._news:
            return self.samples[-1] if self.samples else None

    def save(self, path: Path) -> None:
        """Write what was heard as arrays of n rows: ``seq_in``, ``t`` (s), ``values`` (n, K), ``generation``, ``flags``."""
        with self._news:
            heard = list(self.samples)
        with path.open("wb") as f:
            np.savez(
                f,
                names=np.array(self._names),
                seq_in=np.array([d.seq_in for d in heard], dtype=np.int64),
                t=np.array([d.t for d in heard], dtype=np.float64),
                values=np.array([d.values for d in heard], dtype=np.float64).reshape(len(heard), len(self._names)),
                generation=np.array([d.generation for d in heard], dtype=np.int64),
                flags=np.array([int(d.flags) for d in heard], dtype=np.int64),
            )

    def close(self) -> None:
        """Stop listening; harmless when called twice or before :meth:`start`."""
        self._stop = True
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop:
            try:
                names = self._inlet.open(2.0)
                with self._news:
                    self._names = names
                    self._news.notify_all()
                while not self._stop:
                    heard = self._inlet.read(0.05)
                    if heard:
                        with self._news:
                            self.times += [time.monotonic()] * len(heard)
                            self.samples += heard
                            self._news.notify_all()
            except StreamError as e:
                self._error = str(e)
                self.losses += bool(self._names)
            finally:
                self._inlet.close()


@dataclass
class Sent:
    """What went out."""

    bins: int = 0
    events: int = 0
    late_s: list[float] = field(default_factory=list)


def session_events(session: Session) -> list[TrialEvent]:
    """The trials of ``session`` as events in order of time (seconds from the start of bin 0); absent go cues are left out."""
    t = session.trials
    events = []
    for i in range(len(t)):
        events.append(TrialEvent(float(t.start_s[i]), START))
        if math.isfinite(t.go_s[i]):
            events.append(TrialEvent(float(t.go_s[i]), GO))
        events.append(TrialEvent(float(t.end_s[i]), END, bool(t.success[i])))
    return sorted(events, key=lambda e: e.t)  # stable: at equal times a trial ends before the next one starts


def play_session(session: Session, outlet: RigOutlet, pacer: Pacer, t0: float) -> Sent:
    """Send a recorded day. ``t0`` is the start of bin 0 on the sender's clock; bin ``k`` is stamped ``t0 + (k + 1) * bin_s``.

    Each event goes out at its own time, so always before the bin that holds it.
    """
    sent = Sent(late_s=pacer.late_s)
    events = session_events(session)
    for k, counts in enumerate(session.counts):
        while events and bin_of(events[0].t, session.bin_s) <= k:
            _send_event(outlet, pacer, events.pop(0), t0, sent)
        pacer.until((k + 1) * session.bin_s)
        outlet.push(Bin(k, t0 + (k + 1) * session.bin_s, counts.astype(np.float32)))
        sent.bins += 1
    for event in events:  # only one that falls on the very end of the recording
        _send_event(outlet, pacer, event, t0, sent)
    return sent


def play_closed_loop(
    loop: ClosedLoop, trials: int, outlet: RigOutlet, listener: Listener, pacer: Pacer, t0: float, lockstep: bool = False
) -> Sent:
    """Run the closed loop until ``trials`` are finished, stamped as :func:`play_session` does.

    The newest decoded velocity moves the cursor in each bin; one older than :data:`STALE_S` counts as zero. ``lockstep`` waits
    for the answer to each bin instead, for runs that must not depend on the machine's speed.
    """
    columns = listener.columns(KINEMATICS_NAMES)
    sent = Sent(late_s=pacer.late_s)
    bin_s, k = loop.bin_s, 0
    while len(loop.attempts) < trials:
        if lockstep and k > 0 and not listener.wait_for(k - 1, 5.0):
            raise StreamError(f"the decoder did not answer bin {k - 1} within 5 s")
        pacer.until((k + _ANSWER_SHARE) * bin_s)
        counts, events = loop.step(_velocity(listener.latest(), columns, k, bin_s))
        for event in events:
            outlet.push(TrialEvent(t0 + event.t, event.name, event.value))
            sent.events += 1
        pacer.until((k + 1) * bin_s)
        outlet.push(Bin(k, t0 + (k + 1) * bin_s, counts.astype(np.float32)))
        sent.bins += 1
        k += 1
    return sent


def _velocity(sample: Decoded | None, columns: list[int], k: int, bin_s: float) -> FloatArray:
    """The velocity (2,) that moves the cursor in bin ``k``."""
    if sample is None or (k - 1 - sample.seq_in) * bin_s > STALE_S:
        return np.zeros(2)
    return sample.values[columns]


def _send_event(outlet: RigOutlet, pacer: Pacer, event: TrialEvent, t0: float, sent: Sent) -> None:
    pacer.until(event.t)
    outlet.push(TrialEvent(t0 + event.t, event.name, event.value))
    sent.events += 1
