"""The gate: a good candidate passes it, and every check is the one that stops some bad one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bci_align.alignment.erdiff import align
from bci_align.alignment.evidence import agreement, common, evidence, likeness
from bci_align.alignment.gate import Verdict, judge, stuck_channels
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig, GateConfig
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align_sim.day import simulate_tunings
from bci_align_sim.drift import Drift, apply
from bci_align_sim.task import record_day

Days = tuple[Session, Session]
FINITE, TRIALS, STUCK = "finite weights", "calibration trials", "channels stuck at one count"
UNSTEADY = "common deviation of trials, over the source's"
AGREEMENT = "agreement of the channels' tuning with the source day's"
INFORMATION = "what channels say of each other, over the source's"
HALVES = "agreement of two halves of the channels on the movement, over the source's"
KL = "Gaussian KL of the latents to the source's (nats)"
DIVERSITY = "spread between trials over the source's"
SPREAD = ["spread of vx over the source's", "spread of vy over the source's"]
PRIOR, ALIKE = "prior denoising loss", "likeness to the incumbent's output"
TO_VX, TO_VY = (f"agreement of the channels' tuning to {name} with the source day's" for name in ("vx", "vy"))
EVERY = [FINITE, TRIALS, STUCK, UNSTEADY, AGREEMENT, INFORMATION, HALVES, KL, DIVERSITY, *SPREAD, PRIOR, ALIKE, TO_VX, TO_VY]


@pytest.fixture(scope="module")
def calibration(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    day = small_days[1]
    return unlabelled(day, day.rewarded()[:25], small_bundle.manifest.run_in)


@pytest.fixture(scope="module")
def good(small_bundle: Bundle, calibration: UnlabelledTrials) -> ReadIn:
    return align(small_bundle, calibration, AlignConfig(), 0).read_in


def failed(verdict: Verdict) -> set[str]:
    """Names of the checks that refused; the sentence must give each of them with its value."""
    names = {c["name"] for c in verdict.checks if not c["passed"]}
    assert verdict.accepted == (not names)
    assert all(f"{c['name']} {c['value']}, expected {c['bound']}" in verdict.reason for c in verdict.checks if not c["passed"])
    return names


def value(verdict: Verdict, name: str) -> Any:
    return next(c["value"] for c in verdict.checks if c["name"] == name)


def of_channels(trials: UnlabelledTrials, which: np.ndarray) -> UnlabelledTrials:
    counts = tuple(np.ascontiguousarray(t[:, which]) for t in trials.counts)
    return replace(trials, counts=counts, channels=tuple(trials.channels[i] for i in which))


def rows(read_in: ReadIn, which: np.ndarray) -> ReadIn:
    return ReadIn(read_in.mean[which], read_in.gain[which], read_in.weight[which], read_in.bias)


def test_a_good_candidate_passes_every_check(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    verdict = judge(small_bundle, small_bundle.read_in, good, calibration, GateConfig())
    assert failed(verdict) == set(), verdict.reason
    assert verdict.reason == "every check passed"
    assert [c["name"] for c in verdict.checks] == EVERY


def test_the_source_day_passes_on_its_own_trials(small_bundle: Bundle, good: ReadIn) -> None:
    """Against an incumbent that decodes something else: beside itself every ratio is 1."""
    source = small_bundle.source_trials()
    verdict = judge(small_bundle, good, small_bundle.source_read_in(), source, GateConfig())
    assert failed(verdict) <= {ALIKE}
    for name in (UNSTEADY, AGREEMENT, INFORMATION, HALVES, DIVERSITY, *SPREAD):
        assert value(verdict, name) == pytest.approx(1.0, abs=1e-3)
    assert value(verdict, KL) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(
    small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn, number: float
) -> None:
    broken = replace(good, weight=good.weight.copy())
    broken.weight[3, 5] = number
    verdict = judge(small_bundle, small_bundle.read_in, broken, calibration, GateConfig())
    assert failed(verdict) == {FINITE}
    assert len(verdict.checks) == 2  # nothing is measured through such weights


def test_too_few_trials_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    def judged(n: int) -> set[str]:
        few = replace(calibration, counts=calibration.counts[:n], run_in=calibration.run_in[:n])
        return failed(judge(small_bundle, small_bundle.read_in, good, few, GateConfig()))

    assert judged(9) == {TRIALS}
    assert TRIALS not in judged(10)


def test_a_candidate_that_decodes_as_the_incumbent_is_refused(
    small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn
) -> None:
    assert failed(judge(small_bundle, good, good, calibration, GateConfig())) == {ALIKE}


def test_stuck_channels_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    """Re-normalisation hides them: their gain makes them as loud as any other."""

    def judged(n: int) -> set[str]:
        counts = tuple(np.where(np.arange(32) < n, 3, t).astype(np.float32) for t in calibration.counts)
        today = replace(calibration, counts=counts)
        return failed(judge(small_bundle, small_bundle.read_in, renormalise(small_bundle.read_in, today), today, GateConfig()))

    assert STUCK not in judged(3)
    assert judged(5) == {STUCK}


def test_which_channels_are_stuck() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(5.0, (400, 4)).astype(np.float32)
    x[:, 1] = 0  # silent: a dead channel, which re-normalisation deals with
    x[:220, 2] = 7  # at one count in more than half of the bins
    x[:120, 3] = 7
    trials = UnlabelledTrials((x[:150], x[150:]), (0, 0), 0.05, tuple("abcd"))
    assert stuck_channels(trials) == 1
    # What lies before a trial does not count.
    x[:] = rng.poisson(5.0, x.shape)
    x[:150, 0] = 7
    assert stuck_channels(UnlabelledTrials((x[:300], x[300:]), (150, 0), 0.05, tuple("abcd"))) == 0


def test_other_channels_under_the_same_labels_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    """A plug the wrong way round. The aligner finds most channels' tuning anew, and that it changed gives the plug away."""
    order = np.random.default_rng(0).permutation(32)
    today = replace(of_channels(calibration, order), channels=calibration.channels)
    renormalised, aligned = renormalise(small_bundle.read_in, today), align(small_bundle, today, AlignConfig(), 0).read_in
    for candidate, signs in ((renormalised, {AGREEMENT, HALVES}), (aligned, {AGREEMENT})):
        verdict = judge(small_bundle, small_bundle.read_in, candidate, today, GateConfig())
        assert failed(verdict) >= signs
        assert value(verdict, AGREEMENT) < 0.2


