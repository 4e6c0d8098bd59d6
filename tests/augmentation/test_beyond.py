import numpy as np
import pytest

from bci_align.augmentation import measures
from bci_align.augmentation.beyond import Beyond
from bci_align.augmentation.spikes import SpikeModel


def made(n: int, size: float, channels: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, 12, C) of Poisson neurons with one gain in common, white in time, twice as large at first; and the rates."""
    rng = np.random.default_rng(seed)
    rates = np.tile(rng.uniform(0.5, 4.0, channels), (n, 12, 1))
    course = size * np.where(np.arange(12) < 6, 1.0, 0.5)
    log_gain = rng.normal(size=(n, 12, 1)) * course[:, None]
    return rng.poisson(rates * np.exp(log_gain - np.square(course[:, None]) / 2)).astype(np.float32), rates.astype(np.float32)


def test_a_gain_that_neurons_share_is_found_and_drawn_again() -> None:
    counts, rates = made(400, 0.3)
    found = SpikeModel.fit(counts, rates, 4)
    assert found.beyond is not None and len(found.beyond.loadings) == 1
    variance = found.beyond.variance().mean(1)
    np.testing.assert_allclose(variance[:6].mean(), 0.09, rtol=0.25)
    np.testing.assert_allclose(variance[6:].mean(), 0.0225, rtol=0.4)
    np.testing.assert_allclose(found.dispersion, 1.0, atol=0.15)  # what is shared is no neuron's own
    drawn = found.draw(rates, np.random.default_rng(1))
    np.testing.assert_array_equal(drawn, found.draw(rates, np.random.default_rng(1)))
    assert drawn.mean() == pytest.approx(counts.mean(), rel=0.02)
    assert drawn.sum(2).var() == pytest.approx(counts.sum(2).var(), rel=0.15)
    alone = SpikeModel.fit(counts, rates).draw(rates, np.random.default_rng(1))
    assert alone.sum(2).var() < 0.4 * counts.sum(2).var()
    fresh = made(400, 0.3, seed=0)[0]
    kl = [measures.realism(c, fresh)["population KL"] for c in (drawn, alone)]
    assert kl[0] < 0.02 < 0.2 < kl[1]


def test_neurons_that_share_nothing_are_given_nothing() -> None:
    for seed in range(3):
        counts, rates = made(60, 0.0, seed=seed)
        found = SpikeModel.fit(counts, rates, 4)
        assert found.beyond is not None and found.beyond.variance().mean() < 2e-3
        np.testing.assert_allclose(found.beyond.sharpness, 1.0, atol=0.4)
    nothing = Beyond(np.ones((12, 30)), np.zeros((0, 30)), np.zeros((0, 12, 12)))
    np.testing.assert_array_equal(nothing.draw(5, np.random.default_rng(0)), 1.0)


def test_peaks_that_smoothing_took_off_come_back() -> None:
    counts, rates = made(200, 0.0)
    counts[:, 4] *= 2
    found = SpikeModel.fit(counts, rates, 4)
    assert found.beyond is not None
    np.testing.assert_allclose(found.beyond.sharpness[4].mean(), 2, rtol=0.05)
    np.testing.assert_allclose(np.delete(found.beyond.sharpness, 4, 0).mean(), 1, rtol=0.05)


def test_few_trials_and_silent_neurons_give_no_wild_gains() -> None:
    counts, rates = made(8, 0.2)
    counts[..., 0] = rates[..., 0] = 0
    counts[0, 0, 1] = 50
    found = SpikeModel.fit(counts, rates, 4)
    drawn = found.draw(rates, np.random.default_rng(0))
    assert drawn[..., 0].sum() < 2 and drawn.mean() == pytest.approx(counts.mean(), rel=0.3)
    assert found.beyond is not None and found.beyond.variance().max() <= 0.5 + 1e-9
