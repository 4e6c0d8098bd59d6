"""The benchmark's own arithmetic: what is split, what is asked, what a row says."""

from pathlib import Path

import numpy as np
import pytest

from bci_align.augmentation.rivals import PLAIN
from bci_align.augmentation.trials import TrialSet
from bci_align.config import AugmentConfig, RetrainConfig
from bci_align.threads import one_thread
from benchmarks import augmentation as main
from benchmarks import augmentation_claims as claims
from benchmarks import augmentation_retrain as retraining
from benchmarks.common import isometric


def result(method: str, seed: int, asked: float) -> retraining.Result:
    return retraining.Result(method, seed, asked, 80.0, 1.0, {}, {"kept": 0.5})


def test_held_out_targets_and_trials_are_in_no_training_set() -> None:
    target = np.repeat(np.arange(10.0), 20)[:, None] * np.ones(2)
    label = np.arange(200, dtype=np.float32)[:, None, None] * np.ones((1, 8, 2), np.float32)
    trials = TrialSet(label, label, label, target)
    train, test, away = claims.split(trials, 2, 0)
    sets = [set(s.counts[:, 0, 0].tolist()) for s in (train, test, away)]
    assert [len(s) for s in sets] == [128, 32, 40]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert not set(away.target[:, 0]) & set(train.target[:, 0])


def test_rows_say_no_where_a_goal_is_missed() -> None:
    missing = [result(m, s, v) for s in (0, 1) for m, v in (("real trials alone", 0.0), ("rotated real trials", 60.0),
               (retraining.OURS, 50.0), (retraining.OURS_EARLIER, 70.0), (retraining.EARLIER, 65.0))]  # fmt: skip
    few = [result(m, s, v + s) for s in (0, 1) for m, v in (("real trials alone", 80.0), (retraining.OURS, 79.0),
           (retraining.OURS_EARLIER, 83.0))]  # fmt: skip
    rows = {r.name: r for r in main.retraining_rows({"three targets missing": missing, "two trials per target": few})}
    assert not rows["three targets missing: R2 of the missing, ours"].met
    assert rows["three targets missing: ours above the best rival (rotated real trials)"].value == pytest.approx(-0.1)
    lead = rows["three targets missing: ours, with an earlier day above the best rival (earlier day's trials, re-normalised)"]
    assert lead.met and lead.value == pytest.approx(0.05)
    assert not rows["two trials per target: R2 over real alone, ours"].met
    assert rows["two trials per target: R2 over real alone, ours, with an earlier day"].met


def test_directions_are_counted_from_the_right() -> None:
    assert retraining.octant(np.array([[1, 0], [1, 1], [0, 3], [-1, 0], [0.7, -0.7]], float)).tolist() == [0, 1, 2, 4, 7]


def test_claims_compare_with_the_vae() -> None:
    def one(method: str, scale: float, r2: float) -> claims.Measured:
        names = ("code SNR", "rate R2", "held-out target error", "slope", "linearity", "unintended", "cosine", *main.REALISM)
        return claims.Measured("isometric", method, 0, dict.fromkeys(names, scale), np.full(5, r2))

    rows = {r.name: r for r in main.claim_rows([one(claims.OURS, 1.0, 0.5), one(claims.VAE, 2.0, 0.4)])}
    assert not rows["isometric: code SNR over the VAE's"].met and rows["isometric: unintended over the VAE's"].met
    assert rows["isometric: share of neurons above the VAE's"].value == 1.0


def test_an_earlier_day_gives_back_directions_that_today_s_calibration_lacks(data_dir: Path) -> None:
    """The quick benchmark's retraining on the recorded days: what it promises is not lost."""
    with one_thread():
        today, earlier = isometric(16), isometric(0)
        config = AugmentConfig().model_copy(update=main.QUICK)
        found = retraining.compare(retraining.missing(today, 0), earlier, config, RetrainConfig(), False)
    r2 = {r.method: r.asked for r in found}
    assert r2[retraining.OURS_EARLIER] > r2[retraining.REAL] + 30
    assert r2[retraining.ORACLE] > 70
    assert {r.method for r in found} >= set(PLAIN)


def test_the_quick_claims_give_every_row_of_the_recorded_day(data_dir: Path) -> None:
    """Short trainings: what the linear trunk and the spikes are worth is there already, and is not lost."""
    config, away = main.CLAIMED["isometric"]
    with one_thread():
        found = claims.measure("isometric", isometric(0), config.model_copy(update=main.QUICK), away, 0, refit=False)
    assert [f.method for f in found] == [claims.OURS, claims.VAE, claims.PCA, claims.TASK]
    rows = {r.name.removeprefix("isometric: "): r for r in main.claim_rows(found)}
    assert set(rows) >= {
        "code SNR over the VAE's",
        "unintended over the VAE's",
        "traversal slope",
        "share of neurons above the VAE's",
    }
    assert rows["traversal slope"].met and rows["code SNR over the VAE's"].met
    for name, most in zip(main.REALISM, (4, 2, 2, 2), strict=True):
        assert rows[f"{name} over real's own"].value < most, name
