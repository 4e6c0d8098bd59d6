"""The live system: a decoder and an aligner, their shared memory, and one place that hears what both have to say.

Reports are dictionaries with ``from`` (``decoder``, ``aligner`` or ``live``) and ``report``:

=================  ==================================================================================================
decoder            ``ready`` (stream, channels, bin_s, generation, scheduler), ``warm`` (generation), ``swapped``
                   (generation, bin: first one it decoded, warm_from_seq), ``dropped`` (generation, reason), ``ended``
                   (why, bins, gaps, bad, malformed_events)
aligner            ``ready``, ``aligning`` (generation, trials, dropped), ``progress`` (done, total), ``verdict`` (accepted,
                   reason, checks, generation, trials, seconds, path if accepted), ``missed`` (records), ``finished``
live               ``aligner_died`` (reason) and ``log_failed`` (reason): decoding goes on; ``status`` (sentence): how the
                   collecting goes and what was faulty, where that is worth saying and at most every 30 s
=================  ==================================================================================================

A fault of the decoder is raised as the exception it was there.
"""

from __future__ import annotations

import multiprocessing.connection
import time
from collections import deque
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType

from bci_align.bundle.store import load_bundle
from bci_align.config import LiveConfig
from bci_align.errors import ConfigError, RuntimeFault
from bci_align.runtime import aligner_process, decisions, decoder_process
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.child import Child
from bci_align.runtime.process import OrderlyExit, as_child
from bci_align.runtime.reports import Report, as_error
from bci_align.runtime.shared import Cell, Shared
from bci_align.runtime.watch import Watch

_GRACE_S = {"decoder": 3.0, "aligner": 1.0}
"""Seconds that a process gets to end when told to; sending what a transport has queued can take the decoder one or two."""

_LOGGED = ("swapped", "dropped", "aligner_died")
"""Reports that are decisions too, and not written down where they are made: the decoder must not wait for a disk."""


