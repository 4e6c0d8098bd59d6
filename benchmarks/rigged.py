"""A live system in front of a faulty rig: both real, in processes of their own, with the decoder's output heard from here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import LiveConfig, TrainConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.replay import _free_ports
from bci_align.runtime.reports import Report
from bci_align.session.io import load, save
from bci_align.session.types import Session, Trials
from bci_align.streams.contract import Decoded
from bci_align.streams.registry import make_rig
from bci_align.threads import one_thread
from bci_align.training import train_bundle
from bci_align_sim.day import simulate_days
from bci_align_sim.rig_loop import Listener

BIN_S = 0.02
CHANNELS = 24
READY_S = 90.0
ROUGH = TrainConfig(hidden=12, latents=4, run_in=5, epochs=1, prior_epochs=1)
"""Training that takes seconds: the decoder has little skill and all of the machinery."""


@dataclass(frozen=True)
class Ground:
    """What every scene stands on: a ``folder`` for all that is written, a ``bundle``, and the recorded ``day`` to play."""

    folder: Path
    bundle: Bundle
    day: Path

    @classmethod
    @one_thread()
    def lay(cls, folder: Path) -> Ground:
        """Simulate a day, train on it in some seconds, and have it played too: drift is not among the faults."""
        day, _ = simulate_days(0, (24, 1), bin_s=BIN_S, channels=CHANNELS)
        save(replace(day, trials=_short(day)), folder / "day.h5")
        return cls(folder, train_bundle(day, ROUGH, 0, folder / "bundle"), folder / "day.h5")

    def again(self) -> Bundle:
        """The bundle as it lies on the disk now."""
        return load_bundle(self.bundle.path)

    def session(self) -> Session:
        """The day that the rig plays."""
        return load(self.day)

    def config(self, over: str, **more: Any) -> LiveConfig:
        """A configuration with streams and an output directory that no other scene uses."""
        me = uuid.uuid4().hex[:8]
        ports = _free_ports(3)
        fields: dict[str, Any] = {
            "bundle": str(self.bundle.path),
            "source": {"kind": over, "stream": f"c{me}", "markers": f"e{me}", "address": ports[0], "connect_timeout_s": 30.0},
            "sink": {"kind": over, "stream": f"v{me}", "address": ports[1]},
            "control": {"address": ports[2]},
            "out": str(self.folder / f"out-{me}"),
            "recalibrations": 0,
        }
        return LiveConfig.model_validate(fields | more)


def _short(day: Session) -> Trials:
    """Trials that are short enough for an alignment every two seconds: 0.5 s in each 0.8 s, all rewarded."""
    start = np.arange(0.1, day.bins * BIN_S - 1.0, 0.8)
    return Trials(start, np.full(len(start), np.nan), start + 0.5, np.ones(len(start), bool))


@dataclass(frozen=True)
class Sent:
    """One bin as the rig sent it: its number, when (seconds of ``time.monotonic``), and the kinds of fault upon it."""

    seq: int
    at: float
    kinds: tuple[str, ...] = ()


class Rig:
    """:mod:`bci_align_sim.faulty_rig` as a process; what it says is taken in by a thread."""

    def __init__(self, config: LiveConfig, day: Path, *words: str) -> None:
        c = config.source
        command = [sys.executable, "-m", "bci_align_sim.faulty_rig", "--over", c.kind, "--session", str(day)]
        command += ["--source-id", c.stream, "--markers-id", c.markers, "--address", c.address, *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: list[dict[str, Any]] = []
        """Everything but its bins; ``index`` is how many bins it had sent by then."""
        self.bins: list[Sent] = []
        self._thread = threading.Thread(target=self._read, name="rig's words", daemon=True)
        self._thread.start()

    def order(self, do: str, **more: Any) -> None:
        """Send one order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | more) + "\n")
        self.process.stdin.flush()

    def heard(self, what: str) -> list[dict[str, Any]]:
        """What it said of kind ``what``."""
        return [s for s in list(self.said) if s["say"] == what]

    def await_word(self, what: str) -> None:
        """Wait until it has said ``what``; :class:`RuntimeFault` where it ends first."""
        while not self.heard(what):
            if self.process.poll() is not None:
                raise RuntimeFault(f"the rig: expected it to say {what!r}, found that it left with {self.process.returncode}")
            time.sleep(0.01)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal; when, in seconds of ``time.monotonic``."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def close(self) -> None:
        """End it for certain; harmless when called twice."""
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # an order that it did not live to read
                continue

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["say"] == "bin":
                self.bins.append(Sent(said["seq"], said["at"], tuple(said["kinds"])))
            else:
                self.said.append(said | {"index": len(self.bins)})


