from dataclasses import replace

import numpy as np
import pytest

from bci_align.alignment.registration import Registration, choose, identity, order_preserving, rotation, rotations
from bci_align.alignment.registration.choice import likeness_of
from bci_align.alignment.registration.features import phased
from bci_align.alignment.registration.rotation import TRIAL_COMPONENTS, denoised, distinct, search, starts
from bci_align.alignment.registration.types import Float, Index
from bci_align.errors import AlignmentError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.signal import normaliser

PARTS = 14
REACH = 1 + 0.35 * np.cos(np.arange(8) * np.pi / 4) + 0.25 * np.sin(np.arange(8) * np.pi / 2 + 0.4)
"""Directions must differ in more than their angle, or no rotation by a step could be told from none."""


def latent(rng: np.random.Generator, n: int) -> Float:
    """Trajectories (n, PARTS, 4): speed and its slope for all alike, and two of the direction, eight of them."""
    t = np.linspace(0, 1, PARTS)
    bell = np.exp(-(((t - 0.5) / 0.2) ** 2))
    direction = np.arange(n) % 8
    size = (REACH[direction] * (1 + 0.05 * rng.standard_normal(n)))[:, None]
    angle = (direction * np.pi / 4 + 0.08 * rng.standard_normal(n))[:, None]
    common = np.broadcast_to(np.stack([bell, t - 0.5], 1), (n, PARTS, 2))
    return np.concatenate([common, np.stack([size * bell * np.cos(angle), size * bell * np.sin(angle)], 2)], 2)


def day(seed: int, n: int, loadings: Float) -> UnlabelledTrials:
    """Poisson counts of units with ``loadings`` (4, C), trials in random order."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.exp(0.7 + latent(rng, n) @ loadings)).astype(np.float32)[rng.permutation(n)]
    return UnlabelledTrials(tuple(counts), (0,) * n, 0.05, tuple(f"u{i}" for i in range(loadings.shape[1])))


def loadings(seed: int, units: int) -> Float:
    return 0.45 * np.random.default_rng(seed).standard_normal((4, units))


def with_channels(trials: UnlabelledTrials, order: Index) -> UnlabelledTrials:
    labels = tuple(trials.channels[i] for i in order)
    return replace(trials, counts=tuple(np.ascontiguousarray(t[:, order]) for t in trials.counts), channels=labels)


def reader(trials: UnlabelledTrials, units: Float) -> ReadIn:
    """A read-in that reads the latents off the source's units."""
    mean, gain = normaliser.fit(trials.bodies())
    return ReadIn(mean, gain, (np.linalg.pinv(units) / gain[:, None]).astype(np.float32), np.zeros(4, np.float32))


SOURCE_UNITS = loadings(0, 60)
SOURCE = day(1, 96, SOURCE_UNITS)
READ_IN = reader(SOURCE, SOURCE_UNITS)


def activity(read_in: ReadIn, trials: UnlabelledTrials) -> Float:
    """Read-in activity (n * P, H) without what looks like noise: the first components over whole trials."""
    a = denoised(read_in.apply(phased(trials, PARTS).astype(np.float32)).astype(np.float64), TRIAL_COMPONENTS)
    return a.reshape(-1, a.shape[2])


def agreement(made: ReadIn, true: ReadIn, trials: UnlabelledTrials) -> float:
    """Correlation of the two directional dimensions that they read from ``trials``."""
    return likeness_of(activity(made, trials)[:, 2:], activity(true, trials)[:, 2:])


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_rotation_reads_the_same_movement_from_units_never_seen(seed: int) -> None:
    units = loadings(seed + 10, 48)
    target = day(seed, 80, units)
    made = rotation(SOURCE, target, READ_IN)
    assert made.matched is None
    assert made.read_in.weight.shape == (48, 4)
    assert agreement(made.read_in, reader(target, units), target) > 0.85
    assert made.record["confidence"] is None or made.record["confidence"] > 0


def test_rotation_does_not_care_how_channels_and_trials_are_ordered() -> None:
    target = day(5, 80, SOURCE_UNITS)
    straight = rotation(SOURCE, target, READ_IN, restarts=100).read_in
    rng = np.random.default_rng(0)
    order = rng.permutation(60)
    mixed = with_channels(replace(target, counts=tuple(target.counts[i] for i in rng.permutation(80))), order)
    source = replace(SOURCE, counts=tuple(SOURCE.counts[i] for i in rng.permutation(96)))
    permuted = rotation(source, mixed, READ_IN, restarts=100).read_in
    np.testing.assert_allclose(permuted.weight, straight.weight[order], atol=1e-3 * float(np.abs(straight.weight).max()))
    np.testing.assert_allclose(permuted.gain, straight.gain[order], rtol=1e-5)
    np.testing.assert_allclose(permuted.bias, straight.bias, atol=1e-4)


