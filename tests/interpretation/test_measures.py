import numpy as np
import pytest

from bci_align.errors import InterpretationError
from bci_align.interpretation.measures import Frames, binned_information, gaps, measure, r2_full, r2_matrix, reconstruction


def made(n: int, mixed: float = 0.0, seed: int = 0) -> Frames:
    """Two independent behaviours; the first factor is the first of them, noisy, with ``mixed`` of the second in it."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((n, 2))
    z = u + 0.3 * rng.standard_normal((n, 2))
    z[:, 0] += mixed * u[:, 1]
    return Frames(np.column_stack([z, rng.standard_normal(n)]), u)


def test_information_of_a_gaussian_pair() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(200_000)
    b = 0.8 * a + 0.6 * rng.standard_normal(len(a))
    found, entropy = binned_information(a, b)
    assert found == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.05)
    assert 0 < found < entropy


def test_the_matrix_is_diagonal_for_factors_of_their_own() -> None:
    r2 = r2_matrix(made(5000), made(5000, seed=1))
    assert r2.shape == (3, 2)
    assert (r2[[0, 1], [0, 1]] > 0.88).all()
    assert (np.abs(r2[[0, 1, 2, 2], [1, 0, 0, 1]]) < 0.01).all()


def test_all_factors_tell_no_less_than_one() -> None:
    train, test = made(5000, 0.8), made(5000, 0.8, seed=1)
    assert (r2_full(train, test) > r2_matrix(train, test).max(0) - 1e-6).all()


def test_gaps_fall_when_a_factor_knows_two_behaviours() -> None:
    apart, mixed = gaps(made(12_000)), gaps(made(12_000, 1.0))
    for name in ("mig", "relative_gap", "ksg_gap"):
        assert apart[name] > mixed[name] + 0.1
    assert apart["relative_gap"] > 0.95


def test_the_oracle_is_the_most_there_is() -> None:
    found = measure(made(6000), made(12_000, seed=1), np.ones((5, 2)) * np.arange(5)[:, None], np.zeros((5, 2)))
    assert found["oracle"]["mig"] > found["mig"]
    assert np.diag(found["oracle"]["r2"]) == pytest.approx(1.0)
    assert found["frames"] == 12_000


def test_unlabelled_frames_are_left_out() -> None:
    test = made(3000, seed=1)
    u = test.u.copy()
    u[::2, 0] = np.nan
    assert r2_matrix(made(3000), Frames(test.z, u))[0, 0] == pytest.approx(r2_matrix(made(3000), test)[0, 0], abs=0.02)


def test_reconstruction_of_the_mean_is_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((100, 3))
    assert reconstruction(x, np.tile(x.mean(0), (100, 1)))[0] == pytest.approx(0.0)
    assert reconstruction(x, x) == (1.0, 0.0)


def test_a_behaviour_that_stands_still_in_the_held_out_trials_is_named() -> None:
    test = made(100)
    with pytest.raises(InterpretationError, match="expected values that vary in the held-out trials"):
        r2_matrix(made(100), Frames(test.z, np.zeros_like(test.u)))
