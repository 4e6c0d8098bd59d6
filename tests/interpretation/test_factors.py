from dataclasses import replace

import numpy as np
import pytest
import torch

from bci_align.config import FactorConfig
from bci_align.errors import InterpretationError
from bci_align.interpretation.data import FactorDay, FactorTrials
from bci_align.interpretation.factors import fit_factors, read_factors
from bci_align.interpretation.store import FactorModel
from bci_align.interpretation.train import measures
from bci_align.session.types import Session


def test_each_behaviour_gets_a_factor_of_its_own(factor_model: FactorModel) -> None:
    found = measures(factor_model.network, factor_model.day)
    assert (found["diagonal"] > 0.5).all()
    assert (found["diagonal"] > 0.9 * found["r2_full"]).all()
    assert found["off_diagonal"] < 0.1
    assert found["relative_gap"] > 0.6
    assert 0 < found["reconstruction_r2"] < 1


def test_the_same_seed_gives_the_same_network(mixed: Session) -> None:
    trials = FactorDay.of(mixed, None, 0.25, 0).cut(False)
    config = FactorConfig(hidden=8, updates=4)
    state = torch.get_rng_state()
    first, again, other = (fit_factors(trials, config, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_factor_is_learnt_from_the_frames_that_are_labelled(mixed: Session) -> None:
    day = FactorDay.of(mixed, None, 0.25, 0)
    values = day.behaviours.copy()
    values[::2] = np.nan
    masked = replace(day, behaviours=values)
    network, _ = fit_factors(masked.cut(False), FactorConfig(hidden=24, updates=100, batch=32, free=1), 0)
    assert (measures(network, day)["diagonal"] > 0.4).all()


def test_trials_of_different_lengths_are_read_each_alone(factor_model: FactorModel) -> None:
    counts = list(factor_model.day.cut(True).counts[:3])
    counts[1] = counts[1][:7]
    together, _ = read_factors(factor_model.network, counts)
    alone, _ = read_factors(factor_model.network, counts[1:2])
    assert [len(z) for z in together] == [20, 7, 20]
    assert together[1] == pytest.approx(alone[0], abs=1e-5)


def test_a_loss_that_is_not_finite_is_one_sentence(mixed: Session) -> None:
    trials = FactorDay.of(mixed, None, 0.25, 0).cut(False)
    wild = FactorTrials(tuple(np.full_like(c, np.inf) for c in trials.counts), trials.behaviours, trials.names)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InterpretationError, match=r"day 5: the loss became nan in epoch 1; lower learning_rate"),
    ):
        fit_factors(wild, FactorConfig(hidden=8, updates=1), 0, where="day 5")