def test_search_recovers_a_known_orthogonal_mixing() -> None:
    rng = np.random.default_rng(7)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    source = latent(rng, 64)
    target = latent(rng, 64)[rng.permutation(64)] @ turn.T
    fits = search(source, target, starts(source, target, 120, 0))
    assert (np.diff(fits.cost) >= 0).all()
    np.testing.assert_allclose(fits.turn[0], turn, atol=0.1)
    np.testing.assert_allclose(fits.turn @ fits.turn.transpose(0, 2, 1), np.broadcast_to(np.eye(4), fits.turn.shape), atol=1e-8)


def margin_to_a_different_rotation(reach: Float, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(f"{__name__}.REACH", reach)
    rng = np.random.default_rng(8)
    source, target = latent(rng, 96), latent(rng, 96)[rng.permutation(96)]
    fits = search(source, target, starts(source, target, 120, 0))
    best, rival = distinct(source, target, fits, 2)
    return float(fits.cost[rival] / fits.cost[best] - 1)


def test_the_margin_is_small_where_directions_lie_evenly_and_large_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = margin_to_a_different_rotation(REACH, monkeypatch)
    even = margin_to_a_different_rotation(np.ones(8), monkeypatch)
    assert uneven > 1
    assert even < 0.5


def test_the_runner_up_is_another_rotation_at_a_higher_cost() -> None:
    units = loadings(16, 60)
    target = day(6, 80, units)
    first, second = rotations(SOURCE, target, READ_IN)
    assert [first.method, second.method] == ["rotation", "rotation 2"]
    assert first.record["confidence"] == pytest.approx(second.record["cost"] / first.record["cost"] - 1, abs=1e-3)
    assert second.record["confidence"] < 0
    assert agreement(first.read_in, second.read_in, target) < 0.7
    # The right one, and the wrong one.
    assert agreement(first.read_in, reader(target, units), target) > 0.85
    assert agreement(second.read_in, reader(target, units), target) < 0.5


def test_a_silent_day_is_refused() -> None:
    silent = replace(SOURCE, counts=tuple(np.zeros_like(t) for t in SOURCE.counts))
    with pytest.raises(AlignmentError, match="expected spikes whose number varies"):
        rotation(SOURCE, silent, READ_IN)


def outputs(candidate: Registration) -> Float:
    return activity(candidate.read_in, day(5, 80, SOURCE_UNITS))


@pytest.fixture(scope="module")
def offered() -> list[Registration]:
    today = day(5, 80, SOURCE_UNITS)
    found = [identity(SOURCE, today, READ_IN), order_preserving(SOURCE, today, READ_IN), rotation(SOURCE, today, READ_IN, 60)]
    assert [c.method for c in found] == ["identity", "order-preserving", "rotation"]
    return found


def test_choose_takes_the_lowest_score_and_its_margin_to_one_that_differs(offered: list[Registration]) -> None:
    wrong = Registration(replace(offered[0].read_in, weight=-offered[0].read_in.weight), "wrong", None, {})
    scores = {c.method: 2.0 + i for i, c in enumerate(offered)} | {"wrong": 2.05}
    scores |= {c.method: 9.0 for c in offered if c.method.startswith("rotation")}
    choice = choose([*offered, wrong], lambda c: scores[c.method], outputs, least_margin=0.1)
    assert choice.best.method == "identity"
    # The matching in order says the same as identity: it is no rival, and its score does not count.
    assert choice.runner_up == "wrong"
    assert choice.margin == pytest.approx(0.025)
    assert not choice.sure
    assert choose([*offered, wrong], lambda c: scores[c.method], outputs, least_margin=0.02).sure


def test_choose_never_takes_a_score_that_is_not_finite(offered: list[Registration]) -> None:
    choice = choose(offered[:2], lambda c: float("nan") if c.method == "identity" else 1.0, outputs, 0.1)
    assert choice.best.method == "order-preserving"
    assert choice.margin is None and choice.sure
    with pytest.raises(AlignmentError, match="finite score"):
        choose(offered, lambda c: float("inf"), outputs, 0.1)
    with pytest.raises(AlignmentError, match="at least one candidate"):
        choose([], lambda c: 0.0, outputs, 0.1)
