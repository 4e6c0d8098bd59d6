from dataclasses import replace

import numpy as np
import pytest

from bci_align.bundle.store import Bundle
from bci_align.errors import MismatchError
from bci_align.evaluation.metrics import r2, r2_per_output, rmse
from bci_align.evaluation.replayed import score_replay
from bci_align.evaluation.score import evaluate, score_outputs
from bci_align.session.types import Session

Days = tuple[Session, Session]


def test_metrics_by_hand() -> None:
    truth = np.array([[0.0, 0.0], [2.0, 4.0], [4.0, 8.0]])
    assert r2(truth, truth) == 100
    assert r2(truth, np.tile(truth.mean(0), (3, 1))) == 0
    decoded = truth + np.array([1.0, 0.0])
    assert r2(truth, decoded) == pytest.approx(100 * (1 - 3 / 40))
    assert r2_per_output(truth, decoded) == [pytest.approx(100 * (1 - 3 / 8)), 100]
    assert rmse(truth, decoded) == 1
    # a lost bin is worth the mean, not nothing
    decoded = truth.copy()
    decoded[0] = np.nan
    assert r2(truth, decoded) == pytest.approx(100 * (1 - 20 / 40))


def test_evaluate_scores_only_the_named_trials(small_bundle: Bundle, small_days: Days) -> None:
    day = small_days[0]
    trials = day.rewarded()[3:9]
    scores = evaluate(small_bundle, day, trials)
    assert scores["trials"] == 6
    assert scores["bins"] == sum(stop - first for first, stop in (day.trial_bins(int(i)) for i in trials))
    assert set(scores) >= {"r2", "r2_per_output", "rmse", "bins", "trials"}
    outputs = np.full((day.bins, 2), np.nan)
    assert score_outputs(small_bundle, day, trials, np.nan_to_num(outputs))["r2"] <= 0
    lost = small_bundle.pipeline().run(day.counts.astype(np.float32), small_bundle.read_in)
    first, _ = day.trial_bins(int(trials[0]))
    lost[first : first + 4] = np.nan
    assert score_outputs(small_bundle, day, trials, lost)["lost"] == 4


def test_decoding_starts_anew_after_a_gap(small_bundle: Bundle, small_days: Days) -> None:
    """A trial that begins at a break is decoded as if nothing had come before it."""
    day = small_days[0]
    trial = int(day.rewarded()[5])
    first, stop = day.trial_bins(trial)
    outputs = small_bundle.pipeline().run(day.counts[first:stop].astype(np.float32), small_bundle.read_in)
    lonely = np.zeros((day.bins, 2))
    lonely[first:stop] = outputs
    only = np.array([trial])
    scored = evaluate(small_bundle, replace(day, breaks=(first,)), only)
    assert scored == score_outputs(small_bundle, day, only, lonely)
    assert scored != evaluate(small_bundle, day, only)


def test_a_session_of_another_rig_is_refused(small_bundle: Bundle, small_days: Days) -> None:
    day = small_days[1]
    trials = day.rewarded()
    with pytest.raises(MismatchError, match="expected 32 channels as in the bundle, found 31"):
        evaluate(small_bundle, replace(day, counts=day.counts[:, 1:], channels=day.channels[1:]), trials)
    swapped = (day.channels[1], day.channels[0], *day.channels[2:])
    with pytest.raises(MismatchError, match=r"channel 0: expected label"):
        evaluate(small_bundle, replace(day, channels=swapped), trials)
    with pytest.raises(MismatchError, match=r"expected bins of 0\.05 s"):
        evaluate(small_bundle, replace(day, bin_s=0.1), trials)
    with pytest.raises(MismatchError, match="kinematics: expected vx, vy to score against, found none"):
        evaluate(small_bundle, replace(day, kinematics=None, kinematics_names=(), kinematics_units=()), trials)


def test_an_answer_that_is_no_number_never_counts_as_equal(small_bundle: Bundle, small_days: Days) -> None:
    day = small_days[1]
    outputs = small_bundle.pipeline().run(day.counts.astype(np.float32), small_bundle.read_in)
    generation = np.zeros(day.bins, np.int64)
    assert score_replay(small_bundle, day, outputs, generation, [])["live_minus_offline"] == 0
    outputs[500:] = np.nan
    assert score_replay(small_bundle, day, outputs, generation, [])["live_minus_offline"] == np.inf
