"""Live trials are the offline trials, bin for bin."""

from __future__ import annotations

import numpy as np
import pytest

from bci_align.runtime.marks import TrialClock
from bci_align.runtime.trial_buffer import LONGEST_S, TrialBuffer
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.streams.contract import END, START, Bin, TrialEvent

from .fakes import small_session, stream

pytestmark = pytest.mark.computes

RUN_IN = 6


def new_buffer(s: Session, run_in: int = RUN_IN, keep: int = 1000, successful_only: bool = True) -> TrialBuffer:
    return TrialBuffer(s.channels, s.bin_s, run_in, keep, successful_only=successful_only)


def assert_same(found: UnlabelledTrials, expected: UnlabelledTrials) -> None:
    assert (found.run_in, found.bin_s, found.channels) == (expected.run_in, expected.bin_s, expected.channels)
    assert len(found) == len(expected)
    for a, b in zip(found.counts, expected.counts, strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, b)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("late", [0, 5])
@pytest.mark.parametrize("t0", [0.0, 98765.4321])
def test_same_bins_as_offline(seed: int, late: int, t0: float) -> None:
    s = small_session(seed)
    buffer = new_buffer(s)
    completed = sum(buffer.add(item) for item in stream(s, t0, late, seed))
    expected = unlabelled(s, s.rewarded(), RUN_IN)
    assert completed == len(expected) > 5
    assert_same(buffer.trials(), expected)


def test_failed_trials_count_when_asked_for() -> None:
    s = small_session(3)
    buffer = new_buffer(s, successful_only=False)
    for item in stream(s):
        buffer.add(item)
    assert_same(buffer.trials(), unlabelled(s, np.arange(len(s.trials)), RUN_IN))


def test_simulated_and_early_trials(days: tuple[Session, Session]) -> None:
    s = days[0]
    for run_in in (0, 10):
        buffer = new_buffer(s, run_in)
        for item in stream(s, 12.5):
            buffer.add(item)
        assert_same(buffer.trials(), unlabelled(s, s.rewarded(), run_in))


@pytest.mark.parametrize("seed", range(20))
def test_a_trial_with_a_missing_bin_is_dropped_and_counted(seed: int) -> None:
    s = small_session(seed)
    rng = np.random.default_rng(seed)
    missing = set(rng.choice(np.arange(20, s.bins), 12, replace=False).tolist())
    buffer = new_buffer(s)
    for item in stream(s, 5.0, 3, seed):
        if not (isinstance(item, Bin) and item.seq in missing):
            buffer.add(item)
    whole, broken = [], 0
    for i in s.rewarded():
        first, stop = s.trial_bins(int(i))
        if missing.isdisjoint(range(max(first - RUN_IN, 0), stop)):
            whole.append(i)
        else:
            broken += 1
    assert broken > 0
    assert_same(buffer.trials(), unlabelled(s, np.array(whole), RUN_IN))
    assert buffer.dropped["gap"] == broken


def item(k: int) -> Bin:
    return Bin(k, (k + 1) * 0.02, np.full(5, k, np.float32))


def test_an_abandoned_trial_is_dropped_and_counted() -> None:
    buffer = new_buffer(small_session(0), run_in=0)
    for k in range(40):
        if k in (5, 15):
            buffer.add(TrialEvent(k * 0.02, START))
        if k in (20, 30):  # the second end has no start
            buffer.add(TrialEvent(k * 0.02, END, True))
        buffer.add(item(k))
    assert [t[:, 0].tolist() for t in buffer.trials().counts] == [list(range(15, 21))]
    assert buffer.dropped == {"abandoned": 1}


def test_records_lost_before_the_buffer_drop_the_open_trial() -> None:
    buffer = new_buffer(small_session(0), run_in=0)
    for k in range(40):
        if k == 5:
            buffer.add(TrialEvent(k * 0.02, START))
        if k == 10:
            buffer.missed()
        if k == 20:
            buffer.add(TrialEvent(k * 0.02, END, True))
        buffer.add(item(k))
    assert len(buffer) == 0
    assert buffer.dropped == {"gap": 1}


