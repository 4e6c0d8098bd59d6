from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bci_align.bundle.store import Bundle
from bci_align.config import TrainConfig
from bci_align.errors import BundleError, TrainingError
from bci_align.evaluation.score import evaluate, rows
from bci_align.session.types import Session, Trials
from bci_align.training import source_split, train_bundle
from bci_align.training.oracle import supervised

TINY = TrainConfig(epochs=2, prior_epochs=1, prior_width=8, hidden=16, latents=4, min_trials=10)
Days = tuple[Session, Session]


def test_held_out_trials_are_decoded(small_bundle: Bundle, small_days: Days) -> None:
    scores = evaluate(small_bundle, small_days[0], source_split(small_days[0], 0.2, 0)[1])
    assert scores["r2"] > 45
    record = small_bundle.manifest.training
    assert record["validation_r2"][small_bundle.manifest.decoder] == max(record["validation_r2"].values())
    assert scores["r2"] == pytest.approx(record["validation_r2"][small_bundle.manifest.decoder], abs=0.05)
    assert 1 <= record["active_dimensions"] <= 8
    assert record["prior_loss"][-1] < 0.95 * record["prior_loss"][0]


def test_same_seed_same_bytes_other_seed_other_bytes(small_days: Days, tmp_path: Path) -> None:
    a = train_bundle(small_days[0], TINY, 3, tmp_path / "a")
    torch.rand(5)  # whatever else draws random numbers must not matter
    b = train_bundle(small_days[0], TINY, 3, tmp_path / "b")
    c = train_bundle(small_days[0], TINY, 4, tmp_path / "c")
    assert a.identity == b.identity
    assert a.identity != c.identity


def test_validation_trials_are_never_fitted(small_days: Days, tmp_path: Path) -> None:
    """Spoil the kinematics of the validation trials: the encoder and the decoder candidates come out the same."""
    day = small_days[0]
    assert day.kinematics is not None
    spoilt = day.kinematics.copy()
    spoilt[rows(day, source_split(day, 0.2, 0)[1])] = 1e3
    a = train_bundle(day, TINY, 0, tmp_path / "a")
    b = train_bundle(replace(day, kinematics=spoilt), TINY, 0, tmp_path / "b")
    assert (a.path / "core.onnx").read_bytes() == (b.path / "core.onnx").read_bytes()
    assert a.manifest.scale == b.manifest.scale


def test_progress_names_every_stage_and_ends_full(small_days: Days, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    train_bundle(small_days[0], TINY, 0, tmp_path / "a", lambda stage, done, total: seen.update({stage: (done, total)}))
    assert seen == {"source model": (2, 2), "diffusion prior": (1, 1)}


def test_bad_sessions_are_refused_before_anything_is_written(small_days: Days, tmp_path: Path) -> None:
    day = small_days[0]
    t = day.trials
    short = Trials(t.start_s, t.go_s, t.start_s + 0.1, t.success)
    few = Trials(t.start_s[:6], t.go_s[:6], t.end_s[:6], t.success[:6])
    constant = np.ones_like(day.kinematics)
    cases = [
        (replace(day, trials=few), "expected at least 10 rewarded trials"),
        (replace(day, kinematics=None, kinematics_names=(), kinematics_units=()), "found none"),
        (replace(day, kinematics=constant), "found a constant"),
        (replace(day, trials=short), "expected trials of at least 8 bins"),
    ]
    for bad, says in cases:
        with pytest.raises(TrainingError, match=says):
            train_bundle(bad, TINY.model_copy(update={"run_in": 2}), 0, tmp_path / "a")
        assert not list(tmp_path.iterdir())


def test_an_existing_target_is_refused_before_training(small_days: Days, small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="already exists"):
        train_bundle(small_days[0], TINY, 0, small_bundle.path)


def test_the_oracle_beats_no_alignment_and_sees_nothing_after_its_trials(
    small_bundle: Bundle, small_days: Days, tmp_path: Path
) -> None:
    day = small_days[1]
    assert day.kinematics is not None
    rewarded = day.rewarded()
    labelled, later = rewarded[:25], rewarded[25:]
    oracle = supervised(small_bundle, day, labelled, 0, tmp_path / "oracle")
    assert evaluate(oracle, day, later)["r2"] > evaluate(small_bundle, day, later)["r2"] + 5
    spoilt = day.kinematics.copy()
    spoilt[rows(day, later)] = 0
    again = supervised(small_bundle, replace(day, kinematics=spoilt), labelled, 0, tmp_path / "again")
    assert again.manifest.files == oracle.manifest.files
