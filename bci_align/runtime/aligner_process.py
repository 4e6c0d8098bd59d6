"""The aligner process: collects trials, aligns, has the candidate judged, and posts what was accepted.

It may be slow, fail or die: the decoder only ever looks into a ring and a mailbox, and waits for neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from bci_align.bundle.store import Bundle, load_bundle, save_generation
from bci_align.config import AlignConfig, GateConfig, LiveConfig
from bci_align.errors import BciAlignError
from bci_align.models.encoder import ReadIn
from bci_align.runtime import decisions, process
from bci_align.runtime.reports import Report, fault, send
from bci_align.runtime.ring import RingReader
from bci_align.runtime.shared import ALL_HANDLED, LEFT_OUT, Cell, Layout, Shared
from bci_align.runtime.trial_buffer import TrialBuffer
from bci_align.session.types import UnlabelledTrials

_SLEEP_S = 0.005
_PROGRESS_S = 0.2

Progress = Callable[[int, int], None]


class Candidate(Protocol):
    """What aligning gives."""

    read_in: ReadIn
    record: dict[str, Any]


class Verdict(Protocol):
    """What judging gives."""

    accepted: bool
    reason: str
    checks: Any


@dataclass(frozen=True)
class Methods:
    """How to align and how to judge; functions that a fresh process can import by their names."""

    align: Callable[[Bundle, UnlabelledTrials, AlignConfig, int, Progress | None], Any]
    judge: Callable[[Bundle, ReadIn, ReadIn, UnlabelledTrials, GateConfig], Any]


def standard_methods() -> Methods:
    """ERDiff alignment and the label-free gate."""
    from bci_align.alignment.erdiff import align
    from bci_align.alignment.gate import judge

    return Methods(align, judge)


class _Stopped(Exception):
    """Told to stop in the middle of an alignment."""


def main(layout: Layout, config: LiveConfig, pipe: Connection[Any, Any], methods: Methods | None) -> None:
    """Run the process until its last alignment is done, it is told to stop, or it fails; a failure is reported."""
    process.ignore_interrupts()
    process.background()
    try:
        shared = Shared.attach(layout)
        try:
            _Aligner(shared, config, pipe, methods or standard_methods()).run()
        finally:
            shared.close()
    except _Stopped:
        return
    except Exception as e:
        send(pipe, fault(e))
        raise SystemExit(1) from None


class _Aligner:
    """One run's worth of calibration."""

    def __init__(self, shared: Shared, config: LiveConfig, pipe: Connection[Any, Any], methods: Methods) -> None:
        import torch

        torch.set_num_threads(1)
        self._shared, self._config, self._pipe, self._methods = shared, config, pipe, methods
        self._bundle = load_bundle(Path(config.bundle))
        m = self._bundle.manifest
        self._buffer = TrialBuffer(
            m.channels, m.bin_s, m.run_in, config.calibration_trials, successful_only=config.successful_only
        )
        self._reader = RingReader(shared.ring)
        self._parent = process.ParentWatch()
        self._told = 0.0

    def run(self) -> None:
        """Read along, and align whenever there are enough trials."""
        self._tell({"report": "ready"})
        left, found = self._config.recalibrations, 0
        while left:
            self._check_on()
            missed, items = self._reader.read()
            if missed:
                self._buffer.missed()
                self._tell({"report": "missed", "records": missed})
            for item in items:
                new = self._buffer.add(item)
                if not new:
                    continue
                found += new
                self._shared.set(Cell.TRIALS, found)
                self._count()
                if len(self._buffer) >= self._config.calibration_trials:
                    self._recalibrate()
                    self._buffer.clear()
                    left -= 1
                    if not left:
                        break
            self._count()
            self._shared.set(Cell.HANDLED, self._reader.cursor if left else ALL_HANDLED)
            if not items:
                time.sleep(_SLEEP_S)
        self._tell({"report": "finished"})

    def _recalibrate(self) -> None:
        """Align, judge, and either post the candidate or say why not."""
        trials, c = self._buffer.trials(), self._config
        next_generation = self._bundle.manifest.generation + 1
        self._tell({"report": "aligning", "generation": next_generation, "trials": len(trials), "dropped": self._buffer.dropped})
        started = time.monotonic()
        try:
            candidate: Candidate = self._methods.align(self._bundle, trials, c.align, c.seed, self._progress)
            verdict: Verdict = self._methods.judge(self._bundle, self._bundle.read_in, candidate.read_in, trials, c.gate)
        except BciAlignError as e:  # these trials cannot be aligned on: that is an answer, not a failure
            self._decide({"accepted": False, "reason": str(e), "checks": []}, next_generation, len(trials), started)
            return
        found: Report = {"accepted": bool(verdict.accepted), "reason": verdict.reason, "checks": list(verdict.checks)}
        if found["accepted"]:
            path = free_path(Path(c.out), next_generation)
            # On the disk, and the decision too, before the decoder hears of it.
            self._bundle = save_generation(self._bundle, candidate.read_in, path, candidate.record)
            self._decide(found | {"path": str(path)}, next_generation, len(trials), started)
            self._shared.mailbox.post(candidate.read_in, next_generation)
        else:
            self._decide(found, next_generation, len(trials), started)

    def _decide(self, verdict: Report, generation: int, trials: int, started: float) -> None:
        """Write a verdict down, then report it."""
        content = {"generation": generation, "trials": trials, "seconds": round(time.monotonic() - started, 3)} | verdict
        decisions.append(Path(self._config.out), "accepted" if verdict["accepted"] else "refused", content)
        self._tell({"report": "verdict"} | content)

    def _progress(self, done: int, total: int) -> None:
        self._check_on()
        now = time.monotonic()
        if now - self._told > _PROGRESS_S or done == total:
            self._told = now
            self._tell({"report": "progress", "done": done, "total": total})

    def _count(self) -> None:
        """Let the parent see how the collecting goes."""
        self._shared.set(Cell.HELD, len(self._buffer))
        for reason, cell in LEFT_OUT.items():
            self._shared.set(cell, self._buffer.dropped[reason])

    def _check_on(self) -> None:
        if self._shared.get(Cell.STOP) or self._parent.gone():
            raise _Stopped

    def _tell(self, report: Report) -> None:
        send(self._pipe, report)


def free_path(out: Path, generation: int) -> Path:
    """Where a new generation goes: ``gen-0001`` in ``out``, or ``gen-0001.2`` and so on beside those of earlier runs."""
    path, n = out / f"gen-{generation:04d}", 1
    while path.exists():
        n += 1
        path = out / f"gen-{generation:04d}.{n}"
    return path
