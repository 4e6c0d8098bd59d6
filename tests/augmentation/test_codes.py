from dataclasses import replace

import numpy as np
import pytest
import torch

from bci_align.augmentation import codes
from bci_align.augmentation.codes import CodeSpace
from bci_align.augmentation.mmd import mmd
from bci_align.augmentation.model import Model
from bci_align.augmentation.spaces import LinearSpace
from bci_align.augmentation.trials import TrialSet
from bci_align.models.code_denoiser import CodeDenoiser

from .conftest import TINY


def test_the_same_seed_gives_the_same_model(cuts: TrialSet) -> None:
    short = TINY.model_copy(update={"updates": 4})
    first, again, other = (codes.train(cuts, short, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.encode(cuts), again.encode(cuts))
    assert np.array_equal(first.decode(first.encode(cuts), 3)[0], again.decode(again.encode(cuts), 3)[0])
    assert not np.array_equal(first.encode(cuts), other.encode(cuts))


@pytest.mark.parametrize("n", [33, 39])
def test_any_number_of_trials_is_trained_on_in_full_batches(cuts: TrialSet, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """33 trials in batches of 8 leave one over, and the MMD of one code does not exist."""
    seen: list[int] = []

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(len(a))
        return mmd(a, b)

    monkeypatch.setattr(codes, "mmd", watched)
    space = codes.train(cuts.of(np.arange(n)), TINY.model_copy(update={"updates": 8, "batch": 8}), 0)
    assert set(seen) == {8} and len(seen) == 8
    assert np.isfinite(space.encode(cuts)).all()


def test_a_trial_comes_back_from_its_code_better_than_from_another_s(model: Model, cuts: TrialSet) -> None:
    space = model.full.space
    c = space.encode(cuts)
    assert c.shape == (len(cuts), 6)
    own = space.decode(c, 0)[1]
    error = np.square(own - cuts.kinematics).mean()
    wrong = np.square(np.roll(own, 7, 0) - cuts.kinematics).mean()
    assert error < 0.5 * wrong


def test_an_edit_with_its_own_code_gives_the_trial_back(model: Model, cuts: TrialSet) -> None:
    space = model.full.space
    assert isinstance(space, CodeSpace) and space.exact
    rows = np.array([3, 0, 3])
    c = space.encode(cuts)[rows]
    rates, kinematics = space.edit(cuts, rows, c)
    # eight strides and three iterations each are coarse; without the trial's own noise it is a different trial
    for found, afresh, own in zip((rates, kinematics), space.decode(c, 1), (cuts.rates, cuts.kinematics), strict=True):
        error, other = (float(np.sqrt(np.square(x - own[rows]).mean())) for x in (found, afresh))
        assert error < 0.15 * own.std() and error < 0.5 * other
    moved = space.edit(cuts, rows, c + 1)[1]
    assert np.abs(moved - cuts.kinematics[rows]).mean() > 0.1 * cuts.kinematics.std()


def test_shared_noise_is_one_for_all_and_without_any_there_is_one_trial_of_a_code(model: Model) -> None:
    assert isinstance(model.full.space, CodeSpace)
    c = np.zeros((3, 6), np.float32)
    spread = []
    for temperature in (0.0, 0.5, 1.0):
        space = replace(model.full.space, config=TINY.model_copy(update={"temperature": temperature}))
        shared, own = space.decode(c, 0, True)[1], space.decode(c, 0, False)[1]
        np.testing.assert_allclose(shared[0], shared[1], atol=1e-4)
        spread.append(own.std(0).mean())
    assert spread[0] < 1e-4 < 1e-2 < spread[1] < spread[2]


def test_codes_of_rates_alone_know_nothing_of_kinematics(cuts: TrialSet) -> None:
    blind = codes.train(cuts, TINY.model_copy(update={"updates": 2, "sees_kinematics": False}), 0)
    other = TrialSet(cuts.counts, cuts.rates, np.zeros_like(cuts.kinematics), cuts.target)
    assert np.array_equal(blind.encode(cuts), blind.encode(other))


def test_without_a_trunk_the_paper_s_denoiser_is_trained(cuts: TrialSet) -> None:
    space = codes.train(cuts, TINY.model_copy(update={"updates": 2, "linear_trunk": False}), 0)
    assert float(space.diffusion.net.trunk.weight.abs().max()) == 0  # type: ignore[union-attr, operator, arg-type]
    assert np.isfinite(space.decode(space.encode(cuts))[0]).all()


def test_principal_components_reconstruct_what_they_are_of(cuts: TrialSet) -> None:
    few, many = (LinearSpace.fit(cuts, n) for n in (2, 30))
    errors = [np.square(s.decode(s.encode(cuts))[0] - cuts.rates).mean() for s in (few, many)]
    assert errors[1] < 0.8 * errors[0]
    c = many.encode(cuts)
    np.testing.assert_allclose(c.T @ c / len(c), np.eye(30), atol=0.02)
    np.testing.assert_allclose(c.mean(0), 0, atol=1e-3)
    tiny = LinearSpace.fit(cuts.of(np.arange(6)), 20)
    assert (tiny.encode(cuts)[:, 4:] == 0).all()


@pytest.mark.parametrize("sees", [True, False])
def test_codes_are_of_what_a_trial_is_beyond_the_mean_trial(cuts: TrialSet, sees: bool) -> None:
    """The mean time course, the same in every trial, is in no component and must not be lost for it."""
    small = TrialSet(cuts.counts[..., :2], cuts.rates[:, :10, :2], cuts.kinematics[:, :10], cuts.target)
    space = LinearSpace.fit(small, 40 if sees else 20, sees)
    rates, kinematics = space.decode(space.encode(small))
    np.testing.assert_allclose(rates, small.rates, atol=2e-3)
    if sees:
        np.testing.assert_allclose(kinematics, small.kinematics, atol=2e-3 * np.abs(small.kinematics).max())
    mean = space.scaler.to(small).mean(0)
    for found, whole in zip(space.decode(np.zeros((1, len(space.loadings)), np.float32)), space.scaler.back(mean), strict=True):
        np.testing.assert_allclose(found[0], whole, atol=1e-5 * max(float(np.abs(whole).max()), 1.0))


def test_training_begins_at_the_mean_trial(cuts: TrialSet) -> None:
    for sees in (True, False):
        still = TINY.model_copy(update={"updates": 1, "learning_rate": 1e-30, "sees_kinematics": sees})
        space = codes.train(cuts, still, 0)
        net = space.diffusion.net
        assert isinstance(net, CodeDenoiser)
        mean = space.scaler.to(cuts).mean(0)
        np.testing.assert_allclose(net.mean(torch.zeros(1, TINY.code))[0].numpy(), mean, atol=1e-5)
        np.testing.assert_allclose(space.encode(cuts).mean(0), 0, atol=1e-3)
        linear = LinearSpace.fit(cuts, TINY.code, sees, space.scaler)
        np.testing.assert_allclose(space.encode(cuts), linear.encode(cuts), atol=1e-3)


def test_the_schedule_of_the_net_is_that_of_the_diffusion(model: Model) -> None:
    space = model.full.space
    assert isinstance(space, CodeSpace)
    assert torch.equal(space.diffusion.net.signal, space.diffusion.abar)  # type: ignore[arg-type]
