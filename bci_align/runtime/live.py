"""The live system: its processes, their shared memory, and one place that hears what they have to say and takes orders.

Reports are dictionaries with ``from`` (``decoder``, ``standby``, ``aligner``, ``recorder`` or ``live``) and ``report``:

=================  ==================================================================================================
decoder            ``ready`` (stream, channels, bin_s, generation, scheduler: what was granted), ``link`` (state, sentence,
                   restarted), ``failed_closed`` (sentence), ``ended`` (why, bins, gaps, bad, malformed_events), and what
                   happens to bins and candidates, see :meth:`~bci_align.runtime.decode_loop.DecodeLoop.news`
standby            ``standing_by`` (broken: what is wrong with the bundle that it would decode with, if anything)
aligner            ``ready``, ``aligning`` (generation, trials, dropped), ``drift`` (score, parts, verdict: 'align' or 'do not
                   align', sentence), ``progress`` (done, total), ``judging`` (generation), ``verdict`` (accepted, reason,
                   checks, generation, trials, seconds, path if accepted), ``missed`` (records), ``finished``
recorder           ``ready`` and what :mod:`bci_align.runtime.recorder_process` tells
live               ``died`` (who, reason, again_s: seconds until it is started again, none: it stays down), ``log_failed``
                   (reason), ``status`` (sentence): how the collecting goes and what was faulty, where that is worth
                   saying and at most every 30 s
=================  ==================================================================================================

A decoder that dies is replaced; what ends the run is raised as the exception it was.
"""

from __future__ import annotations

import multiprocessing.connection
import time
from collections import deque
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any

from bci_align.bundle.store import load_bundle
from bci_align.config import LiveConfig
from bci_align.errors import ConfigError, RuntimeFault
from bci_align.runtime import committed
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.check_config import check_config
from bci_align.runtime.control import ControlServer
from bci_align.runtime.desk import Desk
from bci_align.runtime.metrics import MetricsServer, Page
from bci_align.runtime.process import OrderlyExit, as_child
from bci_align.runtime.reports import Report, as_error
from bci_align.runtime.scribe import Scribe
from bci_align.runtime.shared import Cell, Shared
from bci_align.runtime.team import Team
from bci_align.runtime.watch import Watch

_LOOKS = 4
"""Looks at the heartbeats in the time after which a process counts as hung."""


