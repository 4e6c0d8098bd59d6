"""What every room's tests share."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import TrainConfig
from bci_align.session.types import Session
from bci_align.training import train_bundle
from bci_align_sim.day import simulate_days
from benchmarks.rigged import Ground

# On networks this small two threads wait for each other, beside another process for much longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
torch.set_num_threads(1)
threadpool_limits(1)


LIVE = {"cli", "latency", "runtime", "sim", "streams"}
LIVE_FILES = {"test_fault_matrix.py", "test_kills.py", "test_readme.py"}
LONG = ["test_real_days.py", "test_cli.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs processes, sockets and clocks of its own, and begin with what takes longest."""
    tests = Path(__file__).parent
    # Last, each of them would keep one of two workers waiting.
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    for item in items:
        room = item.path.relative_to(tests).parts[0]
        if room in LIVE | LIVE_FILES and not item.get_closest_marker("computes"):
            item.add_marker("live")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real recordings lie: $BCI_ALIGN_DATA, or shared/data beside the repository. They are never in it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    found = Path(os.environ.get("BCI_ALIGN_DATA") or beside)
    if (found / "isometric_day0.npz").is_file():
        return found
    message = f"real recordings: expected isometric_day0.npz in {found}, found no such file; set BCI_ALIGN_DATA"
    # A check that CI skips is a check nobody makes.
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A bundle, and a day for a rig to play, for the tests that break a live system."""
    return Ground.lay(tmp_path_factory.mktemp("ground"))


SMALL = TrainConfig(epochs=25, prior_epochs=12, prior_width=16, hidden=32, latents=8, min_trials=10)
"""Training that takes seconds: the results are poor and the machinery is the same."""


@pytest.fixture(scope="session")
def small_days() -> tuple[Session, Session]:
    """A simulated day 0 and a drifted day K, 32 channels, bins of 50 ms."""
    return simulate_days(seed=2, trials=(60, 40), bin_s=0.05, channels=32)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """What ``make`` writes to a path, whole or not at all: made by the first worker that asks for it, and copied for each."""
    mine = factory.mktemp(name) / name
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(mine)
        return mine
    of_all = factory.getbasetemp().parent / name
    with of_all.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not of_all.exists():
            make(of_all)
    shutil.copytree(of_all, mine)
    return mine


@pytest.fixture(scope="session")
def small_bundle(small_days: tuple[Session, Session], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle, trained on the small day 0."""
    return load_bundle(made_once(tmp_path_factory, "day0", lambda path: train_bundle(small_days[0], SMALL, 0, path)))
