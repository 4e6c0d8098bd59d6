"""A rig that keeps its pace in a thread, and the settings of a run in front of it."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle
from bci_align.config import GateConfig, LiveConfig
from bci_align.errors import StreamError
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.player import script
from bci_align.runtime.replay import _free_ports
from bci_align.session.types import Session
from bci_align.streams.contract import Bin, Decoded, RigInlet, RigOutlet, StreamSpec, TrialEvent
from bci_align.streams.registry import make_rig

READY_S = 60.0

Reports = list[dict[str, Any]]


def config_for(bundle: Bundle, out: Path, kind: str = "zmq", **more: Any) -> LiveConfig:
    """A run over streams of its own, decoder and aligner alone."""
    me = uuid.uuid4().hex[:8]
    ports = _free_ports(2)
    return LiveConfig.model_validate(
        {
            "bundle": str(bundle.path),
            "source": {"kind": kind, "stream": f"c{me}", "markers": f"e{me}", "address": ports[0], "connect_timeout_s": 3.0},
            "sink": {"kind": kind, "stream": f"v{me}", "address": ports[1]},
            "calibration_trials": 6,
            "gate": GateConfig(min_trials=5),
            "supervisor": {"standby": False},
            "control": {"address": None},
            "record": {"enabled": False},
            "out": str(out),
        }
        | more
    )


@contextmanager
def rig(config: LiveConfig, session: Session) -> Iterator[tuple[RigOutlet, RigInlet]]:
    outlet, inlet = make_rig(config.source.kind, config.source, config.sink)
    try:
        outlet.open(StreamSpec(session.channels, session.bin_s, "a test rig", uuid.uuid4().hex))
        yield outlet, inlet
    finally:
        inlet.close()
        outlet.close()


def poll_until(live: LiveSystem, done: Callable[[Reports], bool], timeout_s: float = 40.0) -> Reports:
    reports: Reports = []
    deadline = time.monotonic() + timeout_s
    while not done(reports):
        assert time.monotonic() < deadline, reports
        reports += live.poll(0.05)
    return reports


def said(kind: str, **more: Any) -> Callable[[Reports], bool]:
    return lambda reports: any(r["report"] == kind and r.items() >= more.items() for r in reports)


def kill(pid: int | None, how: int = signal.SIGKILL) -> int:
    """Send a signal to one process of the run, and surely to no other: 0 and -1 would be many."""
    assert pid is not None
    assert pid > 1
    os.kill(pid, how)
    return pid


class Pace(threading.Thread):
    """Sends ``session`` over and over at ``bin_s`` per bin, and keeps what the decoder says, across decoders."""

    def __init__(self, session: Session, outlet: RigOutlet, inlet: RigInlet, pace_s: float) -> None:
        super().__init__(daemon=True)
        self._session, self._outlet, self._inlet, self._pace_s = session, outlet, inlet, pace_s
        self._over = threading.Event()
        self.samples: list[tuple[float, Decoded]] = []
        """When each sample came (monotonic seconds), and what it was."""
        self.sent = 0

    def run(self) -> None:
        per_bin, listening = script(self._session), threading.Thread(target=self._listen, daemon=True)
        listening.start()
        t0, s = time.monotonic(), self._session
        while not self._over.is_set():
            lap, k = divmod(self.sent, s.bins)
            for e in per_bin[k]:
                self._outlet.push(TrialEvent(t0 + lap * s.bins * s.bin_s + e.t, e.name, e.value))
            self._outlet.push(Bin(self.sent, t0 + (self.sent + 1) * s.bin_s, s.counts[k].astype(np.float32)))
            self.sent += 1
            self._over.wait(max(t0 + self.sent * self._pace_s - time.monotonic(), 0.0))
        listening.join()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _listen(self) -> None:
        open_ = False
        while not self._over.is_set():
            try:
                if not open_:
                    self._inlet.open(0.5)
                    open_ = True
                now = time.monotonic()
                self.samples += [(now, s) for s in self._inlet.read(0.05)]
            except StreamError:
                open_ = False
                self._inlet.close()


@contextmanager
def pace(session: Session, outlet: RigOutlet, inlet: RigInlet, pace_s: float = 0.02) -> Iterator[Pace]:
    thread = Pace(session, outlet, inlet, pace_s)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
