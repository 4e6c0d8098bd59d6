"""Real SIGKILLs at random moments over align, swap and record."""

from __future__ import annotations

from benchmarks.kills import acceptance, summary
from benchmarks.rigged import Ground
from benchmarks.shooting import VICTIMS, Kill, Shot, shoot_all

SEED = 0
LAST_BINS = 50
"""Bins of 20 ms in a second."""


def test_kills_at_random_moments_leave_everything_whole(ground: Ground) -> None:
    shot = shoot_all(ground, 8, SEED, "zmq", most_s=20.0)  # a loaded machine takes its time
    assert [k.wrong for k in shot.kills] == [[]] * 8
    assert {k.victim for k in shot.kills} == set(VICTIMS)
    assert shot.generations >= 1
    assert shot.unrecorded <= 8 * LAST_BINS  # a kill may cost the last second of the recording


def test_what_is_not_met_is_said_to_be() -> None:
    good, slow = Kill("decoder", "swapped", 0.4), Kill("decoder", "swapped", 1.4, wrong=["expected the next answer within 1 s"])
    torn = Kill("supervisor", "aligning", 1.0, loss_s=2.0, wrong=["decisions: line 3 is torn"])
    met = {r.name: r.met for r in acceptance(Shot([good, slow, torn], 4, 7), 3)}
    assert not met["time to the next answered bin, max (s)"] and not met["recording's loss, max (s)"]
    assert not met["chain of decisions verifies"] and not met["killed supervisors of which nothing is left"]
    assert not met["answered bins that are in no recording"]
    assert met["last committed generation loads"] and met["kills"]
    assert all(r.met for r in acceptance(Shot([good], 1, 0), 1))
    assert summary([good, slow])[1] == ("decoder", "2", "900 ms", "1400 ms", "-", "1")
