from dataclasses import replace

import numpy as np
import pytest

from bci_align.augmentation import measures
from bci_align.augmentation.codes import CodeSpace
from bci_align.augmentation.model import Model
from bci_align.augmentation.navigate import Navigator, variables
from bci_align.augmentation.spaces import LinearSpace
from bci_align.augmentation.trials import TrialSet

from .conftest import TINY


def test_the_code_s_signal_to_noise_is_that_of_what_made_it() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(400, 2))
    for noise in (0.25, 1.0):
        codes = np.c_[target + noise * rng.normal(size=(400, 2)), rng.normal(size=(400, 4))].astype(np.float32)
        halves = [(codes[k::2], target[k::2]) for k in (0, 1)]
        assert measures.code_snr(*halves) == pytest.approx(1 / noise**2, rel=0.25)
    said = rng.normal(size=(400, 6)).astype(np.float32)
    assert measures.code_snr((said[:200], target[:200]), (said[200:], target[200:])) < 0.05
    assert np.isnan(measures.code_snr((said[:200], target[:200]), (said[200:], np.ones((200, 2)))))


def test_codes_that_know_their_training_trials_by_heart_say_nothing_of_others() -> None:
    """As many numbers as trials: a read-out explains those it was fitted on, whatever they are."""
    rng = np.random.default_rng(0)
    codes, target = rng.normal(size=(60, 40)).astype(np.float32), rng.normal(size=(60, 2))
    seen, unseen = (codes[:30], target[:30]), (codes[30:], target[30:])
    assert measures.code_snr(seen, seen) > 5 > 0.2 > measures.code_snr(seen, unseen)


def test_conditions_apart_have_a_higher_ratio(cuts: TrialSet) -> None:
    _, which = cuts.conditions()
    rng = np.random.default_rng(0)
    near, far = (np.c_[s * which, np.zeros(len(which))] + rng.normal(size=(len(which), 2)) for s in (0.1, 3.0))
    assert measures.condition_snr(far.astype(np.float32), cuts) > 5 * measures.condition_snr(near.astype(np.float32), cuts)


def test_few_trials_of_a_condition_do_not_make_its_ratio_larger() -> None:
    rng = np.random.default_rng(0)
    for each, repeats in ((2, 200), (40, 10)):
        found = []
        for _ in range(repeats):
            which = np.repeat(np.arange(8.0), each)
            codes = rng.normal(size=(8, 6))[which.astype(int)] + rng.normal(size=(8 * each, 6))
            zero = np.zeros((8 * each, 1, 1), np.float32)
            found.append(measures.condition_snr(codes.astype(np.float32), TrialSet(zero, zero, zero, which[:, None])))
        assert np.median(found) == pytest.approx(1, abs=0.3)
    alone = TrialSet(zero, zero, zero, np.arange(len(which), dtype=float)[:, None])
    assert np.isnan(measures.condition_snr(codes.astype(np.float32), alone))


def test_realism_is_small_for_halves_of_one_and_large_for_others() -> None:
    rng = np.random.default_rng(0)
    common = rng.gamma(4, 1 / 4, (300, 20, 1))
    counts = rng.poisson(common * 1.5 * np.ones(8)).astype(np.float32)
    floor = measures.realism(counts[:150], counts[150:])
    alone = rng.poisson(1.5, (150, 20, 8)).astype(np.float32)
    other = measures.realism(alone, counts[150:])
    assert other["correlation RMSE"] > 3 * floor["correlation RMSE"]
    assert other["population KL"] > 3 * floor["population KL"]
    slow = measures.realism(rng.poisson(0.7, (150, 20, 8)).astype(np.float32), counts[150:])
    assert slow["ISI mean RMSE"] > 3 * floor["ISI mean RMSE"] and slow["ISI sd RMSE"] > 2 * floor["ISI sd RMSE"]


def test_the_floor_of_realism_is_that_of_many_halves(cuts: TrialSet) -> None:
    """One pair of halves may be alike by chance; the mean of many hardly depends on which they are."""
    one, many = [], []
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(len(cuts))
        one.append(measures.realism(cuts.counts[order[:20]], cuts.counts[order[20:40]])["population KL"])
        many.append(measures.floor_of_realism(cuts.counts, 20, seed)["population KL"])
    assert np.std(many) < 0.6 * np.std(one)
    assert min(one) < np.mean(many) < max(one)
    assert np.isfinite(measures.floor_of_realism(cuts.counts, 10**6, 0)["population KL"])


