from dataclasses import fields

import numpy as np
import pytest
from pydantic import ValidationError

from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift, apply
from bci_align_sim.tuning import Tuning

pytestmark = pytest.mark.computes

NONE = Drift.level(0)
DAY0 = Tuning.draw(1000, 0)


def changed(before: Tuning, after: Tuning) -> set[str]:
    return {f.name for f in fields(Tuning) if not np.array_equal(getattr(before, f.name), getattr(after, f.name))}


def test_no_drift_changes_nothing():
    assert changed(DAY0, apply(DAY0, NONE, 1)) == set()


@pytest.mark.parametrize(
    ("part", "touches"),
    [
        ({"gain_sd": 0.4}, {"gain"}),
        ({"rotation_deg": 20.0}, {"pd_rad", "position_hz"}),
        ({"baseline_sd_hz": 4.0}, {"baseline_hz"}),
        ({"dead": 0.1}, {"alive"}),
    ],
)
def test_a_part_touches_what_it_names_and_only_that(part, touches):
    assert changed(DAY0, apply(DAY0, NONE.model_copy(update=part), 1)) == touches


def test_turnover_replaces_whole_channels_and_no_others():
    after = apply(DAY0, NONE.model_copy(update={"turnover": 0.3}), 1)
    new = after.pd_rad != DAY0.pd_rad
    assert new.sum() == 300
    assert not np.isin(after.pd_rad[new], DAY0.pd_rad).any()
    assert (after.lead_s[new] != DAY0.lead_s[new]).mean() > 0.9
    np.testing.assert_array_equal(after.history[~new], DAY0.history[~new])


def test_sizes_are_what_was_asked_for():
    gain = apply(DAY0, NONE.model_copy(update={"gain_sd": 0.4}), 1).gain
    assert np.log(gain).std() == pytest.approx(0.4, rel=0.1) and abs(np.log(gain).mean()) < 0.05
    turn = apply(DAY0, NONE.model_copy(update={"rotation_deg": 20.0}), 1).pd_rad - DAY0.pd_rad
    assert np.rad2deg(np.angle(np.exp(1j * turn))).std() == pytest.approx(20, rel=0.1)
    shifted = apply(DAY0, NONE.model_copy(update={"baseline_sd_hz": 1.0}), 1).baseline_hz
    loud = DAY0.baseline_hz > 6
    assert (shifted - DAY0.baseline_hz)[loud].std() == pytest.approx(1.0, rel=0.1)
    assert shifted.min() > 0
    assert (~apply(DAY0, NONE.model_copy(update={"dead": 0.1}), 1).alive).sum() == 100


def test_rotation_keeps_the_depth_and_turns_both_preferences_alike():
    after = apply(DAY0, NONE.model_copy(update={"rotation_deg": 90.0}), 1)
    turn = np.exp(1j * (after.pd_rad - DAY0.pd_rad))
    before_p, after_p = (t.position_hz[:, 0] + 1j * t.position_hz[:, 1] for t in (DAY0, after))
    np.testing.assert_allclose(after_p, before_p * turn, atol=1e-9)
    assert after.pd_rad.min() >= -np.pi - 1e-9 and after.pd_rad.max() <= np.pi + 1e-9


def test_parts_do_not_disturb_each_other():
    alone = apply(DAY0, NONE.model_copy(update={"gain_sd": 0.4}), 1)
    together = apply(DAY0, Drift(turnover=0.0, gain_sd=0.4), 1)
    np.testing.assert_array_equal(alone.gain, together.gain)


def test_a_larger_size_moves_the_same_channels_further():
    little, much = (apply(DAY0, NONE.model_copy(update={"dead": d, "gain_sd": g}), 1) for d, g in ((0.05, 0.1), (0.1, 0.2)))
    assert (~little.alive <= ~much.alive).all()
    np.testing.assert_allclose(2 * np.log(little.gain), np.log(much.gain))


def test_seeds_decide():
    d = Drift()
    assert changed(apply(DAY0, d, 1), apply(DAY0, d, 1)) == set()
    assert changed(apply(DAY0, d, 1), apply(DAY0, d, 2)) >= {"gain", "pd_rad", "baseline_hz", "alive"}


def test_the_default_is_the_middle_level():
    assert Drift.level(0.5) == Drift()


@pytest.mark.parametrize("bad", [{"turnover": 1.1}, {"gain_sd": -0.1}, {"spin": 1.0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValidationError):
        Drift(**bad)


def test_day_k_hurts_and_renormalisation_alone_mends_a_part(wiener):
    scores = []
    for seed in (1, 2):
        day0, day_k = simulate_days(seed, trials=(120, 80))
        decoder = wiener.fit(day0, until=0.8)
        refit = wiener.fit(day_k, until=0.7)
        scores.append(
            (
                decoder.r2(day0, after=0.8),
                decoder.r2(day_k),
                decoder.r2(day_k, renormalise=True),
                refit.r2(day_k, renormalise=True, after=0.7),
            )
        )
    own, none, renormalised, oracle = np.mean(scores, axis=0)
    assert 0.80 < own < 0.93
    assert 0.25 < none < 0.65
    assert none + 0.08 < renormalised < own - 0.08
    assert oracle > renormalised + 0.08
