"""The simulated days that latency is measured on; apart, so that a rig starts without torch."""

from __future__ import annotations

from bci_align.session.types import Session
from bci_align_sim.day import simulate_days

TRIALS = 24
"""Trials of the simulated days."""


def days(seed: int, channels: int, bin_s: float) -> tuple[Session, Session]:
    """A simulated subject's source day and a drifted one, short ones."""
    return simulate_days(seed, (TRIALS, TRIALS), bin_s=bin_s, channels=channels)
