from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bci_align.bundle.store import Bundle
from bci_align.config import TrainConfig
from bci_align.runtime.shared import PREFIX
from bci_align.session.types import Session
from bci_align.training import train_bundle
from bci_align_sim.day import simulate_days

# Spawned processes import what they run by name, and know only this process's path.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def segments(pid: int | None = None) -> set[str]:
    """Shared memory that process ``pid`` (default: this one) has made and that exists now (Linux lists it)."""
    return {p.name for p in Path("/dev/shm").glob(f"{PREFIX}{pid or os.getpid()}_*")}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
    assert segments() == set()


@pytest.fixture(scope="session")
def days() -> tuple[Session, Session]:
    return simulate_days(0, (40, 22), bin_s=0.05, channels=24)


@pytest.fixture(scope="session")
def bundle(days: tuple[Session, Session], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle of little skill."""
    config = TrainConfig(hidden=12, latents=4, run_in=5, epochs=3, prior_epochs=1)
    return train_bundle(days[0], config, 0, tmp_path_factory.mktemp("bundles") / "day0")
