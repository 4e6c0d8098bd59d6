from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.errors import StreamError
from bci_align.session.types import bin_of
from bci_align.streams.contract import END, GO, START, Bin, TrialEvent
from bci_align.streams.ordering import HOLD_S, EventOrder

BIN_S = 0.02


def bins(first: int, stop: int) -> list[Bin]:
    return [Bin(k, (k + 1) * BIN_S, np.zeros(1, np.float32)) for k in range(first, stop)]


def names(items: list[Bin | TrialEvent]) -> list[int | str]:
    return [i.seq if isinstance(i, Bin) else i.name for i in items]


def test_events_stand_before_the_bin_that_holds_them() -> None:
    order = EventOrder("stream")
    order.add([TrialEvent(0.03, GO), TrialEvent(0.01, START), TrialEvent(0.05, END, True)], 0.0)
    assert names(order.merge(bins(0, 3), 0.0)) == [START, 0, GO, 1, END, 2]


@pytest.mark.parametrize("offset", [-9e-7, 0.0, 9e-7])
def test_an_event_on_a_bins_end_belongs_to_the_next_bin(offset: float) -> None:
    order = EventOrder("stream")
    order.add([TrialEvent(2 * BIN_S + offset, START)], 0.0)
    assert names(order.merge(bins(0, 4), 0.0)) == [0, 1, START, 2, 3]


def test_an_early_event_waits_for_its_bin_and_a_late_one_comes_first() -> None:
    order = EventOrder("stream")
    order.add([TrialEvent(0.05, GO)], 0.0)
    assert names(order.merge(bins(0, 2), 0.0)) == [0, 1]
    order.add([TrialEvent(0.001, START)], 0.1)
    assert names(order.merge(bins(2, 4), 0.1)) == [START, GO, 2, 3]


def test_without_bins_every_event_is_given() -> None:
    order = EventOrder("stream")
    order.add([TrialEvent(99.0, END, True)], 0.0)
    assert names(order.merge([], 0.0)) == [END]
    assert order.merge([], 0.0) == []


def test_equal_stamps_keep_their_order() -> None:
    order = EventOrder("stream")
    order.add([TrialEvent(0.01, END, True), TrialEvent(0.01, START)], 0.0)
    assert names(order.merge(bins(0, 1), 0.0)) == [END, START, 0]


def test_two_clocks_are_named() -> None:
    order = EventOrder("stream 'x'")
    order.add([TrialEvent(5000.0, START)], 0.0)
    assert names(order.merge(bins(0, 1), HOLD_S - 1)) == [0]
    with pytest.raises(StreamError, match=r"stream 'x': expected events and bins on one clock, found a 'start' event at 5000"):
        order.merge(bins(1, 2), HOLD_S + 1)


@given(st.lists(st.floats(0, 0.99), max_size=12))
@settings(deadline=None)
def test_agrees_with_the_bin_of_a_recorded_session(times: list[float]) -> None:
    order = EventOrder("stream")
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
