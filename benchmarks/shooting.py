"""A live system to shoot at, and what is looked at after every shot."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError, RuntimeFault
from bci_align.runtime import audit, committed
from bci_align.runtime.calls import Call
from bci_align.runtime.recording import Recording
from bci_align.runtime.shared import PREFIX
from bci_align.runtime.tape import Op
from bci_align.streams.contract import Flags
from bci_align.streams.registry import make_rig
from bci_align_sim.rig_loop import Listener
from benchmarks.common import say
from benchmarks.faults_process import ALIGNING, PATIENT, recordings
from benchmarks.rigged import Ground, Rig
from benchmarks.supervised import Supervised, alive

VICTIMS = {"decoder": 0.4, "aligner": 0.25, "recorder": 0.2, "supervisor": 0.15}
"""Who is killed, and how often."""

MOST_S = 1.0
WAIT_S = 3.0
"""Longest wait between two kills, beside the time that it takes to replace who was killed."""

PATIENCE_S = 120.0


@dataclass
class Kill:
    """One kill and what came of it; times in seconds, NaN where it does not apply or never happened."""

    victim: str
    phase: str
    """What was going on: the last that was said of a candidate."""
    next_s: float = math.nan
    """Until the next answered bin that was sent after the kill; of a killed supervisor, until its decoder had ended."""
    ended_s: float = math.nan
    """Of a killed supervisor: until all of its processes had ended and its shared memory was gone."""
    at: float = math.nan
    """When, in seconds of ``time.monotonic``."""
    loss_s: float = math.nan
    """Seconds before the kill of which the recording knows nothing."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class Shot:
    """All ``kills``, the highest generation that was committed, and answered bins that are in no recording."""

    kills: list[Kill]
    generations: int
    unrecorded: int


