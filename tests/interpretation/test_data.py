from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bci_align.config import BehaviourConfig, ExplainConfig, FactorConfig
from bci_align.errors import InterpretationError, SessionError
from bci_align.interpretation.data import FactorDay, behaviours, scale, standard
from bci_align.interpretation.train import train_model
from bci_align.session.types import GENERATED, Session
from bci_align_sim.mixed import mixed_day


@pytest.fixture(scope="module")
def day() -> Session:
    return mixed_day(0, trials=12, bins=10)


def test_two_columns_of_one_unit_bring_their_speed(day: Session) -> None:
    assert day.kinematics is not None
    assert list(standard(day)) == ["vx", "vy", "grip"]
    two = replace(day, kinematics=day.kinematics[:, :2], kinematics_names=("vx", "vy"), kinematics_units=("cm/s", "cm/s"))
    values, names = behaviours(two)
    assert names == ("vx", "vy", "speed")
    assert values[:, 2] == pytest.approx(np.hypot(*day.kinematics[:, :2].T))
    force = replace(two, kinematics_units=("a.u.", "a.u."))
    assert standard(force)["speed"].how == "speed"


def test_speed_is_the_length_of_the_change_and_never_crosses_a_gap(day: Session) -> None:
    ramp = np.tile(np.arange(day.bins, dtype=np.float32)[:, None], (1, 3))
    ramp[50:] += 1000
    moved = replace(day, kinematics=ramp, breaks=(50,))
    values, _ = behaviours(moved, {"speed": BehaviourConfig(columns=("vx", "vy"), how="speed")})
    assert values[:, 0] == pytest.approx(np.sqrt(2) / day.bin_s, rel=1e-5)


def test_a_mean_is_of_columns_in_their_standard_deviations(day: Session) -> None:
    assert day.kinematics is not None
    wanted = {"both": BehaviourConfig(columns=("vx", "grip"), how="mean")}
    of = FactorDay.of(day, wanted, 0.25, 0)
    k = day.kinematics.astype(np.float64)
    trained = np.concatenate([k[a:b] for a, b in of.rows(False)])
    sd = trained.std(0)
    assert of.behaviours[:, 0] == pytest.approx((k[:, 0] / sd[0] + k[:, 2] / sd[2]) / 2, abs=1e-5)
    # The same thing on a later day, whatever is large there.
    louder = replace(day, kinematics=3 * day.kinematics)
    later = FactorDay.later(louder, of.made_of, louder.rewarded())
    assert later.behaviours == pytest.approx(3 * of.behaviours, rel=1e-4, abs=1e-5)
    with pytest.raises(InterpretationError, match="'both': expected 2 standard deviations, one per column, found 0"):
        behaviours(day, wanted)


def test_held_out_trials_do_not_say_what_a_mean_is(day: Session) -> None:
    wanted = {"both": BehaviourConfig(columns=("vx", "grip"), how="mean")}
    of = FactorDay.of(day, wanted, 0.25, 0)
    assert day.kinematics is not None
    k = day.kinematics.copy()
    for a, b in of.rows(True):
        k[a:b] *= 5
    assert FactorDay.of(replace(day, kinematics=k), wanted, 0.25, 0).made_of == of.made_of


def test_no_behaviour_is_one_sentence(day: Session) -> None:
    bare = replace(day, kinematics=None, kinematics_names=(), kinematics_units=())
    with pytest.raises(
        InterpretationError, match=r"session 'mixed': behaviour: expected kinematics to tell factors by, found none"
    ):
        behaviours(bare)


def test_an_unknown_column_is_one_sentence(day: Session) -> None:
    with pytest.raises(InterpretationError, match=r"behaviour 'jaw': expected columns among vx, vy, grip, found 'jaw'"):
        behaviours(day, {"jaw": BehaviourConfig(columns=("jaw",))})
    with pytest.raises(InterpretationError, match=r"behaviour 'v': expected one column for a value, found 2"):
        behaviours(day, {"v": BehaviourConfig(columns=("vx", "vy"))})


def test_a_constant_behaviour_is_one_sentence(day: Session) -> None:
    assert day.kinematics is not None
    k = day.kinematics.copy()
    k[:, 1] = 2.5
    still = FactorDay.of(replace(day, kinematics=k), None, 0.25, 0)
    with pytest.raises(
        InterpretationError, match=r"here: behaviour 'vy': expected values that vary in the training trials, found a constant 2.5"
    ):
        scale(still.cut(False), "here")


def test_a_behaviour_without_labels_is_one_sentence(day: Session) -> None:
    made = FactorDay.of(day, None, 0.25, 0)
    made.behaviours[:, 2] = np.nan
    with pytest.raises(
        InterpretationError, match=r"behaviour 'grip': expected labelled frames in the training trials, found none"
    ):
        scale(made.cut(False), "here")


def test_trials_are_whole_and_held_out_ones_apart(day: Session) -> None:
    made = FactorDay.of(day, None, 0.25, 0)
    assert made.held_out.sum() == 3
    assert made.cut(True).lengths() == [10] * 3
    assert len(made.cut(False)) == 9
    again = FactorDay.of(day, None, 0.25, 1)
    assert (made.held_out != again.held_out).any()


def test_generated_trials_are_no_evidence(day: Session, tmp_path: Path) -> None:
    made = replace(day, meta=day.meta | {GENERATED: "a model's"})
    with pytest.raises(SessionError, match=r"judging an alignment: expected recorded trials, found generated ones \(a model's\)"):
        FactorDay.later(made, standard(made), made.rewarded())
    with pytest.raises(SessionError, match="training a factor model: expected recorded trials, found generated ones"):
        train_model(made, ExplainConfig(), 0, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_too_few_trials_or_a_still_behaviour_give_no_verdict(day: Session) -> None:
    assert day.kinematics is not None
    with pytest.raises(InterpretationError, match="session 'mixed': expected at least 10 trials to judge by, found 9"):
        FactorDay.later(day, standard(day), day.rewarded()[:9])
    assert len(FactorDay.later(day, standard(day), day.rewarded()[:10]).trials) == 10
    k = day.kinematics.copy()
    k[:, 2] = 0.5
    with pytest.raises(
        InterpretationError,
        match=r"session 'mixed': behaviour 'grip': expected values that vary in the scored trials, found a constant 0\.5",
    ):
        FactorDay.later(replace(day, kinematics=k), standard(day), day.rewarded())


def test_a_behaviour_that_is_still_in_the_held_out_trials_is_refused_before_training(day: Session, tmp_path: Path) -> None:
    assert day.kinematics is not None
    config = ExplainConfig(factors=FactorConfig(min_trials=5))
    k = day.kinematics.copy()
    made = FactorDay.of(day, None, config.factors.held_out, 0)
    for a, b in made.rows(True):
        k[a:b, 1] = 2.5
    with pytest.raises(
        InterpretationError,
        match=r"session 'mixed': behaviour 'vy': expected values that vary in the held-out trials, found a constant 2\.5",
    ):
        train_model(replace(day, kinematics=k), config, 0, tmp_path / "model", lambda *_: pytest.fail("it trains"))
    assert not list(tmp_path.iterdir())
