from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.errors import StreamError
from bci_align.session.types import bin_of
from bci_align.streams.contract import END, GO, START, Bin, TrialEvent
from bci_align.streams.ordering import HOLD_S, OLD_IN_A_ROW, OLD_S, EventOrder

pytestmark = pytest.mark.computes

BIN_S = 0.02


def bins(first: int, stop: int) -> list[Bin]:
    return [Bin(k, (k + 1) * BIN_S, np.zeros(1, np.float32)) for k in range(first, stop)]


def names(items: list[Bin | TrialEvent]) -> list[int | str]:
    return [i.seq if isinstance(i, Bin) else i.name for i in items]


def test_events_stand_before_the_bin_that_holds_them() -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(0.03, GO), TrialEvent(0.01, START), TrialEvent(0.05, END, True)], 0.0)
    assert names(order.merge(bins(0, 3), 0.0)) == [START, 0, GO, 1, END, 2]


@pytest.mark.parametrize("offset", [-9e-7, 0.0, 9e-7])
def test_an_event_on_a_bins_end_belongs_to_the_next_bin(offset: float) -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(2 * BIN_S + offset, START)], 0.0)
    assert names(order.merge(bins(0, 4), 0.0)) == [0, 1, START, 2, 3]


def test_an_early_event_waits_for_its_bin_and_a_late_one_comes_first() -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(0.05, GO)], 0.0)
    assert names(order.merge(bins(0, 2), 0.0)) == [0, 1]
    order.add([TrialEvent(0.001, START)], 0.1)
    assert names(order.merge(bins(2, 4), 0.1)) == [START, GO, 2, 3]


def test_before_the_first_bin_every_event_is_given() -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(99.0, END, True)], 0.0)
    assert names(order.merge([], 0.0)) == [END]
    assert order.merge([], 0.0) == []


def test_without_bins_what_lies_in_the_next_one_is_given_and_at_the_end_the_rest() -> None:
    order = EventOrder("stream", BIN_S)
    order.merge(bins(0, 3), 0.0)
    order.add([TrialEvent(0.07, END, True), TrialEvent(0.081, START), TrialEvent(0.5, GO), TrialEvent(0.01, START)], 0.0)
    assert names(order.merge([], 0.0)) == [START, END]
    assert order.merge([], 0.0) == []
    assert names(order.rest()) == [START, GO]
    assert order.rest() == []


def test_equal_stamps_keep_their_order() -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(0.01, END, True), TrialEvent(0.01, START)], 0.0)
    assert names(order.merge(bins(0, 1), 0.0)) == [END, START, 0]


def test_two_clocks_are_named() -> None:
    order = EventOrder("stream 'x'", BIN_S)
    order.add([TrialEvent(5000.0, START)], 0.0)
    assert names(order.merge(bins(0, 1), HOLD_S - 1)) == [0]
    with pytest.raises(StreamError, match=r"stream 'x': expected events and bins on one clock, found a 'start' event at 5000"):
        order.merge(bins(1, 2), HOLD_S + 1)


@pytest.mark.parametrize("ahead", [31.0, 1e5])
def test_two_clocks_are_named_at_real_time(ahead: float) -> None:
    """A read times out ten times between two bins of 50 ms: those reads must not let the event go."""
    order = EventOrder("stream", BIN_S)
    order.merge(bins(0, 1), 0.0)
    order.add([TrialEvent(ahead + 10, START)], 0.0)
    with pytest.raises(StreamError, match="expected events and bins on one clock, found a 'start' event"):
        for k in range(1, 2000):
            assert order.merge([], k * BIN_S - 0.015) == []
            assert order.merge([], k * BIN_S - 0.010) == []
            assert names(order.merge(bins(k, k + 1), k * BIN_S)) == [k]
    assert k * BIN_S == pytest.approx(HOLD_S, abs=0.1)


def test_a_clock_that_is_set_back_holds_nothing() -> None:
    """What waited by the clock of before would wait for ever, and then pass for a second clock."""
    order = EventOrder("stream", BIN_S)
    order.merge([Bin(0, 5000.0, np.zeros(1, np.float32))], 0.0)
    order.add([TrialEvent(5000.01, START), TrialEvent(5000.5, GO)], 0.0)
    back = [Bin(k, 100.0 + k * BIN_S, np.zeros(1, np.float32)) for k in range(2, 5)]
    assert names(order.merge([Bin(1, 5000.02, np.zeros(1, np.float32)), *back], 0.0)) == [START, 1, GO, 2, 3, 4]
    order.add([TrialEvent(100.09, END, True)], HOLD_S + 1)
    assert names(order.merge([Bin(5, 100.1, np.zeros(1, np.float32))], HOLD_S + 1)) == [END, 5]


def test_two_bins_that_change_places_are_no_clock_that_was_set_back() -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(0.5, GO)], 0.0)
    assert names(order.merge([bins(0, 2)[1], bins(0, 2)[0]], 0.0)) == [1, 0]


def test_a_pause_of_the_bins_is_no_second_clock() -> None:
    order = EventOrder("stream", BIN_S)
    order.merge(bins(0, 1), 0.0)
    order.add([TrialEvent(5.0, END, True)], 5.0)
    assert order.merge([], 100.0) == []
    assert names(order.merge(bins(4999, 5001), 100.0)) == [END, 4999, 5000]


def test_events_far_behind_the_bins_name_two_clocks() -> None:
    order = EventOrder("stream 'x'", BIN_S)
    order.add([TrialEvent(-5000.0, START)] * OLD_IN_A_ROW, 0.0)  # no bin yet to tell by
    far = [Bin(0, 1000.0, np.zeros(1, np.float32))]
    assert names(order.merge(far, 0.0)) == [START] * OLD_IN_A_ROW + [0]
    old = TrialEvent(1000.0 - OLD_S - 1, END, True)
    order.add([old] * (OLD_IN_A_ROW - 1), 1.0)
    order.add([TrialEvent(1000.0 - OLD_S + 1, END, True)], 1.0)  # late, as a busy machine may be
    order.add([old] * (OLD_IN_A_ROW - 1), 1.0)  # a slip of the rig
    with pytest.raises(StreamError, match=r"stream 'x': .* found a 'end' event at 939.000 s, when bins had come to 1000"):
        order.add([old], 2.0)


def test_a_backlog_is_no_second_clock() -> None:
    order = EventOrder("stream", BIN_S)
    order.merge(bins(0, 1), 0.0)
    order.add([TrialEvent(0.03, n) for n in (START, GO, END)], 90.0)
    assert names(order.merge(bins(1, 4500), 90.0))[:4] == [START, GO, END, 1]


@given(st.lists(st.floats(0, 0.99), max_size=12))
@settings(deadline=None)
def test_agrees_with_the_bin_of_a_recorded_session(times: list[float]) -> None:
    order = EventOrder("stream", BIN_S)
    order.add([TrialEvent(t, GO) for t in times], 0.0)
    following: list[tuple[float, int]] = []
    waiting: list[float] = []
    for item in order.merge(bins(0, 60), 0.0):
        if isinstance(item, TrialEvent):
            waiting.append(item.t)
        else:
            following += [(t, item.seq) for t in waiting]
            waiting = []
    assert not waiting
    for t, seq in following:
        edge = (t + 1e-6) / BIN_S
        if abs(edge - round(edge)) > 1e-9:  # on the tolerance itself, rounding decides
            assert bin_of(t, BIN_S) == seq
