import numpy as np
import pytest
from numpy.typing import NDArray

from bci_align.augmentation.encoding import HARMONICS, Encoding, features, lags_of, width
from bci_align.augmentation.rivals import condition_means
from bci_align.augmentation.trials import TrialSet
from bci_align.errors import AugmentationError

CHANNELS, BEFORE, BINS = 30, 6, 20
Floats = NDArray[np.float64]


def movements(target: Floats, rng: np.random.Generator) -> Floats:
    """Straight movements to ``target`` (n, K), each at its own pace."""
    pace = rng.uniform(0.7, 1.3, len(target))[:, None]
    along = 1 / (1 + np.exp(-(np.arange(BINS) - BEFORE - 5) * pace))
    return along[:, :, None] * target[:, None] + 0.1 * rng.normal(size=(len(target), 1, target.shape[1]))


def driven(kinematics: Floats, target: Floats, preferred: Floats, rng: np.random.Generator, sharp: float = 2.0) -> TrialSet:
    """Trials of channels tuned to what comes two bins later, as sharply as a von Mises curve; ``rates`` are the true ones.

    ``preferred`` (C, K): unit vectors.
    """
    ahead = np.roll(kinematics, -2, 1) / 10
    size = np.linalg.norm(ahead, axis=2, keepdims=True)
    along = np.divide(ahead @ preferred.T, size, where=size > 0, out=np.zeros((*ahead.shape[:2], len(preferred))))
    rates = (0.7 + 2 * size * (np.exp(sharp * (along - 1)) - 0.3)).clip(0.05).astype(np.float32)
    return TrialSet(rng.poisson(rates).astype(np.float32), rates, kinematics.astype(np.float32), target)


def units(rng: np.random.Generator, outputs: int, channels: int = CHANNELS) -> Floats:
    """Preferred directions (C, K) anywhere."""
    v = rng.normal(size=(channels, outputs))
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))


def test_rates_are_right_in_directions_that_had_no_trials() -> None:
    rng = np.random.default_rng(0)
    preferred = units(rng, 2)
    angle = np.arange(8) * np.pi / 4
    ring = 10 * np.c_[np.cos(angle), np.sin(angle)]
    seen, unseen = np.repeat(ring[:5], 15, 0), np.repeat(ring[5:], 15, 0)
    known, new = (driven(movements(t, rng), t, preferred, rng) for t in (seen, unseen))
    found = Encoding.fit(known, BEFORE, 0.05)

    def error(rates: NDArray[np.float32]) -> float:
        """Of the held position's mean rates, in units of how far they differ from the mean of what was seen."""
        hold = slice(-6, -2)
        truth = new.rates[:, hold].reshape(3, -1, CHANNELS).mean(1)
        guess = rates[:, hold].reshape(3, -1, CHANNELS).mean(1)
        return float(np.square(guess - truth).mean() / np.square(known.rates[:, hold].mean((0, 1)) - truth).mean())

    # a line through the directions that were seen, as rotated trials and moved codes follow it
    line = condition_means(known, ring[5:], 15, rng).rates
    assert error(found.rates(new.kinematics)) < min(0.3, 0.8 * error(line))
    assert found.spikes.dispersion == pytest.approx(np.ones(CHANNELS), abs=0.35)
    np.testing.assert_array_equal(found.weights, Encoding.fit(known, BEFORE, 0.05).weights)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_features_are_as_many_as_a_stored_model_must_have(outputs: int) -> None:
    rng = np.random.default_rng(1)
    lags = lags_of(0.05)
    x, blocks = features(rng.normal(size=(3, BINS, outputs)), lags)
    assert x.shape == (3, BINS, width(outputs, len(lags)))
    columns = sorted([0, *blocks.sizes, *(c for group in blocks.axes for axis in group for c in axis)])
    assert columns == list(range(x.shape[2]))
    assert len(blocks.axes) == (1 + len(HARMONICS) if outputs == 2 else 1)
    target = rng.normal(size=(20, outputs))
    trials = driven(movements(10 * target, rng), target, units(rng, outputs, 4), rng)
    rates = Encoding.fit(trials, BEFORE, 0.05).rates(trials.kinematics)
    assert np.corrcoef(rates.ravel(), trials.rates.ravel())[0, 1] > 0.75


def test_lags_are_seconds() -> None:
    assert lags_of(0.05) == (-1, 0, 1, 2, 3, 4) and lags_of(0.1) == (0, 1, 2) and lags_of(0.025) == (-2, 0, 2, 4, 6, 8)


def test_a_silent_channel_stays_silent_and_what_never_moves_is_refused() -> None:
    rng = np.random.default_rng(2)
    target = rng.normal(size=(20, 2))
    trials = driven(movements(10 * target, rng), target, units(rng, 2, 4), rng)
    counts = trials.counts.copy()
    counts[..., 0] = 0
    rates = Encoding.fit(trials.with_counts(counts), BEFORE, 0.05).rates(trials.kinematics)
    assert np.isfinite(rates).all() and rates[..., 0].max() < 0.05
    still = TrialSet(counts, trials.rates, np.ones_like(trials.kinematics), target)
    with pytest.raises(AugmentationError, match="encoding model: kinematics: expected some that vary over the trials"):
        Encoding.fit(still, BEFORE, 0.05)
