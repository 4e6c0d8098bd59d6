"""The aligner process: collects trials, aligns, has the candidate judged, and posts what was accepted.

It may be slow, fail or die: the decoder only ever looks into a ring and a mailbox, and waits for neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import AlignConfig, GateConfig, LiveConfig
from bci_align.errors import BciAlignError
from bci_align.models.read_in import ReadIn
from bci_align.runtime import committed, process, receipts
from bci_align.runtime.reports import Pipe, Report, fault, send
from bci_align.runtime.ring import RingReader
from bci_align.runtime.shared import ALL_HANDLED, LEFT_OUT, Cell, Layout, Shared
from bci_align.runtime.trial_buffer import TrialBuffer
from bci_align.session.types import UnlabelledTrials
from bci_align.streams.contract import Bin, TrialEvent

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
    drift: Callable[[Bundle, ReadIn, UnlabelledTrials, float], Any] | None = None
    """How to score the day's drift beforehand; None aligns every day."""


def standard_methods(gates: tuple[str, ...]) -> Methods:
    """The drift score, ERDiff alignment and the label-free gates of these names."""
    from bci_align.alignment.drift_score import score
    from bci_align.alignment.erdiff import align
    from bci_align.alignment.gates import Gates

    return Methods(align, Gates(gates), score)


class _Stopped(Exception):
    """Told to stop in the middle of an alignment."""


def main(layout: Layout, config: LiveConfig, pipe: Pipe, methods: Methods | None) -> None:
    """Run the process until its last alignment is done, it is told to stop, or it fails; a failure is reported."""
    process.ignore_interrupts()
    if config.supervisor.background_cores:
        process.keep_on(config.supervisor.background_cores)
    try:
        shared = Shared.attach(layout)
        try:
            # First: at the lowest priority the import of torch takes a minute on a busy machine, and a run waits for everybody.
            methods = methods or standard_methods(config.gates)
            process.give_way()
            _Aligner(shared, config, pipe, methods).run()
        finally:
            shared.close()
    except _Stopped:
        return
    except Exception as e:
        send(pipe, fault(e))
        raise SystemExit(1) from None