class Range:
    """A rig and a live system to shoot at; use as a context manager."""

    def __init__(self, ground: Ground, over: str, most_s: float) -> None:
        self.ground, self._most_s = ground, most_s
        self.config = ground.config(over, **ALIGNING, supervisor=PATIENT)
        self.out = Path(self.config.out)
        self.out.mkdir()
        self.generations = 0
        self._runs = 0
        self._dead: set[int] = set()
        _, inlet = make_rig(over, self.config.source, self.config.sink)
        self.rig = Rig(self.config, ground.day, "--connect-s", "0")
        self.ear = Listener(inlet)
        self.run: Supervised | None = None

    def __enter__(self) -> Range:
        try:
            self.start(self.ground.bundle)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *args: object) -> None:
        if self.run is not None:
            self.run.close()
        self.ear.close()
        self.rig.close()

    def start(self, bundle: Bundle) -> None:
        """Start a run with ``bundle`` and wait for it to be complete."""
        if self.run is not None:
            self.run.close()
        self._runs += 1
        config = LiveConfig.model_validate(self.config.model_dump() | {"bundle": str(bundle.path)})
        self.run = Supervised(config, self.ground.folder / f"run-{self._runs}.json")
        if self._runs == 1:
            self.ear.start(PATIENCE_S)
        since = time.monotonic()
        self.must(lambda: bool(self.answered(since)) and all(self.run_now.up.values()), "no complete run")

    @property
    def run_now(self) -> Supervised:
        """The run that there is."""
        assert self.run is not None
        return self.run

    def must(self, done: Callable[[], bool], otherwise: str) -> None:
        """Wait for ``done``; :class:`RuntimeFault` after a long time."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeFault(f"{otherwise} within {PATIENCE_S:g} s")
            time.sleep(0.005)

    def answered(self, since: float) -> list[float]:
        """When bins that were sent after ``since`` were answered."""
        sent = {b.seq for b in self.rig.bins[-2000:] if b.at > since}
        n = len(self.ear.samples)
        pairs = zip(self.ear.times[max(n - 2000, 0) : n], self.ear.samples[max(n - 2000, 0) : n], strict=True)
        return [t for t, s in pairs if s.seq_in in sent and not s.flags & _NO_ANSWER]

    def shoot(self, victim: str) -> Kill:
        """Kill ``victim`` now, and look at everything."""
        run = self.run_now
        needed = {"decoder": ("decoder", "standby"), "supervisor": ("recorder",)}.get(victim, (victim,))
        self.must(lambda: all(run.up[who] not in (None, *self._dead) for who in needed), f"no {victim} to kill")
        if "recorder" in needed:
            self.must(self._recording_goes_on, "no recording that keeps up")
        pid = run.process.pid if victim == "supervisor" else run.up[victim]
        assert pid is not None
        kill = Kill(victim, next((r["report"] for _, r in reversed(run.reports) if r["report"] in _PHASES), "start"))
        recording = recordings(self.out)[-1]
        at = kill.at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._dead.add(pid)
        if victim == "supervisor":
            self._ended(kill, run, at)
        else:
            self._goes_on(kill, at, victim)
        self._whole(kill, recording, at)
        if victim == "supervisor":
            self._again(kill)
        return kill

    def _recording_goes_on(self) -> bool:
        """Whether the newest recording keeps up: after one was killed, the next has to catch up first."""
        sent = {b.seq: b.at for b in self.rig.bins}
        found = sent.get(last_bin(recordings(self.out)[-1]), -math.inf) > time.monotonic() - 2 * self._most_s
        time.sleep(0 if found else 0.2)
        return found

    def _goes_on(self, kill: Kill, at: float, victim: str) -> None:
        self.must(lambda: bool(self.answered(at)), f"no answer after the {victim} was killed")
        kill.next_s = self.answered(at)[0] - at
        if kill.next_s > self._most_s:
            kill.wrong.append(f"expected the next answer within {self._most_s:g} s, found {kill.next_s:.2f} s")

    def _ended(self, kill: Kill, run: Supervised, at: float) -> None:
        decoder = run.up["decoder"]
        self.must(lambda: decoder is None or not alive(decoder), "the decoder of a killed supervisor did not end")
        kill.next_s = time.monotonic() - at
        self.must(lambda: not any(map(alive, run.everybody)), "not all processes of a killed supervisor ended")
        self.must(lambda: not list(Path("/dev/shm").glob(f"{PREFIX}{run.process.pid}_*")), "shared memory was left")
        kill.ended_s = time.monotonic() - at

    def _again(self, kill: Kill) -> None:
        last = committed.load(self.out, Path(self._bundle()))
        self.start(last)
        ready = [r for _, r in self.run_now.reported("ready") if r["from"] == "decoder"]
        if not ready or ready[0]["generation"] != last.manifest.generation:
            kill.wrong.append(f"expected a run from generation {last.manifest.generation}, found {ready}")

    def _whole(self, kill: Kill, recording: Path, at: float) -> None:
        """Look at what is on the disk."""
        try:
            generation = committed.load(self.out, Path(self._bundle())).manifest.generation
            self.generations = max(self.generations, generation)
        except BciAlignError as e:
            kill.wrong.append(f"committed generation: {e}")
        try:
            audit.verify(self.out)
        except BciAlignError as e:
            kill.wrong.append(f"decisions: {e}")
        try:
            last = last_bin(recording)
        except BciAlignError as e:
            kill.wrong.append(f"recording: {e}")
            return
        if kill.victim in ("recorder", "supervisor"):
            sent = {b.seq: b.at for b in self.rig.bins}  # all: what is left of a killed supervisor may take its time to end
            kill.loss_s = max(at - sent.get(last, -math.inf), 0.0)
            if kill.loss_s > self._most_s:
                kill.wrong.append(f"expected a recording up to {self._most_s:g} s before the kill, found {kill.loss_s:.2f} s")

    def _bundle(self) -> str:
        """The bundle of the run that there is (the last one's word, for a new run writes it anew)."""
        text = (self.ground.folder / f"run-{self._runs}.json").read_text(encoding="utf-8")
        return LiveConfig.model_validate_json(text).bundle


_NO_ANSWER = Flags.STALE | Flags.LOST | Flags.FAILED
_PHASES = ("aligning", "verdict", "warm", "shadow", "swapped", "committed", "rolled_back", "dropped")


def bins(path: Path) -> list[int]:
    """Numbers of the bins in a recording."""
    with Recording(path) as recording:
        return [c.argument.seq for c in recording.calls() if isinstance(c, Call) and c.op == Op.BIN]


def last_bin(path: Path) -> int:
    """Number of the last bin in a recording; -1 without one."""
    return (bins(path) or [-1])[-1]


def unrecorded(aim: Range, kills: list[Kill]) -> int:
    """Bins that were answered and are in no recording, but for the last second before a killed supervisor and what followed."""
    on_disk = {seq for path in recordings(aim.out) for seq in bins(path)}
    ends = [(k.at - MOST_S, k.at + k.next_s + MOST_S) for k in kills if k.victim == "supervisor"]
    heard = zip(aim.ear.times, aim.ear.samples, strict=True)
    return len(
        {
            s.seq_in
            for t, s in heard
            if s.seq_in not in on_disk and not s.flags & _NO_ANSWER and not any(a <= t <= b for a, b in ends)
        }
    )


def shoot_all(ground: Ground, kills: int, seed: int, over: str, most_s: float = MOST_S) -> Shot:
    """Kill at random moments, and look at what is left."""
    rng = np.random.default_rng(seed)
    victims = rng.choice(list(VICTIMS), kills, p=list(VICTIMS.values()))
    done: list[Kill] = []
    with Range(ground, over, most_s) as aim:
        for i, victim in enumerate(victims):
            time.sleep(rng.uniform(0.0, WAIT_S))
            done.append(aim.shoot(str(victim)))
            k = done[-1]
            say(
                f"{i + 1}/{kills} {k.victim} ({k.phase}): next {1e3 * k.next_s:.0f} ms"
                + (f", loss {k.loss_s:.2f} s" if k.loss_s == k.loss_s else "")
                + "".join(f"; WRONG: {w}" for w in k.wrong)
            )
        aim.run_now.close()
        return Shot(done, aim.generations, unrecorded(aim, done))
