from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from bci_align.alignment.registration import identity, order_preserving
from bci_align.alignment.registration.matching import read_in_of
from bci_align.alignment.registration.types import Index, Registration
from bci_align.alignment.registration.units import GAP, in_order
from bci_align.alignment.start import renormalise
from bci_align.errors import AlignmentError, MismatchError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials, unlabelled
from bci_align.signal import normaliser
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift

Turnover = tuple[UnlabelledTrials, UnlabelledTrials, Index]


def channels_of(trials: UnlabelledTrials, keep: Index) -> UnlabelledTrials:
    labels = tuple(f"unit{i}" for i in range(len(keep)))
    return replace(trials, counts=tuple(np.ascontiguousarray(t[:, keep]) for t in trials.counts), channels=labels)


def in_trial_order(trials: UnlabelledTrials, order: Index) -> UnlabelledTrials:
    return replace(trials, counts=tuple(trials.counts[i] for i in order), run_in=tuple(trials.run_in[i] for i in order))


def reader(trials: UnlabelledTrials, width: int = 12) -> ReadIn:
    mean, gain = normaliser.fit(trials.bodies())
    weight = np.random.default_rng(3).standard_normal((len(mean), width)).astype(np.float32)
    return ReadIn(mean, gain, weight, np.ones(width, np.float32))


def turnover(seed: int, drift: Drift, units: int = 96, share: float = 0.15) -> Turnover:
    """Two days of ``units`` units each, ``share`` of them lost and as many gained between; and the true matching."""
    gone = round(share * units)
    first, later = simulate_days(seed, trials=(100, 80), drift=drift, bin_s=0.05, channels=units + gone)
    order = np.random.default_rng(seed).permutation(units + gone)
    of_source, of_target = np.sort(order[gone:]), np.sort(np.concatenate([order[:gone], order[2 * gone :]]))
    truth = np.array([np.flatnonzero(of_source == u)[0] if u in of_source else -1 for u in of_target])
    source, target = (unlabelled(d, d.rewarded(), 3) for d in (first, later))
    return channels_of(source, of_source), channels_of(target, of_target), truth


@pytest.fixture(scope="module")
def drifted() -> Turnover:
    """Rates, gains and tuning have wandered too."""
    return turnover(1, Drift(turnover=0, gain_sd=0.3, rotation_deg=10, baseline_sd_hz=2, dead=0))


@pytest.fixture(scope="module")
def found(drifted: Turnover) -> Registration:
    source, target, _ = drifted
    return order_preserving(source, target, reader(source))


def test_order_preserving_finds_the_surviving_units(drifted: Turnover, found: Registration) -> None:
    truth, matched = drifted[2], found.matched
    assert matched is not None
    assert np.mean(matched[truth >= 0] == truth[truth >= 0]) >= 0.9
    assert np.mean(matched[matched >= 0] == truth[matched >= 0]) >= 0.9
    assert found.record["confidence"] > 5


def test_a_matched_unit_takes_its_partners_weights_behind_its_own_normaliser(drifted: Turnover, found: Registration) -> None:
    source, target, _ = drifted
    r, matched = reader(source), found.matched
    assert matched is not None
    mean, gain = normaliser.fit(target.bodies())
    known = matched >= 0
    assert 0 < known.sum() < len(known)
    np.testing.assert_array_equal(found.read_in.weight[known], r.weight[matched[known]])
    np.testing.assert_array_equal(found.read_in.weight[~known], 0)
    np.testing.assert_array_equal(found.read_in.mean, mean)
    np.testing.assert_array_equal(found.read_in.gain[known], gain[known])
    np.testing.assert_array_equal(found.read_in.bias, r.bias)


def test_a_partner_that_was_silent_on_the_source_day_gives_no_weight(drifted: Turnover) -> None:
    source, target, _ = drifted
    r = reader(source)
    gain = r.gain.copy()
    gain[5] = 0
    made = read_in_of(np.where(np.arange(len(gain)) == 7, 5, 6), replace(r, gain=gain), target)
    assert made.gain[7] == 0 and not made.weight[7].any()
    assert made.gain[8] > 0 and made.weight[8].any()


def test_where_the_order_means_nothing_the_confidence_says_so(drifted: Turnover) -> None:
    source, target, _ = drifted
    order = np.random.default_rng(0).permutation(len(target.channels))
    assert order_preserving(source, channels_of(target, order), reader(source)).record["confidence"] < 3


def test_the_order_of_trials_changes_nothing(drifted: Turnover) -> None:
    source, target, _ = drifted
    rng = np.random.default_rng(4)
    a, b = in_trial_order(source, rng.permutation(len(source))), in_trial_order(target, rng.permutation(len(target)))
    r = reader(source)
    once, again = order_preserving(source, target, r), order_preserving(a, b, r)
    np.testing.assert_array_equal(once.matched, again.matched)
    np.testing.assert_allclose(once.read_in.weight, again.read_in.weight)
    np.testing.assert_allclose(once.read_in.gain, again.read_in.gain, rtol=1e-5)
    assert once.record["confidence"] == pytest.approx(again.record["confidence"])


def test_identity_is_re_normalisation_and_wants_the_same_labels(drifted: Turnover) -> None:
    source, target, _ = drifted
    r = reader(source)
    made = identity(source, target, r)
    np.testing.assert_array_equal(made.read_in.gain, renormalise(r, target).gain)
    np.testing.assert_array_equal(made.read_in.weight, r.weight)
    with pytest.raises(MismatchError, match="channel labels in their order"):
        identity(source, replace(target, channels=("other", *target.channels[1:])), r)


def test_in_order_is_the_best_of_all_matchings_in_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.normal(-1, 3, (4, 5))
        most = max(
            sum(scores[i, j] - GAP for i, j in zip(rows, columns, strict=True))
            for k in range(5)
            for rows in combinations(range(4), k)
            for columns in combinations(range(5), k)
        )
        matched = in_order(scores)
        j = np.flatnonzero(matched >= 0)
        assert (np.diff(matched[j]) > 0).all()
        assert (scores[matched[j], j] - GAP).sum() == pytest.approx(most)


def test_days_that_cannot_be_compared_are_refused(drifted: Turnover) -> None:
    source, target, _ = drifted
    r = reader(source)
    with pytest.raises(MismatchError, match=r"bins of 0.05 s as on the source day, found 0.02 s"):
        order_preserving(source, replace(target, bin_s=0.02), r)
    with pytest.raises(MismatchError, match="expected 95 channels as in the read-in, found 96"):
        order_preserving(source, target, ReadIn(r.mean[1:], r.gain[1:], r.weight[1:], r.bias))
    with pytest.raises(AlignmentError, match=r"calibration trials: expected at least 2 .* found 1"):
        order_preserving(source, in_trial_order(target, np.array([0])), r)


def test_a_silent_day_matches_without_a_number_that_is_not_finite(drifted: Turnover) -> None:
    source, target, _ = drifted
    silent = replace(target, counts=tuple(np.zeros_like(t) for t in target.counts))
    assert order_preserving(source, silent, reader(source)).read_in.finite()