def test_counts_without_a_signal_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    """Poisson noise of every channel's rate: loudness, KL and the prior's loss are as on a good day."""
    rng, rate = np.random.default_rng(1), np.concatenate(calibration.counts).mean(0)
    noise = replace(calibration, counts=tuple(rng.poisson(rate, t.shape).astype(np.float32) for t in calibration.counts))
    verdict = judge(small_bundle, small_bundle.read_in, renormalise(small_bundle.read_in, noise), noise, GateConfig())
    assert failed(verdict) >= {AGREEMENT, INFORMATION}
    assert PRIOR not in failed(verdict)


def other_day(level: float, wear: int = 7) -> Session:
    """Another day of the small bundle's subject, its array worn otherwise."""
    first, _ = simulate_tunings(2, channels=32)
    return record_day(apply(first, Drift.level(level), wear), 40, wear, 0.05, "another day")


def test_trials_of_two_days_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    other = other_day(0.9)
    foreign = unlabelled(other, other.rewarded()[:25], small_bundle.manifest.run_in)
    mixed = replace(
        calibration,
        counts=tuple((a, b)[i % 2] for i, (a, b) in enumerate(zip(calibration.counts, foreign.counts, strict=True))),
        run_in=tuple((a, b)[i % 2] for i, (a, b) in enumerate(zip(calibration.run_in, foreign.run_in, strict=True))),
    )
    candidate = renormalise(small_bundle.read_in, mixed)
    verdict = judge(small_bundle, small_bundle.read_in, candidate, mixed, GateConfig())
    assert UNSTEADY in failed(verdict)


