import numpy as np
import pytest

from bci_align.augmentation import codes, rivals
from bci_align.augmentation.trials import TrialSet

from .conftest import TINY


@pytest.mark.parametrize("name", list(rivals.PLAIN))
def test_rivals_without_a_model_make_as_many_trials_as_asked_for(name: str, cuts: TrialSet) -> None:
    known = cuts.conditions()[0]
    made = rivals.PLAIN[name](cuts, known[:2], 5, np.random.default_rng(0))
    assert made.counts.shape == (10, *cuts.counts.shape[1:])
    assert (made.counts >= 0).all() and np.isfinite(made.kinematics).all()
    assert made.counts.mean() == pytest.approx(cuts.counts.mean(), rel=0.3)


def test_rotation_turns_movement_and_moves_rates_along_their_tuning(cuts: TrialSet) -> None:
    known = cuts.conditions()[0]
    left = cuts.of((np.abs(cuts.target - known[0]) > 1e-6).any(1))  # no trials of the first target
    made = rivals.rotated(left, known[:1], 40, np.random.default_rng(0))
    truth = cuts.of((np.abs(cuts.target - known[0]) < 1e-6).all(1))
    end = made.kinematics[:, -3:].mean((0, 1)), truth.kinematics[:, -3:].mean((0, 1)), left.kinematics[:, -3:].mean((0, 1))
    assert np.linalg.norm(end[0] - end[1]) < 0.5 * np.linalg.norm(end[2] - end[1])
    rate = [s.rates.mean((0, 1)) for s in (made, truth, left)]
    assert np.corrcoef(rate[0] - rate[2], rate[1] - rate[2])[0, 1] > 0.3


def test_the_vae_has_as_many_parameters_and_learns(cuts: TrialSet) -> None:
    sizes = cuts.rates.shape[1], cuts.rates.shape[2], cuts.kinematics.shape[2]
    size = sum(p.numel() for n in codes.untrained(TINY, *sizes) for p in n.parameters())
    space = rivals.train_vae(cuts, TINY.model_copy(update={"updates": 60}), 0, size)
    found = sum(p.numel() for p in space.net.parameters())
    assert abs(found - size) < 0.1 * size
    c = space.encode(cuts)
    made = space.decode(c)[1]
    assert np.square(made - cuts.kinematics).mean() < 0.6 * cuts.kinematics.var()
    short = TINY.model_copy(update={"updates": 2})
    twice = [rivals.train_vae(cuts, short, 0, size).encode(cuts) for _ in range(2)]
    assert np.array_equal(*twice)
