"""Aligners that go wrong, and one that goes right at once. Processes that are spawned import them from here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bci_align.alignment.start import renormalise
from bci_align.models.read_in import ReadIn
from bci_align.runtime.aligner_process import Methods

ROOM = 256 * 2**20
"""Bytes that the hungry aligner may still take when it begins."""


@dataclass
class Renormalised:
    """A candidate: the day's own mean and spread, the plainest alignment there is."""

    read_in: ReadIn
    record: dict[str, Any]


@dataclass
class Accepted:
    """A verdict without a question."""

    accepted: bool = True
    reason: str = "every candidate is accepted here"
    checks: tuple[dict[str, Any], ...] = ()


def renormalised(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> Renormalised:
    """Align in milliseconds."""
    progress(1, 1)
    return Renormalised(renormalise(bundle.read_in, trials), {"method": "renormalised"})


def accepted(bundle: Any, incumbent: Any, candidate: Any, trials: Any, config: Any) -> Accepted:
    """Let everything through."""
    return Accepted()


def hungry(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> NoReturn:
    """Take memory until the operating system gives no more: this process is limited to what it has and :data:`ROOM`."""
    import resource  # not on every system

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken = []
    while True:
        taken.append(np.ones(2**21))


def hung(bundle: Any, trials: Any, config: Any, seed: int, progress: Any) -> NoReturn:
    """Never come back, and never look whether to stop."""
    while True:
        time.sleep(0.05)


QUICK = Methods(renormalised, accepted)
HUNGRY = Methods(hungry, accepted)
HUNG = Methods(hung, accepted)