class LiveSystem:
    """Decoder and aligner of one run; use as a context manager.

    ``methods`` replaces ERDiff and its gate, e.g. in tests. Entering raises what is wrong with the configuration or the
    bundle at once; what is wrong with the stream comes out of :meth:`wait_ready` or :meth:`poll`.
    """

    def __init__(self, config: LiveConfig, methods: Methods | None = None) -> None:
        self._config, self._methods = config, methods
        self._shared: Shared | None = None
        self._decoder: Child | None = None
        self._aligner: Child | None = None
        self._waiting: deque[Report] = deque()
        self._ended = False
        self._exit: OrderlyExit | None = None
        success = config.source.events.success if config.successful_only else None
        self._watch = Watch(config.calibration_trials, success)
        self.bundle = load_bundle(Path(config.bundle))

    def __enter__(self) -> LiveSystem:
        c = self._config
        check_config(c)
        try:
            Path(c.out).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"out: {c.out!r}: cannot be made a directory ({e.strerror})") from None
        m = self.bundle.manifest
        self._exit = OrderlyExit()
        try:
            with as_child():  # the last to leave: it removes the shared memory of a parent that was killed
                resource_tracker.ensure_running()
            self._shared = Shared.create(len(m.channels), m.hidden, outputs=len(m.outputs))
            args = (self._shared.layout, c)
            self._decoder = Child("decoder", decoder_process.main, args)
            if c.recalibrations:
                self._aligner = Child("aligner", aligner_process.main, args, (self._methods,))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def decoding(self) -> bool:
        """Whether the decoder has neither ended nor failed."""
        return self._decoder is not None and not self._ended

    @property
    def aligner_pid(self) -> int | None:
        """Process number of the aligner, or None when there is none (any more)."""
        return None if self._aligner is None or self._aligner.done else self._aligner.pid

    @property
    def decoder_pid(self) -> int | None:
        """Process number of the decoder, or None when there is none (any more)."""
        return None if self._decoder is None or self._decoder.done else self._decoder.pid

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
        """Block until the decoder is connected and the aligner has loaded what it needs; reports stay for :meth:`poll`."""
        deadline = time.monotonic() + timeout_s
        seen: list[Report] = []
        while not all(c.ready or c.done for c in self._children()):
            left = deadline - time.monotonic()
            if left <= 0:
                late = ", ".join(c.who for c in self._children() if not c.ready)
                raise RuntimeFault(f"expected decoder and aligner to be ready within {timeout_s:g} s, found {late} not ready")
            seen += self.poll(left)
        if self._waiting:  # a fault that came right behind other reports
            seen += self.poll(0.0)
        self._waiting.extendleft(reversed(seen))

    def poll(self, timeout_s: float) -> list[Report]:
        """Reports since the last call, waiting at most ``timeout_s`` for the first; raises what ended the decoder, if anything.

        After the decoder's ``ended`` no more will come, and :attr:`decoding` is false.
        """
        if not self._waiting:
            pipes = [c.pipe for c in self._children() if not c.done]
            if not pipes:
                return []
            multiprocessing.connection.wait(pipes, timeout_s)
            self._take_all([(child, child.read()) for child in self._children()])
            self._look()
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
        """End both processes, by force if they take longer than seconds, and remove the shared memory.

        Gives the last reports, without a fault among them. Harmless when called twice.
        """
        shared, self._shared = self._shared, None
        if shared is None:
            self._leave_signals()
            return []
        try:
            shared.set(Cell.STOP, 1)
            self._take_all([(child, child.drain(_GRACE_S[child.who])) for child in self._children()], ending=True)
        finally:
            try:
                for child in self._children():
                    child.end(0.0)
                    child.close()
            finally:
                self._decoder = self._aligner = None
                shared.close()
                self._leave_signals()
        last, self._waiting = [r for r in self._waiting if r["report"] != "fault"], deque()
        return last

    def _leave_signals(self) -> None:
        if self._exit is not None:
            self._exit.undo()

    def _take_all(self, heard: list[tuple[Child, list[Report]]], ending: bool = False) -> None:
        """Take what the decoder, asked first, and then the aligner have said: the aligner's words come first.

        So a swap never stands before the verdict that led to it, which was sent before the decoder could know of it.
        """
        for child, reports in reversed(heard):
            self._take(child, reports, ending)

    def _take(self, child: Child, reports: list[Report], ending: bool = False) -> None:
        """Sort what ``child`` said, and what its end means unless it was asked for."""
        was_done = child.noted
        for report in reports:
            if report["report"] == "fault" and child.who == "aligner":
                self._aligner_died(f"{report['error']}: {report['message']}")
                continue
            self._log(report)
            self._ended = self._ended or report["report"] == "ended"
            self._waiting.append(report)
        child.noted = child.done
        if was_done or not child.done or ending or child.last in ("fault", "ended", "finished"):
            return
        reason = f"its process ended without a word, exit code {child.exitcode}"
        if child.who == "aligner":
            self._aligner_died(reason)
        else:
            message = f"the decoder died: {reason}"
            self._waiting.append({"from": "live", "report": "fault", "error": "RuntimeFault", "message": message})

    def _look(self) -> None:
        """Say how things are, if that is worth a report and the decoder has not just said its last word."""
        if self._ended or any(r["report"] == "fault" for r in self._waiting):
            return
        s = self._open()
        sentence = self._watch.look({c: s.get(c) for c in Cell}, self.aligner_pid is not None, time.monotonic())
        if sentence is not None:
            self._waiting.append({"from": "live", "report": "status", "sentence": sentence})

    def _aligner_died(self, reason: str) -> None:
        report = {"from": "live", "report": "aligner_died", "reason": reason}
        self._log(report)
        self._waiting.append(report)

    def _log(self, report: Report) -> None:
        """Write a report down if it is a decision; a full disk must not end the decoding, but must not go unseen either."""
        if report["report"] not in _LOGGED:
            return
        content = {k: v for k, v in report.items() if k not in ("from", "report")}
        try:
            decisions.append(Path(self._config.out), report["report"], content)
        except RuntimeFault as e:
            self._waiting.append({"from": "live", "report": "log_failed", "reason": str(e)})

    def _children(self) -> list[Child]:
        return [c for c in (self._decoder, self._aligner) if c is not None]

    def _open(self) -> Shared:
        if self._shared is None:
            raise RuntimeFault("live system: expected it to be running, found it stopped")
        return self._shared


def check_config(config: LiveConfig) -> None:
    """Refuse at the start what could only fail after a whole calibration; :class:`ConfigError` names the keys."""
    for key, found, known in (
        ("align.moves", config.align.moves, ("read-in",)),
        ("align.registration", config.align.registration, ("auto", "identity")),
    ):
        if config.recalibrations and found not in known:
            raise ConfigError(
                f"{key}: expected {' or '.join(known)}, for a running decoder takes nothing but a read-in for its own channels, "
                f"found {found}; 'bci-align recalibrate' can do it between sessions"
            )
    for key, least in (("gate.min_trials", config.gate.min_trials), ("align.min_trials", config.align.min_trials)):
        if config.recalibrations and config.calibration_trials < least:
            raise ConfigError(
                f"calibration_trials: expected at least {key} ({least}), found {config.calibration_trials}; "
                "no candidate could ever be accepted"
            )
