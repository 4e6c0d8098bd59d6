import dataclasses
from functools import cache

import numpy as np
import pytest

from bci_align.session.types import Session, UnlabelledTrials, unlabelled, validate
from bci_align_sim.scenario_days import (
    RUN_IN,
    Plan,
    RecordedSubject,
    SimulatedSubject,
    recorded_plans,
    simulated_plans,
    subject_seeds,
)
from bci_align_sim.scenarios import MAKERS, Material, Scenario

pytestmark = pytest.mark.computes

SUBJECT = SimulatedSubject(900, channels=24)
BAD = [m for m in MAKERS.values() if m.kind != "good"]


@cache
def pair(name: str, seed: int = 3, earlier: bool = False) -> tuple[Material, Scenario]:
    """The material of a scenario, untouched, and the scenario."""
    maker = MAKERS[name]
    material = SUBJECT.material(maker, seed, 0.5, earlier)
    return material, maker(material, seed)


def plain_calibration(m: Material) -> UnlabelledTrials:
    return unlabelled(m.target, m.calibration, m.run_in)


def stacked(trials: UnlabelledTrials) -> np.ndarray:
    return np.concatenate(trials.bodies())


def same_day(a: Session, b: Session) -> bool:
    return np.array_equal(a.counts, b.counts) and np.array_equal(a.kinematics, b.kinematics)


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_scenario_is_sound_and_its_calibration_holds_counts_alone(name: str) -> None:
    m, s = pair(name)
    assert s.name == name and s.kind == MAKERS[name].kind
    assert type(s.calibration) is UnlabelledTrials
    assert {f.name for f in dataclasses.fields(UnlabelledTrials)} == {"counts", "run_in", "bin_s", "channels"}
    assert s.calibration.channels == m.target.channels == s.later.channels
    for x, r in zip(s.calibration.counts, s.calibration.run_in, strict=True):
        assert x.dtype == np.float32 and x.min() >= 0 and (x == x.round()).all() and 0 <= r < len(x)
    validate(s.later)
    assert s.later.trials.success[s.later_trials].all() and len(s.later_trials) >= 30
    # What is scored comes after what was calibrated on.
    if name not in ("another animal",):
        assert s.later_trials.min() > m.calibration.max()


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_same_seed_gives_the_same_bits_and_another_one_other_data(name: str) -> None:
    maker = MAKERS[name]
    again = maker(SUBJECT.material(maker, 3, 0.5, False), 3)
    other = maker(SUBJECT.material(maker, 4, 0.5, False), 4)
    s = pair(name)[1]
    assert all(np.array_equal(a, b) for a, b in zip(s.calibration.counts, again.calibration.counts, strict=True))
    assert same_day(s.later, again.later) and np.array_equal(s.later_trials, again.later_trials)
    assert not np.array_equal(stacked(s.calibration), stacked(other.calibration))
    assert not np.array_equal(s.later.counts, other.later.counts)


@pytest.mark.parametrize("name", ["permuted", "reversed", "swapped pairs"])
def test_rewiring_moves_whole_channels_before_and_after(name: str) -> None:
    m, s = pair(name)
    before = {x.tobytes(): i for i, x in enumerate(m.target.counts.T.copy())}
    wiring = [before[x.tobytes()] for x in s.later.counts.T.copy()]
    assert sorted(wiring) == list(range(24))
    np.testing.assert_array_equal(stacked(s.calibration), stacked(plain_calibration(m))[:, wiring])
    moved = np.flatnonzero(np.array(wiring) != np.arange(24))
    if name == "permuted":
        assert len(moved) == 24
    elif name == "reversed":
        assert wiring == list(range(24))[::-1]
    else:
        assert 6 <= len(moved) <= 18
        assert all(wiring[wiring[i]] == i for i in moved)


def test_half_of_the_array_is_dead_later_too() -> None:
    for seed in range(3, 9):
        m, s = pair("half dead", seed)
        dead = (s.later.counts == 0).all(0)
        assert (dead | (m.target.counts == 0).all(0) == dead).all() and dead.sum() >= 12
        assert stacked(s.calibration)[:, dead].sum() == 0
        np.testing.assert_array_equal(s.later.counts[:, ~dead], m.target.counts[:, ~dead])


