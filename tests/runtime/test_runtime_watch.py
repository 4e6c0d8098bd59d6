"""What a run says while it collects trials, and when it keeps silent."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bci_align.runtime.shared import ALL_HANDLED, LEFT_OUT, Cell
from bci_align.runtime.trial_buffer import TrialBuffer
from bci_align.runtime.watch import EVERY_S, Watch
from bci_align.streams.contract import END, START, Bin, TrialEvent

pytestmark = pytest.mark.computes

HEALTHY = {Cell.BINS: 600, Cell.MARKS: 20, Cell.ENDS: 10, Cell.SUCCESSES: 10, Cell.TRIALS: 10, Cell.HELD: 10}


def board(**changes: int) -> dict[Cell, int]:
    cells = dict.fromkeys(Cell, 0) | HEALTHY
    return cells | {Cell[name.upper()]: n for name, n in changes.items()}


def say(cells: dict[Cell, int], success: str | None = "trial_success", collecting: bool = True) -> str | None:
    """What is said half a minute after the first bin."""
    watch = Watch(40, success)
    assert watch.look(dict.fromkeys(Cell, 0), collecting, 0.0) is None
    assert watch.look(board(bins=1), collecting, 0.5) is None
    return watch.look(cells, collecting, 0.6 + EVERY_S)


NOTHING = {"marks": 0, "ends": 0, "successes": 0, "trials": 0, "held": 0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"failed": 3, "gap": 1}, "10 of 40 calibration trials; left out: failed 3, gap 1"),
        (NOTHING, "600 bins and no trial event yet: is the marker stream right?"),
        (
            {"successes": 0, "trials": 0, "held": 0, "failed": 10},
            "0 of 40 calibration trials; left out: failed 10; no trial so far was marked as successful: "
            "send trial_success or set source.events.assume_success",
        ),
        (
            {"trials": 0, "held": 0},
            "0 of 40 calibration trials; 10 trial ends and no whole trial: "
            "does the rig send starts, and on the clock of the bins?",
        ),
        (
            NOTHING | {"marks": 10},
            "0 of 40 calibration trials; trials have begun and none has ended: does the rig send ends?",
        ),
        ({"malformed": 5}, "so far 5 markers that could not be understood"),
        ({"bad": 2, "gaps": 7}, "so far 2 bins with unusable counts; so far 7 bins that never arrived"),
        (NOTHING | {"held": 40, "trials": 40}, None),  # being aligned on
        (NOTHING | {"handled": ALL_HANDLED}, None),
    ],
)
def test_what_is_worth_a_sentence(changes: dict[str, int], sentence: str | None) -> None:
    assert say(board(**changes)) == sentence


def test_without_an_aligner_only_faults_are_told() -> None:
    assert say(board(**NOTHING), collecting=False) is None
    assert say(board(**NOTHING, bad=1), collecting=False) == "so far 1 bins with unusable counts"


def test_where_failed_trials_count_no_success_is_asked_for() -> None:
    assert say(board(successes=0), success=None) is None


def test_speaks_at_most_every_half_minute_and_not_of_the_same() -> None:
    watch = Watch(40, "trial_success")
    said = []
    for second in range(200):
        bins = max(second - 20, 0) * 10  # the first bin comes after 21 s, the last after 130 s
        cells = board(bins=min(bins, 1100), held=5, trials=5, failed=2 if second < 80 else 4)
        if (sentence := watch.look(cells, True, float(second))) is not None:
            said.append((second, sentence))
    assert [second for second, _ in said] == [50, 80]
    assert said[1][1] == "5 of 40 calibration trials; left out: failed 4"


def test_every_reason_of_the_trial_buffer_has_its_cell() -> None:
    buffer = TrialBuffer(("a",), 0.02, 5, 3)
    assert buffer.dropped == Counter()

    def feed(first: int, stop: int) -> None:
        for k in range(first, stop):
            buffer.add(Bin(k, (k + 1) * 0.02, np.zeros(1, np.float32)))

    def trial(start: float, end: float, success: bool) -> None:
        buffer.add(TrialEvent(start, START))
        buffer.add(TrialEvent(end, END, success))

    trial(-0.1, 0.05, True)  # no start
    feed(0, 20)
    trial(0.41, 0.45, False)  # failed
    feed(20, 30)
    buffer.add(TrialEvent(0.61, START))
    trial(0.65, 0.85, True)  # abandoned, then a gap
    feed(30, 35)
    feed(40, 50)
    buffer.add(TrialEvent(1.01, START))
    feed(50, 7000)
    buffer.add(TrialEvent(7000 * 0.02 + 0.01, END, True))  # too long
    feed(7000, 7002)
    assert set(buffer.dropped) == set(LEFT_OUT)