def test_a_day_that_changes_half_way_is_refused(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    """A connector that was touched: what half of the trials were aligned on is not what will come."""
    rng = np.random.default_rng(3)
    log_gain = rng.normal(0, 1.5, 32)
    counts = tuple(rng.poisson(t * np.exp(log_gain * (i > 12))).astype(np.float32) for i, t in enumerate(calibration.counts))
    today = replace(calibration, counts=counts)
    assert UNSTEADY in failed(
        judge(small_bundle, small_bundle.read_in, renormalise(small_bundle.read_in, today), today, GateConfig())
    )


def test_what_trials_have_in_common() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 30, generator=generator)
    assert common(noise) == pytest.approx(1, abs=0.2)
    assert common(torch.cat([noise, torch.zeros(40, 10)], 1)) == pytest.approx(common(noise))  # dead channels say nothing
    two = noise + torch.randn(30, generator=generator) * (torch.arange(40) % 2)[:, None]
    assert common(two) > 2
    assert common(noise[:1]) == 0


def test_movements_in_one_direction_are_refused(small_bundle: Bundle, small_days: Days) -> None:
    """Re-normalised on reaches to one side alone, that side becomes the middle."""
    day = small_days[1]
    assert day.kinematics is not None
    mean = np.array([day.kinematics[slice(*day.trial_bins(int(i)))].mean(0) for i in day.rewarded()])
    turned = np.angle((mean @ [1, 1j]) / (mean[0] @ [1, 1j]))
    same = np.sort(day.rewarded()[np.argsort(np.abs(turned))[:12]])
    today = unlabelled(day, same, small_bundle.manifest.run_in)
    verdict = judge(small_bundle, small_bundle.read_in, renormalise(small_bundle.read_in, today), today, GateConfig())
    assert DIVERSITY in failed(verdict)


