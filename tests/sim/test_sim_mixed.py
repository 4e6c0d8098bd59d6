import numpy as np
import pytest

from bci_align_sim.mixed import Mixed, Wear, mixed_day, processes

pytestmark = pytest.mark.computes


def test_the_behaviours_are_independent() -> None:
    k = mixed_day(0, trials=600).kinematics
    assert k is not None
    off = np.corrcoef(k.T) - np.eye(3)
    assert np.abs(off).max() < 0.08
    assert k.std(0) == pytest.approx([8, 8, 1], rel=0.1)


def test_every_channel_hears_several_behaviours() -> None:
    day = mixed_day(1, trials=600)
    assert day.kinematics is not None
    r = np.abs(np.corrcoef(day.counts.T, day.kinematics.T)[:40, 40:])
    ordered = np.sort(r, axis=1)
    assert np.median(ordered[:, 1]) > 0.1
    assert day.counts.mean() == pytest.approx(1.7, abs=0.5)


def test_the_hand_stays_near_the_centre() -> None:
    k = mixed_day(2, trials=600).kinematics
    assert k is not None
    assert np.abs(np.cumsum(k[:, 0])).max() < 12 * 8 * 4


def test_the_same_seed_gives_the_same_day_and_wear_leaves_the_hand_alone() -> None:
    plain, again, worn = mixed_day(3, trials=20), mixed_day(3, trials=20), mixed_day(3, trials=20, wear=Wear())
    assert plain.fingerprint() == again.fingerprint() != worn.fingerprint()
    assert plain.kinematics is not None and worn.kinematics is not None
    assert (plain.kinematics == worn.kinematics).all()
    assert mixed_day(3, trials=20, day=1).fingerprint() != plain.fingerprint()


def test_processes_are_smooth_and_of_variance_one() -> None:
    x = processes(20_000, 2, 4.0, np.random.default_rng(0))
    assert x.std(0) == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1] == pytest.approx(np.exp(-1 / (4 * 16)), abs=0.01)


def test_channels_and_trials() -> None:
    day = mixed_day(0, trials=7, bins=11, array=Mixed(neurons=5))
    assert day.counts.shape == (77, 5)
    assert [day.trial_bins(i) for i in (0, 6)] == [(0, 11), (66, 77)]
