"""Every row of the fault matrix, injected for real; and the judgement of rows on made-up samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from bci_align.streams.contract import Decoded, Flags
from benchmarks import faults
from benchmarks.faults_bundle import damaged, refusal
from benchmarks.judged import Found, account, behaviour, flags_of, recovered, seen
from benchmarks.rigged import Ground, Sent

LONG_S = 60.0
"""A test promises what happens, not how fast: the machine may be loaded. The benchmark promises both."""


@pytest.fixture(scope="module")
def stage(ground: Ground) -> Iterator[faults.Stage]:
    stage = faults.Stage(ground, LONG_S)
    yield stage
    stage.clear()


@pytest.mark.parametrize("entry", faults.entries(), ids=lambda e: e.name)
def test_row(entry: faults.Entry, stage: faults.Stage) -> None:
    found = stage.run(entry)
    assert found.wrong == []
    assert found.injected and found.output


def test_names_of_rows_are_their_own() -> None:
    names = [e.name for e in faults.entries()]
    assert len(set(names)) == len(names) > 45


def samples(*rows: tuple[float, int, float, Flags]) -> list[tuple[float, Decoded]]:
    """Time of arrival, bin, value, flags."""
    return [(t, Decoded(seq, 0.0, np.array([v, 0.0]), 0, flags)) for t, seq, v, flags in rows]


def test_a_flag_is_seen_from_the_fault_on() -> None:
    heard = samples((1.0, 0, 1.0, Flags.GAP), (2.0, 1, 1.0, Flags.NONE), (3.5, 2, 1.0, Flags.GAP | Flags.IN_TRIAL))
    assert seen(heard, Flags.GAP, 3.0) == 0.5
    assert math.isnan(seen(heard, Flags.LATE, 0.0))
    assert flags_of(heard, 0.0) == "GAP 2"


def test_well_again_takes_five_samples_in_a_row() -> None:
    rows = [(k * 1.0, k, 1.0, Flags.LATE if k in (3, 5) else Flags.IN_TRIAL) for k in range(20)]
    assert recovered(samples(*rows), 1.0) == 5.0
    assert math.isnan(recovered(samples(*rows[:10]), 1.0))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "none"),
        ([0.0, 0.0], "zero"),
        ([2.0, 2.0, 2.0], "held"),
        ([2.0, 1.0, 0.1], "decayed"),
        ([2.0, 1.0, 0.5], "went on"),
        ([0.1, 1.0, 0.0], "went on"),
        ([1.0, math.nan], "NOT FINITE"),
    ],
)
def test_what_the_output_did(values: list[float], expected: str) -> None:
    assert behaviour([s for _, s in samples(*((0.0, k, v, Flags.NONE) for k, v in enumerate(values)))]) == expected


def test_a_stale_sample_answers_no_bin_and_a_second_answer_is_one_too_many() -> None:
    heard = samples((0.0, 1, 1.0, Flags.NONE), (0.0, 2, 1.0, Flags.STALE), (0.0, 3, 1.0, Flags.NONE), (0.0, 3, 1.0, Flags.NONE))
    found = Found("", "", "")
    account(found, [Sent(k, 0.0) for k in (1, 2, 3)], heard)
    assert (found.lost, found.repeated) == (1, 1)


def test_a_row_that_is_not_as_expected_is_printed_as_such_and_ends_its_scene(ground: Ground) -> None:
    def broken(_: Ground) -> Found:
        raise RuntimeError("no such luck")

    stage = faults.Stage(ground)
    found = stage.run(faults.Entry("luck", "", broken))
    assert found.wrong == ["RuntimeError: no such luck"]
    assert faults.shown(found)[0] == "luck" and faults.shown(found)[-1] == "NO"


def test_a_damage_that_loads_is_found(ground: Ground) -> None:
    assert refusal(ground.bundle.path) is None
    assert "no such bundle" in str(refusal(ground.folder / "none"))
    kinds = [what.split(": ")[1].split()[0] for what, _ in damaged(ground.bundle.path, positions=1)]
    assert set(kinds) == {"byte", "cut", "a", "missing"}
    assert refusal(ground.bundle.path) is None