def test_another_animals_day_is_its_own_and_scored_on_it() -> None:
    m, s = pair("another animal")
    assert m.other is not None and same_day(s.later, m.other) and not same_day(s.later, m.target)
    np.testing.assert_array_equal(
        stacked(s.calibration), stacked(unlabelled(s.later, s.later.rewarded()[: len(s.calibration)], RUN_IN))
    )
    assert s.later_trials.min() > s.later.rewarded()[len(s.calibration) - 1]


def test_two_trials_are_two() -> None:
    m, s = pair("two trials")
    assert len(s.calibration) == 2 and same_day(s.later, m.target)


def test_one_direction_is_calibrated_on_and_all_are_scored() -> None:
    m, s = pair("one direction")
    targets = m.target.trials.target
    bodies = {x.tobytes(): i for i, x in zip(m.calibration, plain_calibration(m).bodies(), strict=True)}
    used = [bodies[x.tobytes()] for x in s.calibration.bodies()]
    assert len(used) >= 10
    assert len(np.unique(targets[used].round(3), axis=0)) == 1
    assert len(np.unique(targets[s.later_trials].round(3), axis=0)) == 8
    chosen = {tuple(pair("one direction", k)[1].calibration.counts[0].shape) for k in range(3, 6)}
    assert len(chosen) > 1  # not always the same one


def test_gains_drift_after_calibration_and_not_before() -> None:
    m, s = pair("gain drift")
    np.testing.assert_array_equal(stacked(s.calibration), stacked(plain_calibration(m)))
    end = m.target.trial_bins(int(m.later[-1]))[1]
    loud = m.target.counts.mean(0) > 0.1

    def log_gain(first: int, stop: int) -> np.ndarray:
        return np.log((s.later.counts[first:stop, loud].sum(0) + 1) / (m.target.counts[first:stop, loud].sum(0) + 1))

    begin = m.target.trial_bins(int(m.calibration[-1]))[1]
    early, late = log_gain(begin, begin + 300), log_gain(end - 300, end)
    assert early.std() < 0.4 < 0.6 < late.std()
    assert late.max() > 0.5 and late.min() < -0.5  # gained here, lost there


def test_noise_keeps_the_rates_and_nothing_else() -> None:
    m, s = pair("noise")
    was, now = stacked(plain_calibration(m)), stacked(s.calibration)
    assert same_day(s.later, m.target)
    np.testing.assert_allclose(now.mean(0), was.mean(0), atol=5 * np.sqrt(was.mean(0).max() / len(was)))
    loud = was.mean(0) > 0.1
    factor = now[:, loud].var(0) / now[:, loud].mean(0)
    assert np.abs(factor - 1).max() < 0.25  # Poisson
    bound = 5 / np.sqrt(len(now))
    between = np.corrcoef(now[:, loud].T) - np.eye(loud.sum())
    assert np.abs(between).max() < bound < np.abs(np.corrcoef(was[:, loud].T) - np.eye(loud.sum())).max()
    z = now[:, loud] - now[:, loud].mean(0)
    assert np.abs((z[1:] * z[:-1]).mean(0) / z.var(0)).max() < bound  # and white


def test_shuffled_bins_keep_each_trial_but_not_its_order() -> None:
    m, s = pair("shuffled bins")
    assert same_day(s.later, m.target)
    moved = 0
    for was, now in zip(plain_calibration(m).counts, s.calibration.counts, strict=True):
        np.testing.assert_array_equal(was[np.lexsort(was.T)], now[np.lexsort(now.T)])
        moved += not np.array_equal(was, now)
    assert moved == len(s.calibration)


def test_saturated_channels_stand_still_at_their_most() -> None:
    m, s = pair("saturated")
    was, now = np.concatenate(plain_calibration(m).counts), np.concatenate(s.calibration.counts)
    stuck = (now == now[0]).all(0) & (was.max(0) > 0)
    assert 7 - 2 <= stuck.sum() <= 22
    np.testing.assert_array_equal(now[0, stuck], was.max(0)[stuck])
    np.testing.assert_array_equal(now[:, ~stuck], was[:, ~stuck])
    assert same_day(s.later, m.target)