def test_a_collapsed_candidate_is_refused(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    quiet = replace(good, gain=good.gain * 0.02)
    verdict = judge(small_bundle, small_bundle.read_in, quiet, calibration, GateConfig())
    assert failed(verdict) >= {KL, DIVERSITY, *SPREAD}
    assert PRIOR not in failed(verdict)  # to which no latents at all are likely ones


def test_latents_that_are_none_are_refused(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    loud = replace(good, weight=3 * good.weight)
    assert failed(judge(small_bundle, small_bundle.read_in, loud, calibration, GateConfig())) >= {KL, PRIOR}


@pytest.mark.parametrize(
    ("limits", "refuses"),
    [
        ({"unsteady": 0.0}, {UNSTEADY}),
        ({"agreement": 1.0}, {AGREEMENT}),
        ({"information": (0.0, 0.01)}, {INFORMATION}),
        ({"information": (90.0, 99.0)}, {INFORMATION}),
        ({"halves": 9.0}, {HALVES}),
        ({"kl": 0.0}, {KL}),
        ({"diversity": 50.0}, {DIVERSITY}),
        ({"spread": (0.0, 0.01)}, set(SPREAD)),
        ({"spread": (90.0, 99.0)}, set(SPREAD)),
        ({"most_alike": 0.0}, {ALIKE}),
        ({"min_trials": 26}, {TRIALS}),
    ],
)
def test_every_limit_is_its_own(
    small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn, limits: dict[str, Any], refuses: set[str]
) -> None:
    config = GateConfig.model_validate(limits)
    assert failed(judge(small_bundle, small_bundle.read_in, good, calibration, config)) == refuses


def test_the_prior_is_asked_beside_the_incumbent(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    """No worse than the incumbent by more than the margin, whichever of two is the better one."""
    today = renormalise(small_bundle.read_in, calibration)
    loss = {k: evidence(small_bundle, r, calibration).prior_loss for k, r in (("good", good), ("today", today))}
    assert loss["good"] < loss["today"]
    margin = loss["today"] / loss["good"] - 1
    for config, refuses in ((0.9 * margin, {PRIOR}), (1.1 * margin, set())):
        verdict = judge(small_bundle, good, today, calibration, GateConfig(prior_margin=config, most_alike=1.0))
        assert failed(verdict) == refuses


def test_units_are_compared_with_those_they_are_matched_to(
    small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn
) -> None:
    order = np.random.default_rng(0).permutation(32)
    today, candidate, incumbent = of_channels(calibration, order), rows(good, order), rows(small_bundle.read_in, order)
    same = judge(small_bundle, small_bundle.read_in, good, calibration, GateConfig())
    found = judge(small_bundle, incumbent, candidate, today, GateConfig(), order)
    for a, b in zip(same.checks, found.checks, strict=True):
        assert a["name"] == b["name"]
        # Groups and halves of the channels follow the order.
        near = {"rel": 0.35} if a["name"] in (UNSTEADY, AGREEMENT, INFORMATION, HALVES, TO_VX, TO_VY) else {"abs": 2e-3}
        assert a["value"] == pytest.approx(b["value"], **near)
    assert AGREEMENT in failed(judge(small_bundle, incumbent, candidate, today, GateConfig()))
    # Those without a partner are left out, and where nobody has one there is nothing to compare.
    half = np.where(np.arange(32) < 16, order, -1)
    assert AGREEMENT not in failed(judge(small_bundle, incumbent, candidate, today, GateConfig(), half))
    nobody = judge(small_bundle, incumbent, candidate, today, GateConfig(), np.full(32, -1))
    assert value(nobody, AGREEMENT) == "no channel is matched"
    assert nobody.accepted


def test_an_output_that_has_come_to_decode_something_else_is_seen(
    small_bundle: Bundle, small_days: Days, calibration: UnlabelledTrials, good: ReadIn
) -> None:
    """All else may look well: the other output is as it was, and what is decoded in place of the first moves as lively."""
    day = small_days[1]
    assert day.kinematics is not None
    x, u = (day.counts - good.mean) * good.gain, day.kinematics[:, 0] - day.kinematics[:, 0].mean()
    c = (x - x.mean(0)).T @ u
    blind = replace(good, weight=((np.eye(len(c)) - np.outer(c, c) / (c @ c)) @ good.weight).astype(np.float32))
    verdict = judge(small_bundle, good, blind, calibration, GateConfig())
    assert TO_VX in failed(verdict) and TO_VY not in failed(verdict)
    loose = judge(small_bundle, good, blind, calibration, GateConfig(fall=2.0))
    assert not {TO_VX, TO_VY} & failed(loose)
    # beside an incumbent that is as blind there is nothing to lose
    assert not {TO_VX, TO_VY} & failed(judge(small_bundle, blind, blind, calibration, GateConfig()))


def test_an_incumbent_of_other_channels_is_not_compared_with(
    small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn
) -> None:
    kept = np.arange(2, 32)
    verdict = judge(small_bundle, small_bundle.read_in, rows(good, kept), of_channels(calibration, kept), GateConfig(), kept)
    assert [c["name"] for c in verdict.checks] == EVERY[:-4]
    assert verdict.accepted, verdict.reason


def test_a_core_that_moved_is_judged_with_its_read_in(small_bundle: Bundle, calibration: UnlabelledTrials, good: ReadIn) -> None:
    encoder = small_bundle.models()[0]
    plain = judge(small_bundle, small_bundle.read_in, good, calibration, GateConfig())
    assert judge(small_bundle, small_bundle.read_in, good, calibration, GateConfig(), encoder=encoder).checks == plain.checks
    with torch.no_grad():
        encoder.core.mean.weight.mul_(0.1)
    verdict = judge(small_bundle, small_bundle.read_in, good, calibration, GateConfig(), encoder=encoder)
    assert failed(verdict) >= {KL, *SPREAD}


def test_the_cosine_of_tunings_and_the_correlation_of_outputs() -> None:
    a = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    b = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    assert agreement(a, 5 * a) == pytest.approx(1)
    assert agreement(a, -a) == pytest.approx(-1)
    assert agreement(a, 0 * a) == 0
    assert agreement(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])) == pytest.approx(0.5**0.5)
    assert likeness(b, 2 * b + 7) == pytest.approx(1, abs=1e-5)
    assert likeness(b, torch.ones_like(b)) == 0
    assert abs(likeness(b + 7, b.flip(0) + 7)) < 0.1
