"""When a process is hung and when it is started again: decided from (state, now) alone."""

from __future__ import annotations

from bci_align.config import SupervisorConfig
from bci_align.runtime.child import Child
from bci_align.runtime.supervise import BackOff, Pulse, Seat


def test_a_heartbeat_that_stops_is_noticed_after_its_limit() -> None:
    pulse, now = Pulse(1.0), 100.0
    assert not pulse.look(1, now)
    for k in range(20):
        now += 0.1
        assert not pulse.look(2 + k, now)
    silent = 0
    while not pulse.look(21, now):
        now += 0.1
        silent += 1
        assert silent < 100
    assert 10 <= silent <= 12


def test_a_machine_that_was_held_up_is_no_hang() -> None:
    pulse = Pulse(1.0)
    pulse.look(1, 100.0)
    assert not pulse.look(1, 4000.0)  # an hour in a closed laptop
    assert not pulse.look(1, 4000.3)
    assert not pulse.look(2, 4000.4)


def test_waits_grow_and_end() -> None:
    back_off = BackOff(SupervisorConfig(restarts=5, restart_window_s=60.0, back_off_s=0.5))
    assert [back_off.wait_s(10.0 + k) for k in range(6)] == [0.0, 0.5, 1.0, 2.0, 4.0, None]
    assert back_off.wait_s(70.5) == 4.0  # the first of them is out of the window
    assert back_off.wait_s(1000.0) == 0.0


def test_no_restart_wanted() -> None:
    assert BackOff(SupervisorConfig(restarts=0)).wait_s(0.0) is None


def test_the_reason_for_one_kill_is_not_told_of_the_next_death() -> None:
    def make() -> Child:
        raise AssertionError("nobody is started here")

    seat = Seat("recorder", make, lambda: 0, SupervisorConfig(), 1.0, 1.0)
    assert seat.lost("it gave no sign of life for 1 s and was killed", 10.0) == 0.0
    assert seat.reason == ""
