from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from bci_align.alignment.erdiff import align, renormalise
from bci_align.alignment.gate import judge
from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig, GateConfig
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.score import evaluate
from bci_align.models.encoder import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled

QUICK = AlignConfig(steps=30)
Days = tuple[Session, Session]


@pytest.fixture(scope="module")
def calibration(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    day = small_days[1]
    return unlabelled(day, day.rewarded()[:25], small_bundle.manifest.run_in)


def test_the_type_that_aligners_receive_has_no_labels() -> None:
    assert {f.name for f in fields(UnlabelledTrials)} == {"counts", "run_in", "bin_s", "channels"}


def test_alignment_recovers_a_drifted_day(small_bundle: Bundle, small_days: Days, calibration: UnlabelledTrials) -> None:
    later = small_days[1].rewarded()[25:]
    before = evaluate(small_bundle, small_days[1], later)["r2"]
    aligned = align(small_bundle, calibration, QUICK, 0)
    after = evaluate(replace(small_bundle, read_in=aligned.read_in), small_days[1], later)["r2"]
    assert after > before + 5


def test_only_the_read_in_moves_and_the_same_seed_gives_the_same(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    a, b = align(small_bundle, calibration, QUICK, 0), align(small_bundle, calibration, QUICK, 0)
    np.testing.assert_array_equal(a.read_in.weight, b.read_in.weight)
    assert a.record == b.record
    start = renormalise(small_bundle.read_in, calibration)
    np.testing.assert_array_equal(a.read_in.mean, start.mean)
    assert a.record["steps"] > 0
    assert not np.array_equal(a.read_in.weight, start.weight)
    curve = a.record["objective"]
    assert a.record["steps"] == min(curve, key=lambda c: c[1])[0]


def test_no_steps_is_re_normalisation(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    read_in = align(small_bundle, calibration, AlignConfig(steps=0), 0).read_in
    start = renormalise(small_bundle.read_in, calibration)
    for f in fields(ReadIn):
        np.testing.assert_array_equal(getattr(read_in, f.name), getattr(start, f.name))


def test_the_order_of_trials_does_not_matter(small_bundle: Bundle, small_days: Days, calibration: UnlabelledTrials) -> None:
    """Nothing pairs source and target trials by index: a permuted block gives the same score within the noise of seeds."""
    later = small_days[1].rewarded()[25:]
    order = np.random.default_rng(0).permutation(len(calibration))
    shuffled = replace(calibration, counts=tuple(calibration.counts[i] for i in order))
    scores = [
        evaluate(replace(small_bundle, read_in=align(small_bundle, c, QUICK, s).read_in), small_days[1], later)["r2"]
        for c, s in ((calibration, 0), (calibration, 1), (shuffled, 0))
    ]
    assert max(scores) - min(scores) < 5


def test_kl_is_zero_for_the_source_and_grows_with_collapse() -> None:
    z = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T, correction=0))).T
    assert float(gaussian_kl_to_source(z)) == pytest.approx(0, abs=1e-3)
    values = [float(gaussian_kl_to_source(z * s)) for s in (1.0, 0.5, 0.1, 0.01)]
    assert values == sorted(values)
    # N(m, 1) against N(0, 1): m^2 / 2 per dimension
    assert float(gaussian_kl_to_source(z + 2.0)) == pytest.approx(8.0, rel=1e-2)


def test_other_channels_other_bins_or_too_few_trials_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    renamed = ("other", *calibration.channels[1:])
    with pytest.raises(MismatchError, match="channel 0: expected label"):
        align(small_bundle, replace(calibration, channels=renamed), QUICK, 0)
    with pytest.raises(MismatchError, match=r"expected bins of 0.05 s as in the bundle, found 0.02 s"):
        align(small_bundle, replace(calibration, bin_s=0.02), QUICK, 0)
    with pytest.raises(AlignmentError, match="expected at least 5 calibration trials, found 2"):
        align(small_bundle, replace(calibration, counts=calibration.counts[:2]), QUICK, 0)
    short = tuple(t[:12] for t in calibration.counts)
    with pytest.raises(AlignmentError, match="bins or more, found 0"):
        align(small_bundle, replace(calibration, counts=short), QUICK, 0)


def test_the_gate_lets_a_good_candidate_through(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    candidate = align(small_bundle, calibration, QUICK, 0).read_in
    verdict = judge(small_bundle, small_bundle.read_in, candidate, calibration, GateConfig())
    assert verdict.accepted, verdict.reason
    assert [c["name"] for c in verdict.checks][:3] == ["finite weights", "calibration trials", "prior denoising loss"]


def test_the_gate_refuses_bad_candidates_and_says_why(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    r, config = small_bundle.read_in, GateConfig()
    good = renormalise(r, calibration)
    broken = replace(good, weight=np.full_like(good.weight, np.nan))
    assert "finite weights" in judge(small_bundle, r, broken, calibration, config).reason
    few = replace(calibration, counts=calibration.counts[:4])
    assert "calibration trials 4" in judge(small_bundle, r, good, few, config).reason
    collapsed = replace(good, gain=good.gain * 0.02)
    verdict = judge(small_bundle, r, collapsed, calibration, config)
    assert not verdict.accepted
    assert "spread of vx" in verdict.reason
    scrambled = replace(good, weight=3 * np.random.default_rng(0).permutation(good.weight))
    verdict = judge(small_bundle, good, scrambled, calibration, config)
    assert not verdict.accepted
    assert "prior denoising loss" in verdict.reason


def test_a_channel_that_was_silent_on_the_source_day_stays_silent(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    r = small_bundle.read_in
    gain = r.gain.copy()
    gain[3] = 0
    assert renormalise(replace(r, gain=gain), calibration).gain[3] == 0
    assert renormalise(r, calibration).gain[3] > 0
