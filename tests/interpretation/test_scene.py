from dataclasses import replace

import numpy as np
import pytest

from bci_align.config import FilmConfig
from bci_align.errors import InterpretationError
from bci_align.interpretation.data import FactorDay
from bci_align.interpretation.scene import BAR, Scene, field, render, set_scene
from bci_align.session.types import Session


def scene(kind: str, size: int = 24) -> Scene:
    return Scene(
        kind=kind, position=("x", "y"), integrated=False, centre=(0, 0), reach=2, levels=("g",), low=(0,), high=(1,), size=size
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cursor", "arm"])
def test_the_hand_is_where_the_position_is(kind: str) -> None:
    places = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [-2.0, -2.0], [9.0, 0.0]])
    frames = scene(kind).draw(places, np.array([[0.0], [0.5], [1.0], [0.25], [0.0]]))
    assert frames.shape == (5, 24, 24 + BAR)
    assert frames.min() >= 0 and frames.max() <= 1
    margin, span = field(24)
    for frame, place in zip(frames, np.clip(places, -2, 2) / 2, strict=True):
        row, column = np.unravel_index(frame[:, :24].argmax(), (24, 24))
        assert column == pytest.approx(margin + span * (place[0] + 1) / 2, abs=0.6)
        assert row == pytest.approx(margin + span * (1 - place[1]) / 2, abs=0.6)


def test_a_bar_fills_from_below() -> None:
    frames = scene("cursor").draw(np.zeros((3, 2)), np.array([[0.0], [0.5], [1.0]]))
    bar = frames[:, :, 25:]
    assert bar.sum((1, 2)).tolist() == [0.0, 24.0, 48.0]
    assert bar[1, :12].sum() == 0


def test_velocities_are_integrated_from_the_trial_s_start(mixed: Session) -> None:
    day = FactorDay.of(mixed, None, 0.25, 0)
    made = set_scene(mixed, day, FilmConfig(size=16))
    assert made.integrated and made.levels == ("grip",) and made.position == ("vx", "vy")
    frames = render(mixed, day, made)
    assert [len(f) for f in frames[:3]] == [20] * 3
    assert mixed.kinematics is not None
    last = mixed.kinematics[:20, :2].sum(0) * mixed.bin_s
    alone = made.draw(last[None].astype(np.float64), mixed.kinematics[19:20, 2:].astype(np.float64))
    assert frames[0][19] == pytest.approx(alone[0], abs=1e-4)


def test_what_cannot_be_drawn_is_one_sentence(mixed: Session) -> None:
    assert mixed.kinematics is not None
    day = FactorDay.of(mixed, None, 0.25, 0)
    with pytest.raises(InterpretationError, match=r"film\.position: expected kinematics among vx, vy, grip, found 'x'"):
        set_scene(mixed, day, FilmConfig(position=("x", "vy")))
    with pytest.raises(InterpretationError, match=r"film\.levels: expected behaviours among vx, vy, grip, found 'jaw'"):
        set_scene(mixed, day, FilmConfig(levels=("jaw",)))
    one = replace(mixed, kinematics=mixed.kinematics[:, :1], kinematics_names=("vx",), kinematics_units=("cm/s",))
    with pytest.raises(InterpretationError, match=r"frames: expected two kinematics to move a cursor by, found 1"):
        set_scene(one, FactorDay.of(one, None, 0.25, 0), FilmConfig())
