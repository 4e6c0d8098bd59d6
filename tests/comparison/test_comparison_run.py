from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bci_align.alignment.registration.matching import read_in_of
from bci_align.alignment.start import renormalise
from bci_align.comparison import run as module
from bci_align.comparison.methods import Fitted, Task, methods, reordered
from bci_align.comparison.pairs import Pair
from bci_align.comparison.run import one, run
from bci_align.comparison.statistics import Truth, r2
from bci_align.comparison.summary import summarise
from bci_align.config import TrainConfig
from bci_align.errors import AlignmentError
from bci_align.evaluation.score import evaluate

CALIBRATION = 25


def plain(bundle, trials, seed):
    """Ours, for once: re-normalisation."""
    return renormalise(bundle.read_in, trials)


def broken(bundle, trials, seed):
    raise AlignmentError("nothing to offer")


def defect(bundle, trials, seed):
    raise KeyError("oops")


@pytest.fixture(scope="module")
def pair(small_days, small_bundle):
    config = TrainConfig.model_validate(small_bundle.manifest.training["config"])
    return Pair("simulated", *small_days, CALIBRATION, (5, CALIBRATION), config)


@pytest.fixture(scope="module")
def bundles(small_bundle, tmp_path_factory):
    """A folder in which seed 0 is trained already."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "simulated-0").symlink_to(small_bundle.path)
    return folder


@pytest.fixture(scope="module")
def done(pair, bundles):
    return one(pair, {"ours": plain, "worse": broken, "bug": defect}, 0, bundles, ("none", "renormalise", "running"))


def found(seed, name, trials=CALIBRATION):
    return next(o for o in seed.outcomes if (o.method, o.trials) == (name, trials))


def test_scores_are_those_of_evaluate(done, small_bundle, small_days):
    day = small_days[1]
    later = day.rewarded()[CALIBRATION:]
    assert float(r2(done.truth, found(done, "none").error)) == pytest.approx(evaluate(small_bundle, day, later)["r2"])
    assert found(done, "none").error.shape == (len(later), 2)


def test_the_same_method_under_two_names_has_the_same_scores(done):
    for trials in (5, CALIBRATION):
        ours, rival = found(done, "ours", trials), found(done, "renormalise", trials)
        assert np.array_equal(ours.error, rival.error)
        assert (ours.prior_loss, ours.gaussian_kl) == (rival.prior_loss, rival.gaussian_kl)
    assert not np.array_equal(found(done, "ours", 5).error, found(done, "ours").error)
    assert found(done, "running").prior_loss is None  # a map of counts, no read-in
    assert found(done, "running").error is not None


def test_a_method_that_fails_costs_nobody_else_s_result(done, pair):
    assert found(done, "worse").failed == "nothing to offer"
    assert found(done, "bug").failed == "KeyError: 'oops'"
    s = summarise(pair, [done], draws=50)
    assert s.row("worse", CALIBRATION).failed == 1
    assert s.row("worse", CALIBRATION).r2 is None
    assert len(s.failures) == 4  # two methods, two numbers of trials
    assert set(s.headlines) == {"ours"}


def test_supervised_refits_rise_to_the_oracle(done, pair):
    s = summarise(pair, [done], draws=50)
    refits = [r for r in s.rows if r.kind == "supervised"]
    assert [(r.method, r.trials) for r in refits] == [
        ("supervised (5)", 5),
        ("supervised (10)", 10),
        ("supervised (20)", 20),
        ("supervised (all)", CALIBRATION),
    ]
    assert refits[-1].mean > refits[0].mean
    assert refits[-1].of_oracle == pytest.approx(1.0)
    assert refits[-1].recovered == pytest.approx(1.0)
    again = s.row("renormalise", CALIBRATION)
    assert again.worst_gain == 0.0
    assert again.recovered == 0.0


def test_headlines_of_equal_methods(done, pair):
    s = summarise(pair, [done], draws=100)
    assert s.best_rival in ("renormalise", "running")
    lines = {h.name: h for h in s.headlines["ours"]}
    first = lines["R2 (%)"]
    assert first.ours == pytest.approx(s.row("ours", CALIBRATION).mean)
    assert first.ours_interval[0] < first.ours < first.ours_interval[1]
    assert first.difference == pytest.approx(first.ours - first.rival)
    assert lines["R2 / oracle"].ours == pytest.approx(s.row("ours", CALIBRATION).of_oracle)


def test_methods_see_the_first_trials_without_labels(pair, small_bundle, tmp_path, small_days):
    seen = []

    def watching(bundle, trials, seed):
        seen.append(trials)
        return bundle.read_in

    task = Task(pair, small_bundle, 0, tmp_path)
    for method in methods(task, {"ours": watching}):
        if method.kind == "ours":
            method.fit()
    day = small_days[1]
    assert [len(t) for t in seen] == [5, CALIBRATION]
    first, stop = day.trial_bins(int(day.rewarded()[4]))
    assert np.array_equal(seen[0].bodies()[4], day.counts[first:stop])
    assert not hasattr(seen[0], "kinematics")
    assert set(task.scored) == set(day.rewarded()) - set(day.rewarded()[:CALIBRATION])


def test_without_kinematics_the_scores_are_label_free(pair, bundles):
    blind = replace(pair, target=replace(pair.target, kinematics=None, kinematics_names=(), kinematics_units=()))
    got = one(blind, {"ours": plain}, 0, bundles, ("none", "renormalise"))
    assert got.truth is None
    assert {o.kind for o in got.outcomes} == {"ours", "rival"}
    assert all(o.error is None and o.failed is None and o.prior_loss > 0 and o.gaussian_kl > 0 for o in got.outcomes)
    s = summarise(blind, [got], draws=50)
    assert not s.headlines and not s.failures
    assert s.row("ours", CALIBRATION).gaussian_kl < s.row("none", CALIBRATION).gaussian_kl
    assert {"source", "before", "after"} == set(got.latents)


@pytest.fixture(scope="module")
def turned(pair):
    """The same target day with three channels lost, one gained, and other labels."""
    kept = [i for i in range(32) if i not in (3, 11, 20)]
    counts = np.concatenate([pair.target.counts[:, kept], pair.target.counts[::-1, [0]]], axis=1)
    labels = tuple(f"unit{i}" for i in range(counts.shape[1]))
    return replace(pair, target=replace(pair.target, counts=counts, channels=labels), unlabelled_counts=(CALIBRATION,))


def test_other_channels_are_matched_for_rivals_and_given_raw_to_ours(turned, bundles, small_bundle):
    def own(bundle, trials, seed):
        kept = [i for i in range(32) if i not in (3, 11, 20)]
        return SimpleNamespace(
            read_in=read_in_of(np.array([*kept, -1]), bundle.read_in, trials), channels=trials.channels, record={"a": 1}
        )

    got = one(turned, {"ours": own, "other": plain}, 0, bundles, ("renormalise",))
    assert "expected a read-in" in found(got, "other").failed or "broadcast" in found(got, "other").failed
    ours, rival = found(got, "ours"), found(got, "renormalise")
    assert ours.record == {"a": 1}
    assert float(r2(got.truth, ours.error)) > 20
    assert float(r2(got.truth, rival.error)) > 20
    assert rival.seconds > 0  # with the matching
    assert all(o.failed is None for o in got.outcomes if o.kind == "supervised")


def test_a_read_in_of_other_channels_decodes_as_the_same_one_in_the_source_s(turned, small_bundle, tmp_path):
    task = Task(turned, small_bundle, 0, tmp_path)
    matched = np.array([*(i for i in range(32) if i not in (3, 11, 20)), -1])
    day = reordered(turned.target, matched, small_bundle.manifest.channels)
    assert day.channels == small_bundle.manifest.channels
    assert not day.counts[:, [3, 11, 20]].any()
    assert np.array_equal(day.counts[:, 31], turned.target.counts[:, 28])
    assert day.kinematics is turned.target.kinematics
    here = Fitted(small_bundle, read_in_of(matched, small_bundle.read_in, task.calibration(25)), turned.target, 0.0)
    there = Fitted(small_bundle, renormalise(small_bundle.read_in, task.calibration(25, day)), day, 0.0)
    assert np.allclose(here.decode(), there.decode(), atol=1e-4)


def test_a_core_that_moved_with_the_read_in_decodes(pair, small_bundle, tmp_path):
    """An ablation may move more than the read-in; what it moved is what is scored."""
    task = Task(pair, small_bundle, 0, tmp_path)

    def still(bundle, trials, seed):
        return SimpleNamespace(read_in=bundle.read_in, channels=trials.channels, record={}, core=bundle.models()[0])

    def shifted(bundle, trials, seed):
        made = still(bundle, trials, seed)
        made.core.core.centre += 1.0
        return made

    one_of = {m.name: m for m in methods(task, {"still": still, "shifted": shifted}, ("none",)) if m.trials == CALIBRATION}
    a, b, c = (one_of[name].fit().decode() for name in ("still", "shifted", "none"))
    assert np.allclose(a, c, atol=1e-5)
    assert not np.allclose(b, c, atol=0.1)


def test_a_day_with_gaps_starts_anew_after_each(small_bundle, small_days):
    day = small_days[1]
    at = day.trial_bins(8)[0]
    gap = Fitted(small_bundle, small_bundle.read_in, replace(day, breaks=(at,)), 0.0).decode()
    cut = Fitted(small_bundle, small_bundle.read_in, replace(day, counts=day.counts[at:]), 0.0).decode()
    assert np.array_equal(gap[at:], cut)


def test_a_seed_that_cannot_be_trained_is_a_row(pair, bundles):
    """In the same run as one that can, in two worker processes."""
    (bundles / "simulated-1").mkdir(exist_ok=True)
    told = []
    both = run([pair], {"ours": plain}, 2, 2, lambda *a: told.append(a), bundles, ("renormalise",))
    assert [s.failed is None for s in both] == [True, False]
    assert "manifest.json" in both[1].failed
    assert told == [("pairs x seeds", 1, 2), ("pairs x seeds", 2, 2)]
    s = summarise(pair, both, draws=50)
    assert s.row("ours", CALIBRATION).seeds == (0,)
    assert len(s.failures) == 1 and s.failures[0].startswith("seed 1: ")


def test_a_bundle_of_another_training_is_not_taken(pair, bundles):
    got = one(replace(pair, train=pair.train.model_copy(update={"epochs": 26})), {"ours": plain}, 0, bundles, ())
    assert "found one trained otherwise" in got.failed


def test_a_defect_shows_its_kind(pair, bundles, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(module, "_bundle", fail)
    assert one(pair, {"ours": plain}, 0, bundles, ()).failed == "ZeroDivisionError: by zero"


def test_a_method_that_failed_with_one_seed_is_averaged_over_the_others(done, pair):
    lame = replace(
        done, seed=1, outcomes=tuple(replace(o, error=None, failed="no") if o.method == "ours" else o for o in done.outcomes)
    )
    s = summarise(pair, [done, lame], draws=50)
    row = s.row("ours", CALIBRATION)
    assert (row.seeds, row.failed) == ((0,), 1)
    assert s.headlines["ours"][0].ours == pytest.approx(row.mean)
    assert isinstance(done.truth, Truth)