def test_memory_is_bounded_and_a_trial_that_does_not_fit_is_counted() -> None:
    buffer = new_buffer(small_session(0), run_in=0, keep=2)
    long = int(LONGEST_S / 0.02) + 10
    buffer.add(TrialEvent(0.0, START))
    for k in range(long):
        buffer.add(item(k))
    buffer.add(TrialEvent((long - 1) * 0.02, END, True))
    buffer.add(item(long))
    assert len(buffer) == 0
    assert buffer.dropped == {"too long": 1}
    for n in range(5):
        buffer.add(TrialEvent((long + 10 * n + 1) * 0.02, START))
        for k in range(10):
            buffer.add(item(long + 10 * n + k + 1))
        buffer.add(TrialEvent((long + 10 * n + 9) * 0.02, END, True))
    assert [t[0, 0] for t in buffer.trials().counts] == [long + 31, long + 41]
    buffer.clear()
    assert len(buffer) == 0


def test_an_event_waits_for_its_bin() -> None:
    buffer = new_buffer(small_session(0), run_in=0)
    assert buffer.add(TrialEvent(0.03, START)) == 0
    assert buffer.add(TrialEvent(0.05, END, True)) == 0
    assert [buffer.add(item(k)) for k in range(4)] == [0, 0, 1, 0]
    assert buffer.trials().counts[0][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_trial_clock_agrees_with_the_session(seed: int) -> None:
    s = small_session(seed)
    clock = TrialClock(s.bin_s)
    inside = np.zeros(s.bins, bool)
    for i in range(len(s.trials)):
        inside[slice(*s.trial_bins(i))] = True
    found = []
    for x in stream(s, 77.7):
        if isinstance(x, Bin):
            found.append(clock.inside(x))
        else:
            clock.add(x)
    assert found == inside.tolist()


def test_trial_clock_believes_a_late_end_at_once() -> None:
    clock = TrialClock(0.02)
    clock.add(TrialEvent(0.01, START))
    assert [clock.inside(item(k)) for k in range(3)] == [True, True, True]
    clock.add(TrialEvent(0.03, END, True))
    assert not clock.inside(item(3))


def test_a_stream_that_begins_shortly_before_a_trial_gives_it_less_run_in() -> None:
    s = small_session(1)
    buffer = new_buffer(s, run_in=300)
    for x in stream(s):
        buffer.add(x)
    assert_same(buffer.trials(), unlabelled(s, s.rewarded(), 300))
    assert 0 < min(buffer.trials().run_in) < max(buffer.trials().run_in) == 300
    assert not buffer.dropped["no start"]


@pytest.mark.parametrize("run_in", [0, 6])
def test_a_trial_that_began_before_the_stream_is_dropped_and_counted(run_in: int) -> None:
    buffer = new_buffer(small_session(0), run_in=run_in)
    buffer.add(TrialEvent(-0.05, START))
    for k in range(10):
        buffer.add(item(k))
    buffer.add(TrialEvent(0.15, END, True))
    assert len(buffer) == 0
    assert buffer.dropped == {"no start": 1}


@pytest.mark.parametrize(
    ("events", "between"),
    [
        ([(2, 2.5, END), (2, 2.5, START)], [3]),  # shared
        ([(2, 3.0, END), (2, 3.0, START)], [4]),  # on the edge: both lie in the bin behind it
        ([(2, 2.5, END), (3, 3.1, START)], [3]),  # in two neighbours
        ([(3, 2.5, END), (3, 2.5, START)], [3]),  # known a bin late, which is in time
        ([(4, 2.5, END), (4, 2.5, START)], []),  # too late: bin 3 was decoded as the trial's
        ([(2, 2.1, END), (2, 2.2, START), (3, 3.1, END), (3, 3.2, START)], [3, 4]),
        ([(2, 2.5, START)], []),
    ],
)
def test_the_boundary_behind_a_trials_end(events: list[tuple[int, float, str]], between: list[int]) -> None:
    """Events as (arrives before bin, time in bins, name); a trial runs from bin 0 on."""
    clock = TrialClock(0.02)
    clock.add(TrialEvent(0.0, START))
    found = []
    for k in range(7):
        for at, t, name in events:
            if at == k:
                clock.add(TrialEvent(t * 0.02, name))
        inside = clock.inside(Bin(k, (k + 1) * 0.02, np.zeros(1, np.float32)))
        assert inside
        found += [k] if clock.between else []
    assert found == between