class LiveSystem:
    """All processes of one run; use as a context manager.

    ``methods`` replaces ERDiff and its gate, e.g. in tests. Entering raises what is wrong with the configuration or the
    bundle at once; what is wrong with the stream comes out of :meth:`wait_ready` or :meth:`poll`. Processes are looked after in
    :meth:`poll`, so it has to be called again and again.
    """

    def __init__(self, config: LiveConfig, methods: Methods | None = None) -> None:
        self._config, self._methods = config, methods
        self._shared: Shared | None = None
        self._team: Team | None = None
        self._desk: Desk | None = None
        self._control: ControlServer | None = None
        self._metrics: MetricsServer | None = None
        self._waiting: deque[Report] = deque()
        self._ended = False
        self._exit: OrderlyExit | None = None
        success = config.source.events.success if config.successful_only else None
        self._watch = Watch(config.calibration_trials, success)
        self.bundle = load_bundle(Path(config.bundle))
        self._scribe = Scribe(Path(config.out), self.bundle, self._say)

    def __enter__(self) -> LiveSystem:
        c = self._config
        check_config(c)
        try:
            Path(c.out).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"out: {c.out!r}: cannot be made a directory ({e.strerror})") from None
        committed.write(Path(c.out), self.bundle.path, self.bundle.path)
        m = self.bundle.manifest
        self._exit = OrderlyExit()
        try:
            with as_child():  # the last to leave: it removes the shared memory of a parent that was killed
                resource_tracker.ensure_running()
            self._shared = Shared.create(len(m.channels), m.hidden, outputs=len(m.outputs))
            self._team = Team(c, self._shared, self.bundle, self._methods, self._say)
            self._desk = Desk(c, self._shared, self._team, self._scribe.progress)
            if c.control.address is not None:
                self._control = ControlServer(c.control, self._desk.obey)
            if c.control.metrics_port is not None:
                page = Page(self._shared, self._team.restarts, lambda: self._scribe.progress.state)
                self._metrics = MetricsServer(c.control.metrics_port, page)
            self._team.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def decoding(self) -> bool:
        """Whether decoding has neither ended nor been given up; a decoder that is being replaced is no end."""
        return self._team is not None and not self._ended

    @property
    def decoder_pid(self) -> int | None:
        """Process number of the decoder, or None while there is none."""
        return None if self._team is None else self._team.decoder.pid

    @property
    def standby_pid(self) -> int | None:
        """Process number of the decoder that stands by, or None while there is none that is loaded."""
        return self._team.standby.pid if self._team is not None and self._team.standing_by else None

    @property
    def aligner_pid(self) -> int | None:
        """Process number of the aligner, or None while there is none."""
        return None if self._team is None else self._team.aligner.pid

    @property
    def recorder_pid(self) -> int | None:
        """Process number of the recorder, or None while there is none."""
        return None if self._team is None else self._team.recorder.pid

    @property
    def metrics_port(self) -> int | None:
        """Port of the Prometheus page, or None where there is none."""
        return None if self._metrics is None else self._metrics.port

    def status(self) -> dict[str, Any]:
        """How everything is: what the order ``status`` tells."""
        if self._desk is None:
            raise RuntimeFault("live system: expected it to be running, found it stopped")
        return self._desk.status()

    def order(self, order: str) -> dict[str, Any]:
        """Carry out one of :data:`~bci_align.runtime.control.ORDERS`; :class:`RuntimeFault` says what speaks against it."""
        if self._desk is None:
            raise RuntimeFault("live system: expected it to be running, found it stopped")
        return self._desk.obey(order)

    def counters(self) -> dict[str, int]:
        """What the processes have counted so far: ``bins``, ``gaps``, ``bad``, ``marks`` and ``trials``."""
        s = self._open()
        return {c.name.lower(): s.get(c) for c in (Cell.BINS, Cell.GAPS, Cell.BAD, Cell.MARKS, Cell.TRIALS)}

    def marks(self) -> int:
        """Trial starts and ends that the decoder has taken in."""
        return self._open().get(Cell.MARKS)

    def decoded(self) -> int:
        """One more than the number of the last bin that was decoded."""
        return self._open().get(Cell.LAST_SEQ)

    def aligned(self) -> bool:
        """Whether the aligner has dealt with all that was decoded, and the decoder has any candidate from it warm."""
        s = self._open()
        # In this order: what is handled may post, and what is posted must then settle.
        handled = self.aligner_pid is None or s.get(Cell.HANDLED) >= s.ring.head
        return handled and s.get(Cell.SETTLED) >= s.mailbox.posted

    def wait_ready(self, timeout_s: float) -> None:
        """Block until the decoder is connected and all others have loaded what they need; reports stay for :meth:`poll`.

        The decoder that stands by is not waited for.
        """
        deadline = time.monotonic() + timeout_s
        seen: list[Report] = []
        while late := [s.who for s in self._needed() if s.state in ("starting", "waiting")]:
            left = deadline - time.monotonic()
            if left <= 0:
                names = " and ".join(late)
                raise RuntimeFault(f"expected all processes to be ready within {timeout_s:g} s, found {names} not ready")
            seen += self.poll(left)
        if self._waiting:  # a fault that came right behind other reports
            seen += self.poll(0.0)
        self._waiting.extendleft(reversed(seen))

    def poll(self, timeout_s: float) -> list[Report]:
        """Reports since the last call, waiting at most ``timeout_s`` for the first; raises what ended the run, if anything.

        After the decoder's ``ended`` no more will come, and :attr:`decoding` is false.
        """
        deadline = time.monotonic() + timeout_s
        while not self._waiting and self._team is not None and not self._ended:
            now = time.monotonic()
            self._team.look(now)
            pipes = [c.pipe for c in self._team.children() if not c.done]
            step = min(max(deadline - now, 0.0), self._config.supervisor.heartbeat_s / _LOOKS)
            if pipes:
                multiprocessing.connection.wait(pipes, step)
            else:
                time.sleep(step)
            self._hear(self._team)
            if time.monotonic() >= deadline:
                break
        reports: list[Report] = []
        while self._waiting:
            if self._waiting[0]["report"] == "fault":
                if reports:
                    break  # first the reports, with the next call the fault
                self._ended = True
                raise as_error(self._waiting.popleft(), "decoder")
            reports.append(self._waiting.popleft())
        return reports

    def stop(self) -> list[Report]:
        """End all processes, by force if they take longer than seconds, and remove the shared memory.

        Gives the last reports, without a fault among them. Harmless when called twice.
        """
        shared, self._shared = self._shared, None
        team, self._team = self._team, None
        if shared is None:
            self._leave_signals()
            return []
        try:
            shared.set(Cell.STOP, 1)
            for server in (self._control, self._metrics):
                if server is not None:
                    server.close()
            if team is not None:
                for report in team.drain():
                    self._take(report, shared)
        finally:
            try:
                if team is not None:
                    team.end()
            finally:
                self._desk = self._control = self._metrics = None
                shared.close()
                self._leave_signals()
        last, self._waiting = [r for r in self._waiting if r["report"] != "fault"], deque()
        return last

    def _needed(self) -> list[Any]:
        return [] if self._team is None else [self._team.decoder, self._team.aligner, self._team.recorder]

    def _leave_signals(self) -> None:
        if self._exit is not None:
            self._exit.undo()

    def _hear(self, team: Team) -> None:
        for report in team.hear():
            self._take(report, self._open())
        # Ordered to stop while a decoder was being replaced: then nobody is there to say that it has ended.
        self._ended = self._ended or bool(self._open().get(Cell.STOP) and team.decoder.pid is None)
        if team.fault is not None:
            self._waiting.append(team.fault)
        elif not self._ended:
            self._look()

    def _take(self, report: Report, shared: Shared) -> None:
        if self._scribe.hear(report):
            shared.set(Cell.COMMITS, shared.get(Cell.COMMITS) + 1)
        self._ended = self._ended or report["report"] == "ended"
        self._waiting.append(report)

    def _say(self, report: Report) -> None:
        """Add a report of the live system's own."""
        report = {"from": "live"} | report
        self._scribe.hear(report)
        self._waiting.append(report)

    def _look(self) -> None:
        """Say how things are, if that is worth a report."""
        s = self._open()
        sentence = self._watch.look({c: s.get(c) for c in Cell}, self.aligner_pid is not None, time.monotonic())
        if sentence is not None:
            self._waiting.append({"from": "live", "report": "status", "sentence": sentence})

    def _open(self) -> Shared:
        if self._shared is None:
            raise RuntimeFault("live system: expected it to be running, found it stopped")
        return self._shared
