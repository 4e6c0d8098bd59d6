from dataclasses import replace

import numpy as np
import pytest

from bci_align.augmentation.trials import Scaler, TrialSet, anchors, cut, smoothed, window_bins
from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError
from bci_align.session.types import Session

from .conftest import TINY

Days = tuple[Session, Session]


def test_windows_lie_around_the_go_cue(small_days: Days) -> None:
    day = small_days[0]
    cuts, kept = cut(day, day.rewarded(), TINY)
    before, after = window_bins(TINY, day.bin_s)
    assert cuts.counts.shape == (len(kept), before + after, len(day.channels))
    i = 5
    at = int((day.trials.go_s[kept[i]] + 1e-6) / day.bin_s)
    np.testing.assert_array_equal(cuts.counts[i], day.counts[at - before : at + after])
    assert day.kinematics is not None
    np.testing.assert_array_equal(cuts.kinematics[i], day.kinematics[at - before : at + after])
    # smoothing keeps the number of spikes and takes away their scatter
    assert cuts.rates.mean() == pytest.approx(cuts.counts.mean(), rel=0.02)
    assert cuts.rates.std() < 0.9 * cuts.counts.std()


def test_a_window_that_would_cross_a_break_is_left_out(small_days: Days) -> None:
    day = small_days[0]
    i = int(day.rewarded()[10])
    first = day.trial_bins(i)[0]
    broken = replace(day, breaks=(first,))
    long = TINY.model_copy(update={"before_s": 1.5})
    others = day.rewarded()[::2]  # so long windows would reach into the next trials
    assert i in cut(day, others, long)[1]
    assert i not in cut(broken, others, long)[1]


def test_windows_that_reach_into_each_other_are_refused(small_days: Days) -> None:
    """A held-out trial's bins must be in no other trial's window."""
    day = small_days[0]
    day = replace(day, trials=replace(day.trials, start_s=day.trials.go_s))
    trials = day.rewarded()
    shortest = int(np.diff(np.sort(anchors(day, trials))).min())
    most = TINY.model_copy(update={"before_s": 0.0, "after_s": shortest * day.bin_s})
    assert len(cut(day, trials, most)[1]) > len(trials) - 3
    longer = TINY.model_copy(update={"before_s": day.bin_s, "after_s": shortest * day.bin_s})
    told = rf"windows of at most {shortest * day.bin_s:g} s, the shortest .*, found {(shortest + 1) * day.bin_s:g} s: \d+ of"
    with pytest.raises(AugmentationError, match=told):
        cut(day, trials, longer)
    assert len(cut(day, trials[::2], longer)[1])


def test_windows_that_hold_bins_of_another_trial_are_refused(small_days: Days) -> None:
    """Between two go cues there is room for the window, but the next trial, which is scored from its start on, begins before."""
    day = small_days[0]
    trials = day.rewarded()
    first = np.array([day.trial_bins(int(i))[0] for i in trials])
    room = int((first[1:] - anchors(day, trials)[:-1]).min())
    fits = TINY.model_copy(update={"before_s": 0.0, "after_s": room * day.bin_s})
    assert len(cut(day, trials, fits)[1]) > len(trials) - 3
    longer = fits.model_copy(update={"after_s": (room + 1) * day.bin_s})
    with pytest.raises(AugmentationError, match=r"hold bins of no other trial, found 2 of \d+ that do: trial \d+'s holds 0.05 s"):
        cut(day, trials, longer)
    early = TINY.model_copy(update={"before_s": 1.5, "after_s": 0.1})  # into the end of the one before
    with pytest.raises(AugmentationError, match=r"hold bins of no other trial, found 3 of"):
        cut(day, trials, early)