class Scene:
    """A rig, a live system and a listener, connected; use as a context manager.

    ``spare`` rigs wait, started and not yet open, for the moment in which the first one is replaced.
    """

    def __init__(self, ground: Ground, config: LiveConfig, methods: Methods | None = None, slack_s: float = 0.25) -> None:
        self.ground, self.config = ground, config
        self.slack_s = slack_s
        """Lateness that a loaded machine may add to any time that a row promises, seconds."""
        self.live = LiveSystem(config, methods)
        self.rigs: list[Rig] = []
        self.reports: list[tuple[float, Report]] = []
        """Every report of the live system and when it was heard."""
        self.error: Exception | None = None
        """What :meth:`LiveSystem.poll` raised, if anything: then nothing decodes any more."""
        _, inlet = make_rig(config.sink.kind, config.source, config.sink)
        self.ear = Listener(inlet)

    def __enter__(self) -> Scene:
        try:
            self.rigs.append(Rig(self.config, self.ground.day, "--connect-s", str(READY_S)))
            self.rig.await_word("open")
            self.live.__enter__()
            self.live.wait_ready(READY_S)
            self.ear.start(READY_S)
            self.must(lambda: bool(self.ear.samples), READY_S, "no decoded sample")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for rig in self.rigs:
                rig.close()
        finally:
            self.reports += [(time.monotonic(), r) for r in self.live.stop()]
            self.ear.close()

    def channels(self, ranks: Sequence[int]) -> list[int]:
        """Positions of channels by their rate on the source day: 0 is the one that fires most."""
        order = np.argsort(-self.ground.bundle.read_in.mean)
        return [int(order[r]) for r in ranks]

    @property
    def rig(self) -> Rig:
        """The rig that plays."""
        return self.rigs[-1]

    @property
    def over(self) -> str:
        """Transport."""
        return self.config.source.kind

    @staticmethod
    def now() -> float:
        """Seconds on the clock of all times here."""
        return time.monotonic()

    @property
    def out(self) -> Path:
        """Where the live system writes."""
        return Path(self.config.out)

    def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Keep the live system going until ``done`` or for ``timeout_s`` seconds; whether it is done."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                return False
            if self.error is not None:
                time.sleep(0.01)
                continue
            try:
                self.reports += [(time.monotonic(), r) for r in self.live.poll(0.01)]
            except Exception as e:
                self.error = e
        return True

    def must(self, done: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """As :meth:`until`; :class:`RuntimeFault` where it is not done in time."""
        if not self.until(done, timeout_s):
            because = f": {self.error}" if self.error else ""
            raise RuntimeFault(f"{otherwise} within {timeout_s:g} s{because}")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.until(lambda: False, seconds)

    def reported(self, kind: str, since: float = 0.0) -> list[tuple[float, Report]]:
        """Reports of one kind that were heard after ``since`` (seconds of ``time.monotonic``)."""
        return [(t, r) for t, r in self.reports if r["report"] == kind and t >= since]

    def heard(self, since: float) -> list[tuple[float, Decoded]]:
        """Samples that came after ``since``, with their times of arrival."""
        n = len(self.ear.samples)
        return [(t, s) for t, s in zip(self.ear.times[:n], self.ear.samples[:n], strict=True) if t >= since]

    def answered(self, first: int, begin: float) -> tuple[list[Sent], list[tuple[float, Decoded]]]:
        """Bins that the rig has sent from its ``first`` on, and what came since ``begin`` once the last of them was answered.

        Of bins whose sending was read of late, that may be a little earlier.
        """
        sent = self.rig.bins[first:]
        if sent:
            begin = min(begin, sent[0].at)
            self.until(lambda: any(s.seq_in >= sent[-1].seq for _, s in self.heard(sent[-1].at)), 2.0)
        return sent, self.heard(begin)

    def spare(self, *words: str) -> Rig:
        """Start another rig on the same streams, which opens when told to."""
        rig = Rig(self.config, self.ground.day, "--hold", "--connect-s", "0", *words)
        self.until(lambda: bool(rig.heard("holding")), READY_S)
        rig.await_word("holding")
        return rig
