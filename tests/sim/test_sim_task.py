from itertools import pairwise

import numpy as np
import pytest

from bci_align.session.types import validate
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift
from bci_align_sim.task import CentreOut, minimum_jerk, move, record_day
from bci_align_sim.tuning import Tuning

pytestmark = pytest.mark.computes

TUNING = Tuning.draw(16, 0)


@pytest.fixture(scope="module")
def day():
    return record_day(TUNING, trials=48, seed=1)


def test_a_day_is_a_valid_session(day):
    assert validate(day) is day
    assert len(day.trials) == 48 and day.counts.shape == (day.bins, 16)
    assert day.counts.dtype == np.int32 and day.kinematics.dtype == np.float32
    assert day.kinematics_names == ("vx", "vy") and day.kinematics_units == ("cm/s", "cm/s")
    assert day.trials.target.shape == (48, 2)


@pytest.mark.parametrize("bin_s", [0.01, 0.025, 0.05])
def test_any_bin_width_gives_a_valid_session(bin_s):
    day = validate(record_day(TUNING, trials=8, seed=2, bin_s=bin_s))
    assert day.bin_s == bin_s
    assert 8 * 2.0 < day.bins * bin_s < 8 * 4.5


def test_bin_width_does_not_change_the_trials():
    np.testing.assert_array_equal(move(8, 3, 0.01).trials.end_s, move(8, 3, 0.05).trials.end_s)


def test_events_come_in_order_and_trials_do_not_overlap(day):
    t = day.trials
    assert (t.start_s < t.go_s).all() and (t.go_s < t.end_s).all() and (t.end_s[:-1] < t.start_s[1:]).all()
    stops = [day.trial_bins(i) for i in range(len(t))]
    assert all(a[1] <= b[0] for a, b in pairwise(stops))


def test_every_target_is_visited_once_per_block(day):
    angles = np.round(np.rad2deg(np.arctan2(day.trials.target[:, 1], day.trials.target[:, 0])) / 45).astype(int) % 8
    for block in angles.reshape(6, 8):
        assert sorted(block) == list(range(8))
    np.testing.assert_allclose(np.linalg.norm(day.trials.target, axis=1), 8.0)


def test_successes_end_at_the_target_and_failures_elsewhere():
    m = move(200, 4)
    task = CentreOut()
    at_end = m.position[np.searchsorted(0.02 * np.arange(len(m.position)), m.trials.end_s) - 1]
    off = np.linalg.norm(at_end - m.trials.target, axis=1)
    assert 0.02 < 1 - m.trials.success.mean() < 0.12
    assert (off[m.trials.success] < task.radius_cm).all()
    assert (off[~m.trials.success] > task.radius_cm).all()


def test_the_hand_rests_until_the_go_cue_and_peaks_at_human_speed():
    m = move(40, 5)
    speed = np.linalg.norm(m.velocity, axis=1)
    times = 0.02 * (np.arange(len(speed)) + 0.5)
    peaks = []
    for start, go, end in zip(m.trials.start_s, m.trials.go_s, m.trials.end_s, strict=True):
        assert speed[(times > start + 0.02) & (times < go)].max() < 3
        peaks.append(speed[(times > go) & (times < end)].max())
    assert 15 < np.median(peaks) < 30
    assert np.std(peaks) > 2


def test_velocity_is_the_change_of_position_but_for_tremor():
    m = move(8, 6, task=CentreOut(tremor_sd_cm_s=0.0))
    np.testing.assert_allclose(np.diff(m.position, axis=0) / 0.02, m.velocity[1:], atol=1e-9)


def test_reaches_to_one_target_differ():
    m = move(80, 7)
    same = np.flatnonzero((m.trials.target == m.trials.target[0]).all(1))
    assert np.std(m.trials.end_s[same] - m.trials.go_s[same]) > 0.05


def test_minimum_jerk_starts_and_ends_at_rest():
    s = np.linspace(-0.5, 1.5, 2001)
    y = minimum_jerk(s)
    assert y[0] == 0 and y[-1] == 1 and np.diff(y).min() >= 0
    assert np.gradient(y, s).max() == pytest.approx(1.875, rel=1e-3)


def test_same_seed_same_session():
    a, b, c = (record_day(TUNING, trials=8, seed=s) for s in (9, 9, 10))
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.kinematics, b.kinematics)
    assert not (a.bins == c.bins and np.array_equal(a.counts, c.counts))


def test_two_days_share_the_array_and_differ_in_the_hand():
    first, later = simulate_days(0, (8, 8), channels=12)
    assert first.channels == later.channels and first.name != later.name
    assert not np.array_equal(first.trials.end_s, later.trials.end_s)


def test_drift_leaves_day_zero_and_the_hand_alone():
    first, later = simulate_days(0, (8, 8), channels=12)
    first_none, later_none = simulate_days(0, (8, 8), Drift.level(0), channels=12)
    np.testing.assert_array_equal(first.counts, first_none.counts)
    np.testing.assert_array_equal(later.kinematics, later_none.kinematics)
    assert not np.array_equal(later.counts, later_none.counts)