def test_halves_have_no_trial_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def seen(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
        pairs.append((set(one[:, 0, 0]), set(other[:, 0, 0])))
        return {"x": float(len(pairs))}

    monkeypatch.setattr(measures, "realism", seen)
    number = np.arange(30, dtype=np.float32)[:, None, None] * np.ones((1, 4, 2), np.float32)
    assert measures.floor_of_realism(number, 10, 0)["x"] == pytest.approx((1 + measures.HALVES) / 2)
    assert all(len(a) == len(b) == 10 and not a & b for a, b in pairs)
    assert len({tuple(sorted(a)) for a, _ in pairs}) == measures.HALVES
    assert np.isnan(measures.averaged([{"x": float("nan")}, {"x": float("nan")}])["x"])
    assert measures.averaged([{"x": float("nan")}, {"x": 2.0}])["x"] == 2


def test_intervals_spread_a_bin_s_spikes_evenly_and_stay_in_the_trial() -> None:
    counts = np.array([[[1], [0], [2]], [[0], [1], [0]]], np.float32)
    np.testing.assert_allclose(measures.intervals(counts)[0], [1.75, 0.5])


def test_a_traversal_moves_what_it_should(model: Model, cuts: TrialSet) -> None:
    found = measures.traversal(model.full.space, model.full.navigator, cuts, 10, most=10)
    assert set(found) == {"slope", "linearity", "unintended", "unintended, of the way gone", "cosine"}
    assert 0.4 < found["slope"] < 1.4 and found["linearity"] > 0.9
    assert 0 <= found["cosine"] <= 1 and found["unintended"] > 0
    assert found["unintended, of the way gone"] == pytest.approx(found["unintended"] / found["slope"])
    still = replace(model.full.navigator, directions=np.zeros_like(model.full.navigator.directions))
    assert np.isnan(measures.traversal(model.full.space, still, cuts, 10, most=10)["unintended, of the way gone"])


def test_the_task_itself_says_how_far_speed_follows_distance() -> None:
    """Straight reaches of one duration, with speed as the distance from where they start: what moving either target axis does."""
    rng = np.random.default_rng(0)
    start, target = rng.normal(2, 1, (400, 2)), rng.uniform(-1, 1, (400, 2)) * (1, 3)
    course = np.clip(np.arange(12) - 3, 0, 5)[None, :, None] / 5
    kinematics = (7 * (start[:, None] + course * (target - start)[:, None])).astype(np.float32)  # other units than the target's
    rates = np.zeros((400, 12, 1), np.float32)
    found = measures.of_the_task(TrialSet(rates, rates, kinematics, target), 3)
    far, stray = np.linalg.norm(target - start, axis=1), []
    for axis in np.eye(2):
        change, moved = 0.0, 0.0
        for step in np.array(measures.STEPS) * np.ptp(target @ axis) / 2:
            change += np.abs(np.linalg.norm(target + step * axis - start, axis=1) - far).mean() / far.std()
            moved += abs(step) / (target @ axis).std()
        stray.append(change / moved)
    assert abs(stray[0] - stray[1]) > 0.2
    assert found["unintended"] == pytest.approx(np.mean(stray), rel=0.03)
    assert found["speed by distance"] > 0.99


def test_a_task_of_one_target_has_no_way_to_go() -> None:
    rng = np.random.default_rng(0)
    kinematics, rates = rng.normal(size=(30, 12, 1)).astype(np.float32), np.zeros((30, 12, 1), np.float32)
    found = measures.of_the_task(TrialSet(rates, rates, kinematics, np.full((30, 1), 1e-10)), 3)
    assert np.isnan(found["unintended"]) and np.isfinite(found["cosine"])


@pytest.mark.parametrize("tie", [0.0, 0.8])
def test_the_cosine_of_codes_that_hold_the_variables_is_that_of_the_task(tie: float) -> None:
    """Codes of unit covariance in which start and target lie entirely: nothing is left of the cosine but how they are tied."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4000, 2))
    # a chain: the target's y is tied to the start's x by its own x alone, and not with that held
    target = rng.normal(size=(4000, 2))
    for axis, by in enumerate((start[:, 0], target[:, 0])):
        target[:, axis] = tie * by + np.sqrt(1 - tie**2) * target[:, axis]
    course = np.clip(np.arange(12) - 3, 0, 5)[None, :, None] / 5
    kinematics = (start[:, None] + course * (target - start)[:, None]).astype(np.float32)
    rates = np.zeros((4000, 12, 1), np.float32)
    trials = TrialSet(rates, rates, kinematics, target)
    values = np.stack(list(variables(trials, 3).values()), 1)
    values = (values - values.mean(0)) @ rng.normal(size=(5, 5))
    white = (values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T).astype(np.float32)
    found = measures.of_the_task(trials, 3)["cosine"]
    assert found == pytest.approx(measures.direction_cosine(Navigator.fit(white, trials, 3)), abs=0.02)
    assert (found > 0.1) == (tie > 0)


def test_held_out_targets_are_read_off_codes(model: Model, cuts: TrialSet) -> None:
    out = np.zeros(len(cuts), bool)
    out[model.held_out] = True
    error = measures.held_out_error(model.proof.space, cuts.of(~out), cuts.of(out))
    guess = np.linalg.norm(cuts.target[out] - cuts.target[~out].mean(0), axis=1).mean()
    assert error < 0.6 * guess


def test_rates_are_explained_by_as_much_as_the_codes_hold(model: Model, cuts: TrialSet) -> None:
    few, many = (np.nanmedian(measures.rate_r2(LinearSpace.fit(cuts, n), cuts, draws=1)) for n in (2, 40))
    assert many > 0.6 and many > few + 0.3
    assert isinstance(model.full.space, CodeSpace)
    warm = replace(model.full.space, config=TINY.model_copy(update={"temperature": 1.0}))
    found, once = (measures.rate_r2(warm, cuts, model.full.gain, draws=n) for n in (8, 1))
    assert found.shape == (cuts.rates.shape[2],)
    assert np.nanmedian(found) > np.nanmedian(once)  # the mean of samples is nearer than a sample
    cold = measures.rate_r2(model.full.space, cuts, model.full.gain, draws=1)
    assert np.nanmedian(cold) > np.nanmedian(once)  # and so is the likeliest trial
