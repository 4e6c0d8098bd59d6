"""When the decoder sleeps between two bins, and when it rehearses."""

import pytest

from bci_align.runtime.vigil import AHEAD_S, MOST, READ_S, STILL, Vigil

pytestmark = pytest.mark.computes


def play(bin_s: float, arrives_s: float, awake_s: float = 1e-4) -> tuple[list[float], list[float]]:
    """When after a bin the decoder fell asleep and when it rehearsed, until the next one ``arrives_s`` later."""
    vigil = Vigil(bin_s)
    vigil.bin()
    now, slept, rehearsed = 0.0, [], []
    while now < arrives_s:
        patience = vigil.patience(now)
        assert 0 <= patience <= READ_S
        if patience > 0:
            slept.append(now)
        now = now + patience if patience > 0 else now + awake_s
        if now < arrives_s and vigil.rehearse(now):
            rehearsed.append(now)
    return slept, rehearsed


@pytest.mark.parametrize("bin_s", [0.001, 0.005, 0.02, 0.05])
def test_it_sleeps_until_shortly_before_a_bin_is_due_and_rehearses_once(bin_s: float) -> None:
    slept, rehearsed = play(bin_s, bin_s)
    ahead = min(AHEAD_S, MOST * bin_s)
    assert max(slept) < bin_s - ahead
    assert rehearsed == [pytest.approx(bin_s - ahead)]


def test_a_bin_that_is_late_finds_a_step_rehearsed_after_every_sleep() -> None:
    slept, rehearsed = play(0.02, 0.035)
    assert len([t for t in rehearsed if t > 0.021]) == len([t for t in slept if t >= 0.021]) > 1


def test_a_stream_that_stands_still_is_slept_through() -> None:
    slept, rehearsed = play(0.02, 1.0)
    assert max(rehearsed) < STILL * 0.02
    assert sum(t > 0.04 for t in slept) == pytest.approx((1.0 - 0.04) / READ_S, abs=2)


def test_after_a_bin_it_rehearses_for_the_next_one() -> None:
    vigil = Vigil(0.02)
    assert vigil.rehearse(0.019) and not vigil.rehearse(0.0195)
    vigil.bin()
    assert not vigil.rehearse(0.001) and vigil.rehearse(0.019)