@pytest.mark.parametrize(("name", "stays"), [("mains", False), ("mains to stay", True)])
def test_mains_adds_the_same_to_every_channel(name: str, stays: bool) -> None:
    m, s = pair(name)
    added = stacked(s.calibration) - stacked(plain_calibration(m))
    assert (added == added[:, :1]).all() and added.min() >= 0 and 0.8 < added.mean() < 5
    # In beats of 0.7 Hz: half a period later the artefact is at its other extreme.
    later = s.later.counts - m.target.counts
    assert (later.max() > 0) == stays
    if stays:
        beat = later[:, 0] - later[:, 0].mean()
        half = round(0.5 / 0.7 / m.target.bin_s)
        assert (beat[half:] * beat[:-half]).mean() < -0.2 * beat.var()


def test_a_mixture_is_of_both_days() -> None:
    m, s = pair("mixture")
    assert m.other is not None
    today = [x.tobytes() for x in plain_calibration(m).counts]
    theirs = {x.tobytes() for x in unlabelled(m.other, m.other.rewarded(), RUN_IN).counts}
    own = [x.tobytes() == t for x, t in zip(s.calibration.counts, today, strict=True)]
    assert 0 < sum(own) < len(own)
    assert all(x.tobytes() in theirs for x, mine in zip(s.calibration.counts, own, strict=True) if not mine)
    assert same_day(s.later, m.target)


def rate_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.log((a.mean(0) + 0.02) / (b.mean(0) + 0.02))).mean())


def test_without_drift_the_array_is_the_source_days_or_the_earlier_generations() -> None:
    source = SUBJECT.source.counts
    _, fresh = pair("no drift")
    _, again = pair("no drift", earlier=True)
    _, drifted = pair("drift")
    assert fresh.earlier is None and again.earlier is not None
    assert rate_distance(fresh.later.counts, source) < 0.1 < 0.2 < rate_distance(drifted.later.counts, source)
    assert rate_distance(again.later.counts, stacked(again.earlier)) < 0.15 < 0.2 < rate_distance(again.later.counts, source)


def test_an_earlier_generation_stands_half_way() -> None:
    _, s = pair("drift", earlier=True)
    assert s.earlier is not None
    past = stacked(s.earlier)
    assert 0.05 < rate_distance(past, s.later.counts) < rate_distance(SUBJECT.source.counts, s.later.counts)


def test_plans_make_distinct_scenarios_and_a_third_have_an_earlier_incumbent() -> None:
    plans = simulated_plans(["a", "b", "c"], bad=3, good=12)
    assert len(set(plans)) == len(plans) == 3 * (3 * len(BAD) + 12)
    assert sum(p.earlier for p in plans) == pytest.approx(len(plans) / 3, abs=1)
    assert {p.maker for p in plans if p.earlier} == set(MAKERS)  # no maker is always left out
    levels = [p.level for p in plans if p.maker == "drift"]
    assert len(set(levels)) == 36 and min(levels) < 0.25 and max(levels) > 0.85 and min(levels) >= 0.2 and max(levels) <= 0.9
    subjects = {"a": SUBJECT}
    some = [Plan("drift", "a", k, 0.5) for k in (0, 1)] + [Plan("no drift", "a", k) for k in (0, 1)]
    seen = {np.concatenate(p.make(subjects).calibration.counts).tobytes() for p in some}
    assert len(seen) == 4


def test_thresholds_are_chosen_on_other_subjects_than_are_reported() -> None:
    development, reported = set(subject_seeds(True)), set(subject_seeds(False))
    assert not development & reported and min(reported) >= 500 and development <= set(range(100, 111))


def test_recorded_days_give_runs_of_trials_and_source_trials_nobody_trained_on() -> None:
    source = SUBJECT.source
    target = SUBJECT.material(MAKERS["one direction"], 1, 0.4, False).target
    held_out = source.rewarded()[::4]
    recorded = RecordedSubject(source, target, held_out, good=(40, 80))
    for plan in recorded_plans("x", good=6):
        maker = MAKERS[plan.maker]
        m = recorded.material(maker, plan.seed, None, plan.earlier)
        if maker.kind == "no drift" and not plan.earlier:
            assert m.target is source and m.earlier is None
            assert sorted([*m.calibration, *m.later]) == sorted(held_out)
            continue
        assert m.target is target and (m.earlier is not None) == plan.earlier and len(m.later) == 40
        at = np.searchsorted(target.rewarded(), np.concatenate([m.calibration, m.later]))
        assert (np.diff(at) == 1).all()
        assert at[0] >= 30 * plan.earlier
        if maker.kind == "good":
            assert 40 <= len(m.calibration) <= 80 and not plan.earlier