def test_rates_know_nothing_of_what_lies_outside_their_window(small_days: Days) -> None:
    day = small_days[0]
    before, after = window_bins(TINY, day.bin_s)
    cuts, kept = cut(day, day.rewarded(), TINY)
    outside = np.ones(day.bins, bool)
    for at in anchors(day, kept):
        outside[at - before : at + after] = False
    loud = day.counts.copy()
    loud[outside] += 50
    np.testing.assert_array_equal(cut(replace(day, counts=loud), day.rewarded(), TINY)[0].rates, cuts.rates)
    np.testing.assert_allclose(cuts.rates.sum(1), cuts.counts.sum(1), rtol=1e-5)  # every spike is in its own window's rates
    steady = smoothed(np.full((2, 20, 3), 4, np.float32), TINY, day.bin_s)
    np.testing.assert_allclose(steady, 4, rtol=1e-6)  # no dip at the edges


def test_what_a_session_lacks_is_said_in_a_sentence(small_days: Days) -> None:
    day = small_days[0]
    with pytest.raises(AugmentationError, match="kinematics: expected some"):
        cut(replace(day, kinematics=None, kinematics_names=(), kinematics_units=()), day.rewarded(), TINY)
    with pytest.raises(AugmentationError, match="expected targets to navigate by"):
        cut(replace(day, trials=replace(day.trials, target=None)), day.rewarded(), TINY)
    with pytest.raises(AugmentationError, match=r"at least 8 rewarded trials .*, found 3 of 3"):
        cut(day, day.rewarded()[:3], TINY)
    assert day.trials.target is not None
    lost = day.trials.target.copy()
    lost[day.rewarded()[2], 0] = np.nan
    with pytest.raises(AugmentationError, match=r"trials.target: expected finite coordinates, found NaN .* for 1 of"):
        cut(replace(day, trials=replace(day.trials, target=lost)), day.rewarded(), TINY)
    assert cut(replace(day, trials=replace(day.trials, target=lost)), day.rewarded()[3:], TINY)
    many = np.repeat(day.trials.target, 2, axis=1)
    with pytest.raises(AugmentationError, match="targets of 1 to 3 coordinates, found 4"):
        cut(replace(day, trials=replace(day.trials, target=many)), day.rewarded(), TINY)
    with pytest.raises(AugmentationError, match="bin width: expected at least"):
        window_bins(TINY, 1e-300)
    with pytest.raises(AugmentationError, match="at least 8 bins"):
        window_bins(AugmentConfig(before_s=0.1, after_s=0.1), 0.05)


def test_scaling_goes_there_and_back(cuts: TrialSet) -> None:
    scaler = Scaler.fit(cuts)
    x = scaler.to(cuts)
    channels = cuts.rates.shape[2]
    assert np.abs(x.mean((0, 1))).max() < 1e-3
    assert np.allclose(x[..., :channels].std((0, 1))[cuts.rates.mean((0, 1)) > 0.05], 1, atol=1e-2)
    # all kinematics together weigh a fifth of what all channels weigh
    assert np.square(x[..., channels:]).sum() / (len(x) * x.shape[1] * channels) == pytest.approx(0.2, rel=0.01)
    rates, kinematics = scaler.back(x)
    np.testing.assert_allclose(rates, cuts.rates, atol=1e-4)
    np.testing.assert_allclose(kinematics, cuts.kinematics, atol=1e-3)
    assert (scaler.back(np.full_like(x, -50))[0] == 0).all()


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3])
def test_kinematics_are_learnt_in_whatever_unit_they_come(cuts: TrialSet, unit: float) -> None:
    scaled = replace(cuts, kinematics=(cuts.kinematics * unit).astype(np.float32))
    expected, found = Scaler.fit(cuts).to(cuts), Scaler.fit(scaled).to(scaled)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[..., cuts.rates.shape[2] :].std() > 1


@pytest.mark.parametrize("value", [0.0, 1e-3, 700.1])
def test_kinematics_that_never_change_stay_what_they_are(cuts: TrialSet, value: float) -> None:
    still = cuts.kinematics.copy()
    still[..., 1] = value
    scaler = Scaler.fit(replace(cuts, kinematics=still))
    x = scaler.to(replace(cuts, kinematics=still))
    assert np.isfinite(x).all() and np.abs(x[..., -1]).max() < 0.1
    assert np.abs(scaler.back(x + np.float32(0.1))[1][..., 1] - value).max() <= max(1e-4 * value, 0.1)
