import math

import numpy as np
import pytest

from bci_align.comparison.statistics import Truth, blocks, of_oracle, r2, recovered, resample, worth, worth_text
from bci_align.evaluation import metrics

RNG = np.random.default_rng(5)
LENGTHS = (7, 3, 12, 5, 9, 4, 6, 8, 11, 5)


@pytest.fixture(scope="module")
def decoded():
    """Kinematics of ten trials, far from zero, and what was decoded."""
    truth = [100.0 + RNG.normal(size=(n, 2)) * (1.0, 3.0) for n in LENGTHS]
    return truth, [t + 0.5 * RNG.normal(size=t.shape) for t in truth]


def errors(truth, y):
    return np.stack([np.square(a - b).sum(0) for a, b in zip(truth, y, strict=True)])


def test_r2_from_sums_is_r2_from_bins(decoded):
    truth, y = decoded
    assert float(r2(Truth.of(truth), errors(truth, y))) == pytest.approx(metrics.r2(np.concatenate(truth), np.concatenate(y)))


def test_r2_of_a_draw_is_that_of_its_trials_put_end_to_end(decoded):
    truth, y = decoded
    draws = np.array([[0, 0, 3], [9, 1, 2]])
    found = r2(Truth.of(truth), errors(truth, y), draws)
    for value, draw in zip(found, draws, strict=True):
        t, d = (np.concatenate([v[i] for i in draw]) for v in (truth, y))
        assert value == pytest.approx(metrics.r2(t, d))


def test_trials_without_movement_have_no_r2():
    still = Truth.of([np.zeros((4, 1)), np.zeros((3, 1)), np.ones((3, 1))])
    assert np.isnan(r2(still, np.ones((3, 1)), np.array([[0, 1, 0]]))).all()
    assert np.isfinite(r2(still, np.ones((3, 1))))


def test_blocks_hold_neighbours_and_every_trial_is_as_likely():
    drawn = blocks(22, 3000, np.random.default_rng(0), length=5)
    assert drawn.shape == (3000, 22)
    steps = np.diff(drawn, axis=1) % 22
    inside = np.arange(1, 22) % 5 != 0
    assert (steps[:, inside] == 1).all()
    assert not (steps[:, ~inside] == 1).all()
    share = np.bincount(drawn.ravel(), minlength=22) / drawn.size * 22
    assert share.min() > 0.93 and share.max() < 1.07
    # Five trials in one block of five would be drawn whole every time.
    assert len(np.unique(np.sort(blocks(5, 200, np.random.default_rng(0), length=5), axis=1), axis=0)) > 20


def paired(n=200, seeds=3):
    truths = [Truth.of([RNG.normal(size=(10, 2)) for _ in range(n)]) for _ in range(seeds)]
    noise = [RNG.gamma(2.0, 1.0, size=(n, 2)) for _ in range(seeds)]
    return truths, noise


def test_a_difference_is_paired():
    """Two methods with the same trials in trouble: each alone is uncertain, their difference is not."""
    truths, noise = paired()
    got = resample(truths, {"a": noise, "b": [1.02 * e for e in noise], "same": noise}, draws=400)
    low, high = got.interval(lambda v: v["a"] - v["b"])
    alone = np.subtract(*got.interval(lambda v: v["a"])[::-1])
    assert 0 < low < got.value["a"] - got.value["b"] < high
    assert high - low < 0.1 * alone
    assert got.interval(lambda v: v["a"] - v["same"]) == (0.0, 0.0)


def test_the_interval_is_as_wide_as_theory_says():
    """Errors of single trials, independent, about a truth that does not vary: R2 is a mean, its interval +- 1.96 s / sqrt(n)."""
    n = 400
    truth = Truth.of([np.array([[1.0], [-1.0]])] * n)
    error = np.random.default_rng(1).uniform(0, 2, size=(n, 1))
    low, high = resample([truth], {"a": [error]}, draws=4000, length=1).interval(lambda v: v["a"])
    expected = 2 * 1.96 * 100 * error.std() / 2 / math.sqrt(n)  # per trial, R2 = 100 (1 - error / 2)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_blocks_widen_the_interval_of_errors_that_come_in_runs():
    truth = Truth.of([np.array([[1.0], [-1.0]])] * 200)
    runs = np.repeat(np.random.default_rng(2).uniform(0, 2, size=(20, 1)), 10, axis=0)
    width = {k: np.subtract(*resample([truth], {"a": [runs]}, 1000, length=k).interval(lambda v: v["a"])[::-1]) for k in (1, 10)}
    assert width[10] > 2 * width[1]


def test_seeds_are_resampled_too():
    truth = Truth.of([np.array([[1.0], [-1.0]])] * 8)
    perfect, useless = np.zeros((8, 1)), np.full((8, 1), 2.0)
    got = resample([truth, truth], {"a": [perfect, useless]}, draws=1000)
    assert got.value["a"] == pytest.approx(50)
    seen, times = np.unique(np.round(got.draws["a"], 9), return_counts=True)
    assert seen.tolist() == [0.0, 50.0, 100.0]
    assert times / 1000 == pytest.approx([0.25, 0.5, 0.25], abs=0.06)


def test_draws_without_a_number_are_left_out_and_infinite_ones_stay():
    truths, noise = paired(20, 1)
    got = resample(truths, {"a": noise}, draws=100)
    assert all(math.isnan(v) for v in got.interval(lambda v: math.nan))
    assert got.interval(lambda v: math.inf) == (math.inf, math.inf)


def test_shares():
    assert of_oracle(48.0, 96.0) == 0.5
    assert math.isnan(of_oracle(10.0, -5.0))
    assert recovered(96.5, 95.0, 98.0) == pytest.approx(0.5)
    assert recovered(94.0, 95.0, 97.0) == -0.5
    assert math.isnan(recovered(96.5, 97.0, 97.1))  # nothing to recover
    assert math.isnan(recovered(96.5, 97.0, math.nan))


@pytest.mark.parametrize(
    ("value", "curve", "k"),
    [
        (60.0, (50.0, 60.0, 70.0), 10.0),
        (55.0, (50.0, 60.0, 70.0), math.sqrt(50)),  # half way in log k
        (50.0, (50.0, 60.0, 70.0), 5.0),
        (70.0, (50.0, 60.0, 70.0), 20.0),
        (49.9, (50.0, 60.0, 70.0), -math.inf),
        (70.1, (50.0, 60.0, 70.0), math.inf),
        (60.0, (50.0, 40.0, 70.0), 10.0),  # a dip is noise: from 5 trials on it is 50
        (50.0, (50.0, 40.0, 70.0), 5.0),
        (60.0, (50.0, 60.0, 60.0), 10.0),
        (math.nan, (50.0, 60.0, 70.0), math.nan),
        (60.0, (50.0, math.nan, 70.0), math.nan),
    ],
)
def test_worth(value, curve, k):
    assert worth(value, (5, 10, 20), curve) == pytest.approx(k, nan_ok=True)


def test_worth_as_text():
    shown = [worth_text(k, (5, 10, 120)) for k in (-math.inf, 5.0, 23.4, math.inf, math.nan)]
    assert shown == ["< 5", "5", "23", "> 120", "-"]
