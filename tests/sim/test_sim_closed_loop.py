import numpy as np
import pytest

from bci_align.streams.contract import END, GO, START
from bci_align_sim.closed_loop import WORKSPACE, ClosedLoop, Controller
from bci_align_sim.task import CentreOut, record_day
from bci_align_sim.tuning import Tuning

pytestmark = pytest.mark.computes

TUNING = Tuning.draw(64, 0)


@pytest.fixture(scope="module")
def decoder(wiener):
    return wiener.fit(record_day(TUNING, trials=64, seed=1))


def play(loop, decode, trials):
    """Run until ``trials`` are done; all events."""
    velocity, events = np.zeros(2), []
    while len(loop.attempts) < trials:
        counts, new = loop.step(velocity)
        events += new
        velocity = decode(counts)
    return events


def test_a_good_decoder_reaches_most_targets(decoder):
    loop = ClosedLoop(TUNING, seed=2)
    play(loop, decoder.online(), 16)
    p = loop.performance()
    assert p.trials == 16 and p.success_rate > 0.85
    assert 0.5 < p.time_to_target_s < 2.0
    assert 0.6 < p.path_efficiency <= 1


def test_a_mirrored_or_silent_decoder_does_not(decoder):
    for sign in (-1.0, 0.0):
        step = decoder.online()
        loop = ClosedLoop(TUNING, seed=2)
        play(loop, lambda counts, sign=sign, step=step: sign * step(counts), 6)
        p = loop.performance()
        assert p.success_rate < 0.2 and (p.success_rate > 0 or np.isnan(p.time_to_target_s))


def test_perfect_decoding_of_the_intention_is_straight_and_quick():
    loop = ClosedLoop(TUNING, seed=3)
    play(loop, lambda counts: loop.intention, 16)
    p = loop.performance()
    assert p.success_rate == 1 and p.path_efficiency > 0.95 and p.time_to_target_s < 1.3


def test_events_come_in_order_on_the_bins_and_agree_with_the_attempts():
    loop = ClosedLoop(TUNING, seed=4)
    events = play(loop, lambda counts: loop.intention, 5)
    assert [e.name for e in events] == [START, GO, END] * 5
    times = np.array([e.t for e in events])
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times / 0.02, np.round(times / 0.02), atol=1e-6)
    assert [e.value for e in events if e.name == END] == [a.success for a in loop.attempts]


def test_the_cursor_waits_at_the_centre_until_the_go_cue():
    loop = ClosedLoop(TUNING, seed=5)
    for _ in range(30):
        _, events = loop.step([50.0, 0.0])
        assert all(e.name == START for e in events)
        np.testing.assert_array_equal(loop.cursor, 0)


def test_the_cursor_stays_on_the_screen():
    loop = ClosedLoop(TUNING, seed=5)
    for _ in range(120):
        loop.step([1e4, 0.0])
    np.testing.assert_allclose(loop.cursor, [WORKSPACE * 8.0, 0.0])


def test_a_velocity_that_is_not_finite_moves_nothing():
    loop = ClosedLoop(TUNING, seed=5)
    for _ in range(120):
        counts, _ = loop.step([np.nan, 1.0])
    np.testing.assert_array_equal(loop.cursor, 0)
    assert counts.min() >= 0


def test_time_out_ends_a_trial_as_a_failure():
    loop = ClosedLoop(TUNING, seed=6, controller=Controller(timeout_s=1.0))
    events = play(loop, lambda counts: np.zeros(2), 2)
    go, end = events[1], events[2]
    assert end.value is False and end.t - go.t == pytest.approx(1.0)


def test_passing_through_the_target_is_no_hold():
    loop = ClosedLoop(TUNING, seed=6, task=CentreOut(targets=1))
    play(loop, lambda counts: [15.0, 0.0], 1)
    assert not loop.attempts[0].success


def test_same_seed_same_run():
    runs = []
    for _ in range(2):
        loop = ClosedLoop(TUNING, seed=7)
        runs.append(np.stack([loop.step(loop.intention)[0] for _ in range(200)]))
    np.testing.assert_array_equal(*runs)


def test_coarse_bins_work_too():
    loop = ClosedLoop(TUNING, seed=8, bin_s=0.1)
    play(loop, lambda counts: loop.intention, 3)
    assert loop.performance().success_rate == 1


def test_no_finished_trial_has_no_figures():
    p = ClosedLoop(TUNING).performance()
    assert p.trials == 0 and np.isnan(p.success_rate)
