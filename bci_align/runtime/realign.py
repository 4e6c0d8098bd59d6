"""Aligning and judging again on the trials of a recording, under other settings."""

from __future__ import annotations

import dataclasses

from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import AlignmentError, BciAlignError
from bci_align.models.read_in import ReadIn
from bci_align.runtime.aligner_process import Methods, Progress
from bci_align.runtime.reports import Report
from bci_align.runtime.trial_buffer import TrialBuffer
from bci_align.streams.contract import Bin, TrialEvent


class Realigner:
    """Does what the aligner does, but in no time: its candidate is there right behind the last trial that it was aligned on.

    As live, a candidate starts from the committed generation, and the next one waits until the last is committed or gone.
    """

    def __init__(self, bundle: Bundle, config: LiveConfig, methods: Methods, progress: Progress) -> None:
        m = bundle.manifest
        self._base, self._config, self._methods, self._progress = bundle, config, methods, progress
        self._buffer = TrialBuffer(
            m.channels, m.bin_s, m.run_in, config.calibration_trials, successful_only=config.successful_only
        )
        self._left = config.recalibrations
        self._generation = m.generation
        self._candidate: ReadIn | None = None
        self.verdicts: list[Report] = []
        """What the gate said, as reports ``accepted`` or ``refused``."""

    def take(self, item: Bin | TrialEvent) -> tuple[ReadIn, int] | None:
        """Take in what the aligner would have read; gives an accepted candidate and its number."""
        new = self._buffer.add(item)
        enough = len(self._buffer) >= self._config.calibration_trials
        if not (new and enough and self._left) or self._candidate is not None:
            return None
        self._left -= 1
        offer = self._align()
        self._buffer.clear()
        return offer

    def missed(self) -> None:
        """Items are missing here."""
        self._buffer.missed()

    def hear(self, report: Report) -> None:
        """Take in a report of the loop: what became of the candidate."""
        if self._candidate is None or report.get("generation") != self._generation:
            return
        if report["report"] == "committed":
            self._base = dataclasses.replace(self._base, read_in=self._candidate)
        if report["report"] in ("committed", "dropped", "rolled_back"):
            self._candidate = None

    def _align(self) -> tuple[ReadIn, int] | None:
        trials, c, base, generation = self._buffer.trials(), self._config, self._base, self._generation + 1
        try:
            drift = self._methods.drift and self._methods.drift(base, base.read_in, trials, c.drift.align_from)
            if drift is not None and drift.verdict == "do not align":
                raise AlignmentError(drift.sentence)
            candidate = self._methods.align(base, trials, c.align, c.seed, self._progress)
            verdict = self._methods.judge(base, base.read_in, candidate.read_in, trials, c.gate)
            accepted, reason, checks = bool(verdict.accepted), verdict.reason, list(verdict.checks)
        except BciAlignError as e:  # these trials cannot be aligned on: that is an answer, not a failure
            accepted, reason, checks = False, str(e), []
        self._say(accepted, generation, len(trials), reason, checks)
        if not accepted:
            return None
        self._generation, self._candidate = generation, candidate.read_in
        return candidate.read_in, generation

    def _say(self, accepted: bool, generation: int, trials: int, reason: str, checks: list[Report]) -> None:
        said = {"report": "accepted" if accepted else "refused", "generation": generation, "trials": trials}
        self.verdicts.append(said | {"reason": reason, "checks": checks})
