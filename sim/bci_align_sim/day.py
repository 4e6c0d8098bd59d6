"""Two recorded days of one simulated subject: the source day, and day K after the array has drifted."""

from __future__ import annotations

import numpy as np

from bci_align.session.types import Session
from bci_align_sim.drift import Drift, apply
from bci_align_sim.task import record_day
from bci_align_sim.tuning import Tuning


def simulate_tunings(seed: int = 0, drift: Drift | None = None, channels: int = 96) -> tuple[Tuning, Tuning]:
    """The tunings behind :func:`simulate_days` with the same arguments: of day 0 and of day K."""
    array, wear = _seeds(seed)[:2]
    tuning = Tuning.draw(channels, array)
    return tuning, apply(tuning, drift or Drift(), wear)


def simulate_days(
    seed: int = 0,
    trials: tuple[int, int] = (160, 120),
    drift: Drift | None = None,
    bin_s: float = 0.02,
    channels: int = 96,
) -> tuple[Session, Session]:
    """Day 0 and day K, with ``trials`` of each; ``drift`` between them defaults to :class:`~bci_align_sim.drift.Drift`'s.

    Each draw has its own random stream: another ``drift`` leaves day 0, the hand's way and the targets as they were.
    """
    tuning, worn = simulate_tunings(seed, drift, channels)
    first, later = _seeds(seed)[2:]
    return (
        record_day(tuning, trials[0], first, bin_s, name="day0"),
        record_day(worn, trials[1], later, bin_s, name="dayK"),
    )


def _seeds(seed: int) -> list[int]:
    """Seeds of the array, its drift, day 0 and day K."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