class _Aligner:
    """One run's worth of calibration.

    Collecting goes on while a candidate is proven and on probation; nothing new is aligned until it is committed or gone. What
    a candidate starts from is the generation that is committed then.
    """

    def __init__(self, shared: Shared, config: LiveConfig, pipe: Pipe, methods: Methods) -> None:
        self._shared, self._config, self._pipe, self._methods = shared, config, pipe, methods
        bundle = committed.load(Path(config.out), Path(config.bundle))
        m = bundle.manifest
        self._bundles = {m.generation: bundle}
        self._buffer = TrialBuffer(
            m.channels, m.bin_s, m.run_in, config.calibration_trials, successful_only=config.successful_only
        )
        # After one that died: the trials that it had not aligned on are collected again, as far as the ring goes back.
        self._reader = RingReader(shared.ring)
        self._reader.cursor = shared.get(Cell.COLLECT_FROM)
        self._found = shared.get(Cell.TRIALS) - shared.get(Cell.HELD)
        self._newest = max(m.generation, shared.mailbox.generation)
        self._parent = process.ParentWatch()
        self._told = 0.0

    def run(self) -> None:
        """Read along, and align whenever there are enough trials or somebody says so."""
        self._tell({"report": "ready"})
        finished = False
        while True:
            self._check_on()
            if self._left() <= 0 and not finished:
                finished = True
                self._shared.set(Cell.HANDLED, ALL_HANDLED)
                self._tell({"report": "finished"})
                if self._config.control.address is None:  # nobody could order another alignment
                    return
            self._obey()
            missed, items = self._reader.read()
            if missed:
                self._buffer.missed()
                self._tell({"report": "missed", "records": missed})
            for number, item in enumerate(items, self._reader.cursor - len(items)):
                self._take(item, number)
            self._count()
            self._shared.set(Cell.HANDLED, ALL_HANDLED if finished or self._left() <= 0 else self._reader.cursor)
            if not items:
                time.sleep(_SLEEP_S)

    def _left(self) -> int:
        """Alignments that the run may still make by itself."""
        return self._config.recalibrations - self._shared.get(Cell.ALIGNED)

    def _take(self, item: Bin | TrialEvent, number: int) -> None:
        """Take in the item of record ``number``, and align if that makes enough trials."""
        new = self._buffer.add(item)
        if not new:
            return
        self._found += new
        self._shared.set(Cell.TRIALS, self._found)
        self._count()
        enough = len(self._buffer) >= self._config.calibration_trials
        if enough and self._left() > 0 and not self._undecided():
            self._recalibrate(number + 1)
            self._shared.set(Cell.ALIGNED, self._shared.get(Cell.ALIGNED) + 1)

    def _obey(self) -> None:
        """Align now if that was ordered; what is too few to align on is answered as any refusal is."""
        ordered = self._shared.get(Cell.ALIGN)
        if ordered == self._shared.get(Cell.ALIGN_TAKEN):
            return
        if not self._undecided():
            self._recalibrate(self._reader.cursor, ordered=True)
        self._shared.set(Cell.ALIGN_TAKEN, ordered)

    def _undecided(self) -> bool:
        """Whether the last candidate is still on its way."""
        s = self._shared
        newest = s.mailbox.generation
        return bool(newest) and newest not in (s.get(Cell.COMMITTED), s.get(Cell.DISCARDED))

    def _base(self) -> Bundle:
        """The committed generation, from which the next candidate starts."""
        generation = self._shared.get(Cell.COMMITTED)
        if generation not in self._bundles:
            bundle = committed.load(Path(self._config.out), Path(self._config.bundle))
            self._bundles[bundle.manifest.generation] = bundle
            generation = bundle.manifest.generation
        self._bundles = {generation: self._bundles[generation]}
        return self._bundles[generation]

    def _recalibrate(self, collect_from: int, ordered: bool = False) -> None:
        """Align, judge, and either post the candidate or say why not; then collect anew, from that record of the ring.

        What was ``ordered`` is aligned however little the day has drifted.
        """
        self._shared.set(Cell.ALIGNING, 1)
        try:
            self._align(self._base(), self._newest + 1, ordered)
        finally:
            self._shared.set(Cell.ALIGNING, 0)
        self._buffer.clear()
        process.trim()
        self._shared.set(Cell.COLLECT_FROM, collect_from)

    def _align(self, base: Bundle, generation: int, ordered: bool) -> None:
        trials, c = self._buffer.trials(), self._config
        self._tell({"report": "aligning", "generation": generation, "trials": len(trials), "dropped": self._buffer.dropped})
        started = time.monotonic()
        try:
            refusal = self._not_worth_it(base, trials)
            if refusal is not None and not ordered:
                self._decide({"accepted": False, "reason": refusal, "checks": []}, generation, len(trials), started)
                return
            candidate: Candidate = self._methods.align(base, trials, c.align, c.seed, self._progress)
            self._check_on()
            self._tell({"report": "judging", "generation": generation})
            verdict: Verdict = self._methods.judge(base, base.read_in, candidate.read_in, trials, c.gate)
        except BciAlignError as e:  # these trials cannot be aligned on: that is an answer, not a failure
            self._decide({"accepted": False, "reason": str(e), "checks": []}, generation, len(trials), started)
            return
        found: Report = {"accepted": bool(verdict.accepted), "reason": verdict.reason, "checks": list(verdict.checks)}
        if not found["accepted"]:
            self._decide(found, generation, len(trials), started)
            return
        path = free_path(Path(c.out), generation)
        # On the disk, and the decision too, before the decoder hears of it.
        bundle = save_generation(base, candidate.read_in, path, candidate.record, generation=generation)
        self._decide(found | {"path": str(path)}, generation, len(trials), started)
        self._bundles[generation] = bundle
        self._newest = generation
        self._shared.mailbox.post(candidate.read_in, generation)

    def _not_worth_it(self, base: Bundle, trials: UnlabelledTrials) -> str | None:
        """Score the day's drift and report it; why it should not be aligned, if so."""
        if self._methods.drift is None:
            return None
        found = self._methods.drift(base, base.read_in, trials, self._config.drift.align_from)
        self._shared.set(Cell.DRIFT, round(1e6 * found.value) if math.isfinite(found.value) else 0)
        told = {"score": found.value, "parts": found.parts, "verdict": found.verdict, "sentence": found.sentence}
        self._tell({"report": "drift"} | told)
        return str(found.sentence) if found.verdict == "do not align" else None

    def _decide(self, verdict: Report, generation: int, trials: int, started: float) -> None:
        """Write a verdict down, then report it."""
        content = {"generation": generation, "trials": trials, "seconds": round(time.monotonic() - started, 3)} | verdict
        receipts.record(Path(self._config.out), "accepted" if verdict["accepted"] else "refused", content)
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
        self._shared.beat(Cell.BEAT_ALIGNER)
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
