from dataclasses import replace

import numpy as np
import pytest

from bci_align.augmentation.encoding import Encoding
from bci_align.augmentation.generate import CodePrior, Generator
from bci_align.augmentation.model import Model
from bci_align.augmentation.navigate import sense, start_from, turned
from bci_align.augmentation.spaces import LinearSpace
from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import TrialSet, joined


def test_trials_are_made_for_the_targets_that_were_asked_for(model: Model, cuts: TrialSet) -> None:
    known = cuts.conditions()[0]
    wanted = known[[0, len(known) // 2]]
    made, codes = model.full.towards(cuts, wanted, 6, 0)
    assert made.counts.shape == (12, *cuts.counts.shape[1:]) and codes.shape == (12, 6)
    ends = made.kinematics[:, -3:].mean(1).reshape(2, 6, -1).mean(1)
    real = [cuts.kinematics[(np.abs(cuts.target - t) < 1e-6).all(1)][:, -3:].mean((0, 1)) for t in wanted]
    assert np.linalg.norm(ends[0] - real[0]) < np.linalg.norm(ends[0] - real[1])
    assert np.linalg.norm(ends[1] - real[1]) < np.linalg.norm(ends[1] - real[0])
    assert made.counts.mean() == pytest.approx(cuts.counts.mean(), rel=0.2)
    again = model.full.towards(cuts, wanted, 6, 0)[0]
    assert np.array_equal(made.counts, again.counts)
    assert not np.array_equal(made.counts, model.full.towards(cuts, wanted, 6, 1)[0].counts)


def test_spikes_of_trials_for_a_target_follow_their_kinematics(model: Model, cuts: TrialSet) -> None:
    wanted = cuts.conditions()[0][:2]
    full = model.full
    assert isinstance(full.encoding, Encoding)
    made, codes = full.towards(cuts, wanted, 5, 0)
    np.testing.assert_array_equal(codes, replace(full, encoding=None).towards(cuts, wanted, 5, 0)[1])
    np.testing.assert_array_equal(made.rates, full.encoding.rates(made.kinematics))
    own = cuts.kinematics[(np.abs(cuts.target - wanted[0]) < 1e-6).all(1)]
    assert all(np.abs(k - own).max((1, 2)).min() < 1e-4 for k in made.kinematics[:5])  # a trial of the target itself stays
    # a task that is not centre-out does not look the same in another direction: there the code's kinematics are taken
    scattered = replace(full, navigator=replace(full.navigator, targets=full.navigator.targets * np.linspace(0.2, 1, 8)[:, None]))
    edited = scattered.towards(cuts, wanted, 5, 0)[0]
    np.testing.assert_array_equal(edited.kinematics, replace(full, encoding=None).towards(cuts, wanted, 5, 0)[0].kinematics)
    assert not np.array_equal(edited.kinematics, made.kinematics)


@pytest.mark.parametrize("mirrored", [False, True])
def test_movements_are_turned_to_where_they_are_asked(model: Model, cuts: TrialSet, mirrored: bool) -> None:
    """A rig's vertical axis may point down; its kinematics may rest off the origin."""
    axes, rest = np.array([1.0, -1.0 if mirrored else 1.0], np.float32), np.array([30.0, -20.0], np.float32)
    rig = replace(cuts, kinematics=cuts.kinematics * axes + rest)
    to = cuts.conditions()[0][:1]
    asked = (np.abs(cuts.target - to[0]) < 1e-6).all(1)
    left = rig.of(~asked)
    assert sense(left) == (-1 if mirrored else 1)
    encoding = Encoding.fit(left, 10, 0.05)
    assert np.abs(encoding.origin - rest).max() < 1
    made = replace(model.full, encoding=encoding).towards(left, to, 30, 0)[0].kinematics
    rows = start_from(left, to, 30, np.random.default_rng(0))[0]
    ends = [k[:, -3:].mean((0, 1)) for k in (made, rig.kinematics[asked], left.kinematics[rows])]
    assert np.linalg.norm(ends[0] - ends[1]) < 0.3 * np.linalg.norm(ends[2] - ends[1])
    near, far = (turned(left, rows, np.repeat(share * to, 30, 0), 1.0, rest) - rest for share in (0.5, 1.0))
    np.testing.assert_allclose(near, 0.5 * far, atol=1e-4)


def test_only_what_looks_the_same_in_every_direction_is_turned(model: Model, cuts: TrialSet) -> None:
    to = cuts.conditions()[0][:1]
    others = cuts.of((np.abs(cuts.target - to[0]) > 1e-6).any(1))
    speed = np.linalg.norm(others.kinematics, axis=2, keepdims=True)
    one = others.kinematics[..., :1]
    for second in (speed, 0.1 * others.kinematics[..., 1:]):
        assert sense(replace(others, kinematics=np.concatenate([one, second], 2))) is None
    assert sense(replace(others, kinematics=np.concatenate([others.kinematics, speed], 2))) is None
    assert sense(replace(others, kinematics=one)) is None
    assert sense(replace(others, target=others.target[:, :1])) is None
    assert sense(others.of(np.abs(others.target[:, 0] - others.target[:, 1]) < 1e-6)) is None  # a line
    # targets in screen coordinates: all about as far from a corner, which is no centre
    navigator = model.full.navigator
    assert navigator.centre_out()
    screen = replace(navigator, targets=navigator.targets + 100)
    assert not screen.centre_out()
    plain = replace(model.full, encoding=None).towards(others, to, 5, 0)[0]
    rows, there = start_from(others, to, 5, np.random.default_rng(0))
    codes = navigator.to_target(model.full.space.encode(others)[rows], others.target[rows], there)
    made = replace(model.full, navigator=screen).moved(others, rows, codes, there, 0)
    np.testing.assert_array_equal(made.kinematics, plain.kinematics)
    assert not np.array_equal(made.kinematics, model.full.moved(others, rows, codes, there, 0).kinematics)
    np.testing.assert_array_equal(made.kinematics, model.full.moved(others, rows, codes, there, 0, turn=False).kinematics)


def test_spikes_scatter_as_in_the_trials_that_were_recorded(cuts: TrialSet) -> None:
    real = cuts.of(np.arange(30))
    scaled = joined(real, cuts.with_counts(1.7 * cuts.counts))
    space = LinearSpace.fit(scaled, 8)
    found, alone = (Generator.fit(space, t, 10, recorded=real) for t in (scaled, joined(real, cuts)))
    np.testing.assert_array_equal(found.edited.dispersion, SpikeModel.fit(real.counts, real.rates).dispersion)
    np.testing.assert_allclose(found.spikes.dispersion, alone.spikes.dispersion)
    np.testing.assert_allclose(found.gain, alone.gain)  # of rates: scaled counts say nothing


def test_what_is_drawn_from_codes_scatters_over_the_array_as_the_recording_does(cuts: TrialSet) -> None:
    rng = np.random.default_rng(0)
    gains = np.exp(0.25 * rng.standard_normal((len(cuts), cuts.counts.shape[1], 1))).astype(np.float32)
    shaken = cuts.with_counts(rng.poisson(cuts.rates * gains))
    generator = Generator.fit(LinearSpace.fit(shaken, 8), shaken, 10)
    made = generator.of_codes(generator.space.encode(shaken), shaken.target, 0).counts
    plain = generator.of_codes(generator.space.encode(shaken), shaken.target, 0, plain=True).counts
    assert made.sum(2).var() == pytest.approx(shaken.counts.sum(2).var(), rel=0.25)
    assert plain.sum(2).var() < 0.8 * shaken.counts.sum(2).var()


def test_the_prior_s_codes_are_spread_as_those_it_was_fitted_on() -> None:
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.normal(-4, 1, (150, 3)), rng.normal(4, 1, (50, 3))]).astype(np.float32)
    prior = CodePrior.fit(codes)
    assert len(prior.weights) == 2
    drawn = prior.draw(4000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.3)
    assert (drawn[:, 0] > 0).mean() == pytest.approx(0.25, abs=0.04)


def test_codes_say_which_target_they_are_for(model: Model, cuts: TrialSet) -> None:
    codes = model.full.prior.draw(20, np.random.default_rng(0))
    assert model.full.target_of(codes).shape == (20, cuts.target.shape[1])
    guess = model.full.target_of(model.full.space.encode(cuts))
    error = np.linalg.norm(guess - cuts.target, axis=1).mean()
    assert error < 0.7 * np.linalg.norm(cuts.target - cuts.target.mean(0), axis=1).mean()
