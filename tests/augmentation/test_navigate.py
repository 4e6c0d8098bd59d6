import numpy as np
import pytest

from bci_align.augmentation.navigate import Navigator, start_from, variables
from bci_align.augmentation.trials import TrialSet
from bci_align.errors import AugmentationError


def known(n: int = 200, seed: int = 0, targets: np.ndarray | None = None) -> tuple[np.ndarray, TrialSet, np.ndarray]:
    """Trials whose codes are a known linear function of target, start and speed; the matrix (6, V) of it."""
    rng = np.random.default_rng(seed)
    circle = 10 * np.c_[np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)]
    target = (circle if targets is None else targets)[rng.integers(0, len(circle if targets is None else targets), n)]
    start = rng.normal(0, 1, (n, 2))
    speed = rng.uniform(0.5, 1.5, n)
    t = np.clip(np.linspace(-1, 1, 20), 0, None)
    k = start[:, None] + (target - start)[:, None] * (t[None, :] ** speed[:, None])[..., None]
    trials = TrialSet(np.ones((n, 20, 3), np.float32), np.ones((n, 20, 3), np.float32), k.astype(np.float32), target)
    v = np.stack(list(variables(trials, 8).values()), 1)
    matrix = rng.normal(size=(6, v.shape[1]))
    return (v @ matrix.T + 0.01 * rng.normal(size=(n, 6))).astype(np.float32), trials, matrix


def test_one_variable_moves_and_the_others_stay() -> None:
    codes, trials, matrix = known()
    nav = Navigator.fit(codes, trials, 8)
    assert nav.names == ("target x", "target y", "start x", "start y", "speed")
    back = np.linalg.pinv(matrix)
    for i, name in enumerate(nav.names):
        moved = (nav.move(codes, name, 2.0) - codes) @ back.T
        expected = np.zeros(5)
        expected[i] = 2.0
        np.testing.assert_allclose(moved.mean(0), expected, atol=0.12)


def test_a_target_without_trials_is_reached_by_going_on() -> None:
    half = 10 * np.c_[np.cos(np.arange(2, 7) * np.pi / 4), np.sin(np.arange(2, 7) * np.pi / 4)]
    codes, trials, matrix = known(targets=half)
    nav = Navigator.fit(codes, trials, 8)
    to = np.tile([10.0, 0.0], (len(trials), 1))
    found = nav.to_target(codes, trials.target, to) @ np.linalg.pinv(matrix).T
    np.testing.assert_allclose(found[:, :2].mean(0), [10, 0], atol=0.5)
    nav.check(to[:1])  # a direction without trials, at a distance that has some
    with pytest.raises(
        AugmentationError, match=r"target \(14, 0\): outside the support .*nearest supported \(12.5, 0\), nearest"
    ):
        nav.check(np.array([[14.0, 0.0]]))
    with pytest.raises(AugmentationError, match="outside the support"):
        nav.check(np.array([[np.nan, 0.0]]))
    for away in (1e30, 1e308, np.inf):
        with pytest.raises(AugmentationError, match=r"nearest supported \(0, -12.5\), nearest trained \(\S+, -10\)"):
            nav.check(np.array([[0.0, -away]]))
    with pytest.raises(AugmentationError, match="expected 2 coordinates"):
        nav.check(np.array([[1.0, 0.0, 0.0]]))


def test_codes_far_from_their_target_s_are_out_of_support() -> None:
    codes, trials, _ = known()
    nav = Navigator.fit(codes, trials, 8, support=0.95)
    distance = nav.distance(codes, trials.target)
    assert (distance <= nav.limit).mean() >= 0.95
    strange = codes + np.random.default_rng(3).normal(size=codes.shape).astype(np.float32) * 5
    assert (nav.distance(strange, trials.target) > nav.limit).mean() > 0.95


def test_an_unknown_variable_is_answered_with_the_known_ones() -> None:
    codes, trials, _ = known()
    nav = Navigator.fit(codes, trials, 8)
    with pytest.raises(AugmentationError, match=r"expected one of target x, .*, found 'sped'; did you mean 'speed'\?"):
        nav.move(codes, "sped", 1.0)
    still = TrialSet(trials.counts, trials.rates, np.zeros_like(trials.kinematics), trials.target)
    with pytest.raises(AugmentationError, match="found a constant"):
        Navigator.fit(codes, still, 8).move(codes, "start x", 1.0)


def test_trials_to_start_from_are_the_target_s_own_or_the_nearest() -> None:
    _, trials, _ = known()
    rng = np.random.default_rng(0)
    rows, to = start_from(trials, np.array([[10.0, 0.0]]), 50, rng)
    np.testing.assert_allclose(trials.target[rows], to, atol=1e-9)
    other = trials.of(trials.target[:, 0] < 9.9)
    rows, to = start_from(other, np.array([[10.0, 0.0]]), 50, rng, nearest=2)
    assert set(np.round(other.target[rows, 0], 2)) == {7.07}
    assert len(rows) == len(to) == 50


def test_a_move_beyond_what_trials_show_is_refused() -> None:
    codes, trials, _ = known()
    nav = Navigator.fit(codes, trials, 8)
    most = 3 * float(nav.sd[nav.names.index("speed")])
    nav.check_move("speed", -0.99 * most)
    for by in (1.01 * most, -1e30, np.nan):
        with pytest.raises(AugmentationError, match=f"outside the support; largest supported -?{most:.4g} "):
            nav.check_move("speed", by)
    with pytest.raises(AugmentationError, match="did you mean 'speed'"):
        nav.check_move("sped", 0.0)
