import numpy as np
import pytest

from bci_align.augmentation.spikes import SpikeModel, poisson, resampled
from bci_align.augmentation.trials import TrialSet


@pytest.mark.parametrize(("dispersion", "memory"), [(1.0, 0.0), (2.0, 0.0), (0.6, 0.0), (1.5, 0.3)])
def test_what_was_drawn_is_found_again(dispersion: float, memory: float) -> None:
    rates = np.full((400, 40, 2), 2.0, np.float32)
    given = SpikeModel(np.full(2, dispersion), np.full(2, memory))
    counts = given.draw(rates, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(2.0, rel=0.03)
    found = SpikeModel.fit(counts, rates)
    np.testing.assert_allclose(found.dispersion, dispersion, rtol=0.1)
    np.testing.assert_allclose(found.memory, memory, atol=0.04)
    assert (counts >= 0).all() and (counts == np.round(counts)).all()
    np.testing.assert_array_equal(counts, given.draw(rates, np.random.default_rng(0)))


def test_poisson_s_variance_is_its_mean_and_silence_stays_silent() -> None:
    rates = np.tile(np.array([0.0, 3.0], np.float32), (500, 10, 1))
    counts = poisson(rates, np.random.default_rng(0))
    assert counts[..., 0].sum() < 10
    assert counts[..., 1].var() == pytest.approx(3.0, rel=0.1)


def test_resampling_keeps_rates_and_draws_fresh_spikes() -> None:
    rates = np.random.default_rng(0).gamma(2.0, size=(6, 10, 3)).astype(np.float32)
    trials = TrialSet(rates, rates, np.zeros((6, 10, 2), np.float32), np.zeros((6, 2)))
    made = resampled(trials, 20, np.random.default_rng(1))
    assert len(made) == 20
    assert all(any(np.array_equal(r, o) for o in rates) for r in made.rates)
    assert not np.array_equal(made.counts[0], made.rates[0])
