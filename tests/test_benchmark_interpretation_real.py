"""The tracker of a real day's films, and what real clips are compared by."""

import numpy as np
import pytest

from bci_align.interpretation.scene import Scene, field
from benchmarks import interpretation_real as real

SIZE = 16
SCENE = Scene(
    kind="arm",
    position=("x", "y"),
    integrated=False,
    centre=(0, 0),
    reach=1,
    levels=("a", "b"),
    low=(0, 0),
    high=(1, 1),
    size=SIZE,
)


def test_the_tracker_finds_the_hand_and_the_bars() -> None:
    rng = np.random.default_rng(0)
    place, levels = rng.uniform(-0.9, 0.9, (60, 2)), rng.uniform(0, 1, (60, 2))
    seen = real.track(SCENE.draw(place, levels)[None], 2)[0]
    margin, span = field(SIZE)
    x, y = margin + span * (place[:, 0] + 1) / 2, margin + span * (1 - place[:, 1]) / 2
    assert np.abs(seen[:, 0] - x[1:]).max() < 0.5
    assert np.abs(seen[:, 1] - y[1:]).max() < 0.5
    assert np.corrcoef(seen[:, 2], np.hypot(np.diff(x), np.diff(y)))[0, 1] > 0.98
    assert seen[:, 3:] == pytest.approx(levels[1:], abs=0.01)


def test_the_liveliest_clips_tell_how_much_the_others_move_with_them() -> None:
    rng = np.random.default_rng(1)
    shared, alone = rng.exponential(size=(400, 1)), rng.exponential(size=(400, 1))
    ratio = real.lively(np.concatenate([shared, shared, alone], axis=1), 0)
    assert ratio[0] == ratio[1] > 2
    assert ratio[2] == pytest.approx(1.0, abs=0.5)


def test_a_film_of_a_real_day_moves_its_own_behaviour_most() -> None:
    own = {"ratios": {"guided": [np.array([3.0, 1.0]), np.array([1.0, 2.0])]}}
    assert real.acceptance(own)[0].met
    assert not real.acceptance({"ratios": {"guided": [np.array([3.0, 1.0]), np.array([2.0, 1.0])]}})[0].met
