"""Limits of the output, and the silence of a stream."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_align.config import SafetyConfig
from bci_align.signal.safety import Safety, finite, norm
from bci_align.signal.stale import Silence, tick

BIN_S = 0.02


def test_without_limits_an_output_leaves_as_it_is() -> None:
    safety = Safety(2, BIN_S, SafetyConfig())
    y = np.array([1e3, -7.0])
    out, cut = safety.step(safety.state0(), y)
    assert (out.tobytes(), cut) == (y.tobytes(), False)


def test_speed_keeps_its_direction() -> None:
    safety = Safety(2, BIN_S, SafetyConfig(max_speed=5.0))
    out, cut = safety.step(safety.state0(), np.array([30.0, 40.0]))
    assert cut
    assert out == pytest.approx([3.0, 4.0])
    assert not safety.step(out, np.array([3.0, 3.9]))[1]


def test_acceleration_is_limited_from_the_last_output_on() -> None:
    safety = Safety(2, BIN_S, SafetyConfig(max_acceleration=50.0))
    y = safety.state0()
    for n in range(1, 12):
        y, cut = safety.step(y, np.array([0.0, 10.0]))
        assert y == pytest.approx([0.0, min(n, 10.0)])
        assert cut == (n < 10)


def test_decay_and_zero() -> None:
    safety = Safety(2, BIN_S, SafetyConfig(decay_s=0.1))
    y = np.array([5.0, -5.0])
    for _ in range(5):
        y = safety.decay(y)
    assert y == pytest.approx(np.array([5.0, -5.0]) / math.e)
    assert not safety.zero().any()


@given(
    st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=20),
    st.one_of(st.none(), st.floats(0.01, 1e6)),
    st.one_of(st.none(), st.floats(0.01, 1e6)),
)
def test_whatever_comes_the_output_is_within_its_limits(
    values: list[list[float]], speed: float | None, acceleration: float | None
) -> None:
    safety = Safety(2, BIN_S, SafetyConfig(max_speed=speed, max_acceleration=acceleration))
    state = safety.state0()
    for y in values:
        out, _ = safety.step(state, np.array(y))
        assert np.isfinite(out).all()
        if speed is not None:
            assert norm(out) <= speed * (1 + 1e-9)
            if acceleration is not None and finite(np.array(y)):
                assert norm(out - state) <= acceleration * BIN_S * (1 + 1e-9) + 1e-9 * speed
        state = out


def test_samples_without_bins_keep_the_rate() -> None:
    state, due = Silence(10.0), []
    for k in range(100):  # looked at every 5 ms
        now = 10.0 + 0.005 * (k + 1)
        state, silent = tick(state, now, 0.1, BIN_S)
        if silent is not None:
            assert silent == pytest.approx(now - 10.0)
            due.append(k + 1)
    assert due[0] in (20, 21)
    assert np.abs(np.diff(due) - 4).max() <= 1
    assert len(due) in (20, 21)


def test_samples_that_were_missed_are_not_made_up_for() -> None:
    state, silent = tick(Silence(10.0), 10.2, 0.1, BIN_S)
    assert silent is not None
    state, silent = tick(state, 20.0, 0.1, BIN_S)
    assert silent is not None
    assert tick(state, 20.01, 0.1, BIN_S)[1] is None


def test_a_silence_of_unknown_beginning_begins_with_the_first_look() -> None:
    state, silent = tick(Silence(), 5.0, 0.1, BIN_S)
    assert silent is None
    assert tick(state, 5.09, 0.1, BIN_S)[1] is None
    assert tick(state, 5.11, 0.1, BIN_S)[1] is not None
