import numpy as np

from bci_align.signal import normaliser


def test_normalised_counts_have_mean_zero_and_unit_spread() -> None:
    counts = np.random.default_rng(0).poisson([0.5, 3.0, 12.0], (400, 3)).astype(np.float32)
    mean, gain = normaliser.fit([counts[:150], counts[150:]])
    z = (counts - mean) * gain
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)


def test_a_silent_channel_says_nothing_and_a_rare_one_is_not_blown_up() -> None:
    counts = np.zeros((2000, 2), np.float32)
    counts[7, 1] = 1
    _, gain = normaliser.fit([counts])
    assert gain[0] == 0
    assert gain[1] == np.float32(1 / normaliser.SD_FLOOR)
