"""The report on a model of trials: tasks whose targets are not a ring of eight, and trials that nothing was trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bci_align.augmentation import store
from bci_align.augmentation.model import train
from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError
from bci_align.report.augmentation import write
from bci_align.session.types import Session

QUICK = AugmentConfig(before_s=0.5, after_s=0.7, code=6, width=8, steps=20, updates=2, batch=32, sampling=4)
FIGURES = {"codes.png", "traversal.png", "neurons.png", "realism.png", "overview.png"}


def aimed(day: Session, targets: np.ndarray) -> Session:
    """The day with other targets, dealt out in turn."""
    return replace(day, trials=replace(day.trials, target=targets[np.arange(len(day.trials)) % len(targets)]))


@pytest.mark.parametrize(
    "targets",
    [
        np.array([[0.0, -8], [0, 8], [0, 4]]),  # x never changes
        np.array([[-8.0], [8], [4]]),
        np.random.default_rng(0).uniform(-8, 8, (100, 2)),  # every trial has its own
    ],
    ids=["on a line", "of one coordinate", "at random"],
)
def test_every_task_is_reported_on(small_days: tuple[Session, Session], targets: np.ndarray, tmp_path: Path) -> None:
    day = aimed(small_days[1], targets)
    stored = store.save(train(day, day.rewarded(), QUICK, 0), day, tmp_path / "m")
    found = write(stored, day, tmp_path / "r", 0)["measures"]
    assert {p.name for p in (tmp_path / "r").iterdir()} == FIGURES | {"measures.json"}
    kept = json.loads((tmp_path / "r" / "measures.json").read_text())
    assert np.isfinite(found["code SNR, target"]) and np.isfinite(found["traversal: slope"])
    own = len(targets) > len(day.trials)
    assert (kept["code SNR, conditions"] is None) == own  # there is no scatter within a target of one trial


def test_a_task_of_one_target_is_refused_before_anything_is_measured(small_days: tuple[Session, Session], tmp_path: Path) -> None:
    day = aimed(small_days[1], np.array([[3.0, 4]]))
    stored = store.save(train(day, day.rewarded(), QUICK, 0), day, tmp_path / "m")
    with pytest.raises(AugmentationError, match=r"at least two targets to report on, found one target"):
        write(stored, day, tmp_path / "r", 0)
    assert not (tmp_path / "r").exists()


def test_codes_are_judged_on_trials_that_did_not_train_them(small_days: tuple[Session, Session], tmp_path: Path) -> None:
    day = small_days[1]
    model = train(day, day.rewarded(), QUICK, 0)
    stored = store.save(model, day, tmp_path / "m")
    # a full generator that has gone mad changes nothing that is said of codes: it is the twin that is judged
    full = replace(stored.model.full, space=stored.model.proof.space)
    other = replace(stored, model=replace(stored.model, full=full))
    a, b = (write(s, day, tmp_path / name, 0)["measures"] for s, name in ((stored, "a"), (other, "b")))
    assert a == b
