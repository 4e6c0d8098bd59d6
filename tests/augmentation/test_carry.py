import numpy as np
import pytest

from bci_align.augmentation.carry import carry
from bci_align.augmentation.trials import TrialSet
from bci_align.errors import AugmentationError

CIRCLE = 10 * np.c_[np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)]


def day(tuning: np.ndarray, base: np.ndarray, targets: np.ndarray, seed: int, n: int = 160) -> TrialSet:
    """Trials of channels whose square-root rate is base + tuning . target."""
    rng = np.random.default_rng(seed)
    target = targets[rng.integers(0, len(targets), n)]
    root = np.maximum(base + target @ tuning.T / 10, 0)
    rates = np.repeat(np.square(root)[:, None], 12, 1) * rng.gamma(50, 1 / 50, (n, 12, len(base)))
    rates = rates.astype(np.float32)
    return TrialSet(rates, rates, np.zeros((n, 12, 2), np.float32), target)


def test_an_earlier_day_is_brought_over_and_tells_of_targets_that_today_has_not() -> None:
    rng = np.random.default_rng(0)
    then, base = rng.normal(0, 0.4, (20, 2)), rng.uniform(1.5, 2.5, 20)
    now, other = then.copy(), base * 1.3
    now[:5] = rng.normal(0, 0.4, (5, 2))  # five channels have changed their tuning
    earlier, today = day(then, base, CIRCLE, 1), day(now, other, CIRCLE[2:7], 2)
    truth = day(now, other, CIRCLE[[0, 1, 7]], 3)
    moved = carry(earlier, today)
    assert np.array_equal(moved.target, earlier.target) and np.array_equal(moved.kinematics, earlier.kinematics)
    for t in CIRCLE[[0, 1, 7]]:

        def mean(s: TrialSet, t: np.ndarray = t) -> np.ndarray:
            return s.rates[(np.abs(s.target - t) < 1e-6).all(1)].mean((0, 1))

        assert np.abs(mean(moved) - mean(truth)).mean() < 0.5 * np.abs(mean(earlier) - mean(truth)).mean()
    assert (moved.rates >= 0).all() and (moved.counts >= 0).all()


def test_days_that_do_not_fit_are_refused() -> None:
    tuning, base = np.ones((4, 2)), np.ones(4)
    earlier = day(tuning, base, CIRCLE, 0)
    with pytest.raises(AugmentationError, match=r"at least 3 targets .*, found 2"):
        carry(earlier, day(tuning, base, CIRCLE[:2], 1))
    with pytest.raises(AugmentationError, match="expected trials of 12 bins and 3 channels as today, found 12 and 4"):
        carry(earlier, day(np.ones((3, 2)), np.ones(3), CIRCLE, 1))
