"""What the aligner of a soak does: real alignments, one after the other, of which one is handed over whenever one is due."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bci_align.alignment import gate
from bci_align.alignment.erdiff import align
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig, GateConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.aligner_process import Methods
from bci_align.session.types import UnlabelledTrials

Progress = Callable[[int, int], None]

_due = 0.0
"""When the next candidate is due in this process, seconds of ``time.monotonic``; 0 before the first alignment."""


class _Due(Exception):
    """It is time to hand over."""


def paced(
    every_s: float, bundle: Bundle, trials: UnlabelledTrials, config: AlignConfig, seed: int, progress: Progress | None
) -> Any:
    """Align to ``trials``, and go on aligning (to the source day's trials, for nothing) until the candidate is due.

    It starts from the source day's read-in every time: fifty alignments on top of each other would wander.
    """
    global _due
    now = time.monotonic()
    _due = (_due or now) + every_s
    source = replace(bundle, read_in=bundle.source_read_in())
    candidate = align(source, trials, config, seed, progress)

    def look(done: int, total: int) -> None:
        if progress:
            progress(done, total)
        if time.monotonic() >= _due:
            raise _Due

    try:
        while time.monotonic() < _due:
            seed += 1
            align(source, bundle.source_trials(), config, seed, look)
    except _Due:
        pass
    _due = max(_due, time.monotonic())
    return candidate


def overruled(bundle: Bundle, incumbent: ReadIn, candidate: ReadIn, trials: UnlabelledTrials, config: GateConfig) -> gate.Verdict:
    """Ask the gate and accept whatever it says, which is kept: an untrained bundle has nothing to show it."""
    said = gate.judge(bundle, incumbent, candidate, trials, config)
    return gate.Verdict(True, f"accepted so that there is a swap; the gate said: {said.reason}", said.checks)


def methods(every_s: float) -> Methods:
    """Alignments that hand over every ``every_s`` seconds."""
    return Methods(functools.partial(paced, every_s), overruled)
