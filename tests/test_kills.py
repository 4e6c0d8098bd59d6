"""Real SIGKILLs at random moments over align, swap and record."""

from __future__ import annotations

import math

from benchmarks import kills
from benchmarks.kills import Kill, acceptance, shoot_all, summary
from benchmarks.rigged import Ground

SEED = 0


def test_kills_at_random_moments_leave_everything_whole(ground: Ground) -> None:
    done, generations = shoot_all(ground, 8, SEED, "zmq", most_s=math.inf)
    assert [k.wrong for k in done] == [[]] * 8
    assert {k.victim for k in done} == set(kills.VICTIMS)
    assert generations >= 1
    assert all(k.loss_s >= 0 for k in done if k.victim in ("recorder", "supervisor"))


def test_what_is_not_met_is_said_to_be() -> None:
    good, slow = Kill("decoder", "swapped", 0.4), Kill("decoder", "swapped", 1.4, wrong=["expected the next answer within 1 s"])
    torn = Kill("supervisor", "aligning", 1.0, math.nan, 2.0, ["decisions: line 3 is torn"])
    met = {r.name: r.met for r in acceptance([good, slow, torn], 3, 4)}
    assert not met["time to the next answered bin, max (s)"] and not met["recording's loss, max (s)"]
    assert not met["chain of decisions verifies"] and not met["killed supervisors of which nothing is left"]
    assert met["last committed generation loads"] and met["kills"]
    assert all(r.met for r in acceptance([good], 1, 1))
    assert summary([good, slow])[1] == ("decoder", "2", "900 ms", "1400 ms", "-", "1")
