"""Gaps in a recording: what a session says of them, and what is cut out between them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bci_align.errors import SessionError
from bci_align.session.types import Session, unlabelled, validate

Make = Callable[..., Session]


def test_stretches_lie_between_breaks(make_session: Make) -> None:
    session = validate(make_session(breaks=(5, 39, 70)))
    assert session.stretches() == [(0, 5), (5, 39), (39, 70), (70, 200)]
    assert [session.stretch_start(b) for b in (0, 4, 5, 38, 39, 69, 70, 199)] == [0, 0, 5, 5, 39, 39, 70, 70]
    assert make_session().stretches() == [(0, 200)]


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        ((0, 39), "breaks: expected bins between 1 and 199, each after the one before, found 0"),
        ((39, 39), "each after the one before, found 39"),
        ((70, 39), "each after the one before, found 39"),
        ((200,), "found 200"),
        ((39.0,), "found 39.0"),
        ((39, 45), "expected trials that lie between two breaks, found trial 1 across the break at bin 45"),
        ((65,), "found trial 1 across the break at bin 65"),
    ],
)
def test_bad_breaks_are_refused(make_session: Make, breaks: tuple[int, ...], sentence: str) -> None:
    """Trials lie in bins 10 to 35, 40 to 65 and 80 to 105, the last one included."""
    with pytest.raises(SessionError, match=sentence):
        validate(make_session(breaks=breaks))


def test_a_trial_may_begin_and_end_at_a_break(make_session: Make) -> None:
    session = make_session(breaks=(10, 36, 40, 66))
    assert validate(session) is session
    assert [session.stretch_start(b) for b in (10, 35, 40, 65)] == [10, 10, 40, 40]


def test_the_run_in_stays_in_its_stretch(make_session: Make) -> None:
    session = make_session(breaks=(40, 77))
    cut = unlabelled(session, np.arange(3), 12)
    # Ten bins since the recording began, none since the break at 40, three since the one at 77.
    assert cut.run_in == (10, 0, 3)
    bounds = ((0, 36), (40, 66), (77, 106))
    for counts, body, (first, stop), before in zip(cut.counts, cut.bodies(), bounds, cut.run_in, strict=True):
        np.testing.assert_array_equal(counts, session.counts[first:stop])
        np.testing.assert_array_equal(body, session.counts[first + before : stop])
    assert unlabelled(replace(session, breaks=()), np.arange(3), 12).run_in == (10, 12, 12)
    assert unlabelled(session, np.arange(3), 0).run_in == (0, 0, 0)
