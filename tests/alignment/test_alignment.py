import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from bci_align.alignment import erdiff, register
from bci_align.alignment.block import Block
from bci_align.alignment.erdiff import SHARES, TOLERANCE, align, how_far
from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.alignment.start import renormalise
from bci_align.alignment.tuning import transferred
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.score import evaluate
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift

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
    assert not np.array_equal(a.read_in.weight, start.weight)
    assert a.core is None
    assert a.channels == calibration.channels
    other = align(small_bundle, calibration, QUICK, 1)
    assert not np.array_equal(a.read_in.weight, other.read_in.weight)


def test_the_record_tells_every_stage(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    told: list[tuple[int, int]] = []
    config = QUICK.model_copy(update={"label_rounds": 2})
    record = align(small_bundle, calibration, config, 0, lambda done, total: told.append((done, total))).record
    names = [s["stage"] for s in record["stages"]]
    assert names == ["identity", *2 * ["tuning transfer"], "refinement, 30 steps", "self-labelling, 2 rounds"]
    assert all(np.isfinite([s["denoising"], s["kl"]]).all() for s in record["stages"])
    values = [s["denoising"] + QUICK.kl * s["kl"] for s in record["stages"]]
    assert values[1] <= (1 + TOLERANCE) * values[0] + 1e-4
    assert all(s["share"] in SHARES for s in record["stages"][1:3])
    assert set(record["changed_channels"]) <= set(calibration.channels)
    assert record["registration"]["method"] == "identity"
    assert record["registration"]["matched"] == list(range(32))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert AlignConfig.model_validate(record["config"]) == config
    assert told[:-1] == [(i + 1, told[-1][1]) for i in range(1 + 2 + 30 + 2)]
    assert told[-1] == (1 + 2 + 30 + 2,) * 2


def test_a_trusted_transfer_is_taken_as_far_as_the_objective_hardly_grows() -> None:
    falls, grows, leaps = ({0.0: 1.0, 0.25: 0.99, 0.5: v, 1.0: w} for v, w in ((0.9, 0.8), (1.02, 1.09), (1.08, 1.2)))
    assert [how_far(v, trusted=True) for v in (falls, grows, leaps)] == [1.0, 1.0, 0.5]
    assert [how_far(v, trusted=False) for v in (falls, grows, leaps)] == [1.0, 0.25, 0.25]
    assert how_far({0.0: 1.0, 0.25: 1.2, 0.5: 1.3, 1.0: 1.4}, trusted=True) == 0


@pytest.mark.parametrize(("changed", "averaged"), [(15, False), (16, False), (15, True)])
def test_a_transfer_is_trusted_while_most_channels_are_as_they_were(
    small_bundle: Bundle, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch, changed: int, averaged: bool
) -> None:
    asked: list[bool] = []

    def told(values: dict[float, float], trusted: bool) -> float:
        asked.append(trusted)
        return how_far(values, trusted)

    def measured(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows, _ = transferred(*given)
        return rows, (torch.arange(32) < changed) * 1.0

    monkeypatch.setattr(erdiff, "how_far", told)
    monkeypatch.setattr(erdiff, "transferred", measured)
    monkeypatch.setattr(erdiff, "register", lambda *given: replace(register.register(*given), averaged=averaged))
    record = align(small_bundle, calibration, AlignConfig(steps=0), 0).record
    assert record["changed_channels"] == list(calibration.channels[:changed])
    assert asked == 2 * [changed < 16 and not averaged]


@pytest.mark.parametrize("moves", ["affine", "whole"])
def test_more_than_the_read_in_may_move_where_it_is_asked_for(
    small_bundle: Bundle, calibration: UnlabelledTrials, moves: str
) -> None:
    config = AlignConfig.model_validate({"steps": 5, "label_rounds": 1, "transfer": False, "moves": moves})
    found = align(small_bundle, calibration, config, 0)
    assert found.core is not None
    before = small_bundle.models()[0]
    assert not torch.equal(found.core.core.mean.weight, before.core.mean.weight)
    assert torch.equal(found.core.core.gru.weight_hh_l0, before.core.gru.weight_hh_l0) == (moves == "affine")
    assert torch.equal(found.core.kinematics.weight, before.kinematics.weight)
    start = renormalise(small_bundle.read_in, calibration)
    assert np.array_equal(found.read_in.weight, start.weight) == (moves == "affine")
    np.testing.assert_array_equal(small_bundle.models()[0].core.mean.weight.detach(), before.core.mean.weight.detach())


def test_no_stage_but_the_first_is_re_normalisation(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    found = align(small_bundle, calibration, AlignConfig(steps=0, transfer=False, label_rounds=0), 0)
    read_in = found.read_in
    assert found.record["changed_channels"] == []
    start = renormalise(small_bundle.read_in, calibration)
    for f in fields(ReadIn):
        np.testing.assert_array_equal(getattr(read_in, f.name), getattr(start, f.name))


def shuffled(trials: UnlabelledTrials, seed: int) -> UnlabelledTrials:
    order = np.random.default_rng(seed).permutation(len(trials))
    return replace(trials, counts=tuple(trials.counts[i] for i in order), run_in=tuple(trials.run_in[i] for i in order))


def decoded(bundle: Bundle, read_in: ReadIn, counts: np.ndarray) -> np.ndarray:
    return bundle.pipeline().run(counts.astype(np.float32), read_in) / bundle.pipeline().scale


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def test_the_order_of_trials_does_not_matter(
    small_bundle: Bundle, small_days: Days, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing pairs source and target trials by index: with both days shuffled the result is the same but for seed noise."""
    later, counts = small_days[1].rewarded()[25:], small_days[1].counts[:600]

    def run(trials: UnlabelledTrials, seed: int) -> tuple[float, np.ndarray]:
        read_in = align(small_bundle, trials, QUICK, seed).read_in
        r2 = evaluate(replace(small_bundle, read_in=read_in), small_days[1], later)["r2"]
        return float(r2), decoded(small_bundle, read_in, counts)

    plain = [run(calibration, seed) for seed in (0, 1, 2)]
    source = small_bundle.source_trials()
    monkeypatch.setattr(Bundle, "source_trials", lambda self: shuffled(source, 3))
    r2, outputs = run(shuffled(calibration, 4), 0)
    noise = max(rms(plain[0][1], y) for _, y in plain[1:])
    assert 0 < noise < 0.3
    assert rms(outputs, plain[0][1]) < 2 * noise
    assert abs(r2 - plain[0][0]) < 5


def test_the_order_of_channels_does_not_matter_to_a_registration_without_order(
    small_bundle: Bundle, small_days: Days, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels, labels and all, in another order: the same read-in in that order, within the noise of seeds."""
    monkeypatch.setattr(register, "ROTATION_TRIALS", len(calibration))  # the small day has fewer than a rotation takes
    config = QUICK.model_copy(update={"registration": "rotation", "rotation_margin": 0.0})
    order = np.random.default_rng(5).permutation(32)
    other = replace(
        calibration,
        counts=tuple(np.ascontiguousarray(t[:, order]) for t in calibration.counts),
        channels=tuple(calibration.channels[i] for i in order),
    )
    counts = small_days[1].counts[:600]
    first, again = (decoded(small_bundle, align(small_bundle, calibration, config, s).read_in, counts) for s in (0, 1))
    permuted = decoded(small_bundle, align(small_bundle, other, config, 0).read_in, counts[:, order])
    assert rms(permuted, first) < 2 * rms(again, first)
    assert rms(permuted, first) < 0.5 * rms(decoded(small_bundle, small_bundle.read_in, counts), first)


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
        align(small_bundle, replace(calibration, channels=renamed), QUICK.model_copy(update={"registration": "identity"}), 0)
    with pytest.raises(MismatchError, match=r"expected bins of 0.05 s as in the bundle, found 0.02 s"):
        align(small_bundle, replace(calibration, bin_s=0.02), QUICK, 0)
    with pytest.raises(AlignmentError, match="expected at least 5 calibration trials, found 2"):
        align(small_bundle, replace(calibration, counts=calibration.counts[:2], run_in=calibration.run_in[:2]), QUICK, 0)


def test_few_or_short_trials_are_re_normalised_and_no_more(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    """Of nine trials a channel tells too little, and of trials shorter than a window the prior tells nothing."""
    window = small_bundle.manifest.prior.window
    long = Block.of(calibration, small_bundle.read_in).fill(window)

    def some(which: list[int]) -> UnlabelledTrials:
        counts, run_in = [calibration.counts[i] for i in which], [calibration.run_in[i] for i in which]
        return replace(calibration, counts=tuple(counts), run_in=tuple(run_in))

    few = some(long[:9])
    short = replace(calibration, counts=tuple(t[: window - 1] for t in calibration.counts))
    for trials in (few, short):
        told: list[tuple[int, int]] = []
        found = align(small_bundle, trials, QUICK, 0, lambda done, total, told=told: told.append((done, total)))
        assert [s["stage"] for s in found.record["stages"]] == ["identity"]
        assert json.loads(json.dumps(found.record, allow_nan=False)) == found.record
        start = renormalise(small_bundle.read_in, trials)
        for f in fields(ReadIn):
            np.testing.assert_array_equal(getattr(found.read_in, f.name), getattr(start, f.name))
        assert told[-1][0] == told[-1][1]
    assert len(align(small_bundle, some(long[:10]), QUICK, 0).record["stages"]) == 4


def test_a_day_of_other_units_is_registered_or_refused(small_bundle: Bundle) -> None:
    drift = Drift(turnover=0.1, gain_sd=0.2, rotation_deg=5, baseline_sd_hz=1, dead=0)
    day = simulate_days(seed=2, trials=(60, 40), drift=drift, bin_s=0.05, channels=32)[1]
    trials = unlabelled(day, day.rewarded()[:25], small_bundle.manifest.run_in)
    kept = np.delete(np.arange(32), [3, 11, 20])

    def units(which: np.ndarray) -> UnlabelledTrials:
        counts = tuple(np.ascontiguousarray(t[:, which]) for t in trials.counts)
        return replace(trials, counts=counts, channels=tuple(f"unit{i}" for i in range(len(which))))

    found = align(small_bundle, units(kept), QUICK, 0)
    assert found.channels == tuple(f"unit{i}" for i in range(29))
    assert found.read_in.weight.shape == (29, 32)
    assert found.record["stages"][0]["stage"] == "order-preserving"
    assert len(found.record["registration"]["matched"]) == 29
    # A unit without a partner is not lost for good: it gets the row of what it is tuned to, if that lowers the objective.
    with pytest.raises(AlignmentError, match=r"today's channels cannot be told from the source day's: .* standard deviations"):
        align(small_bundle, units(np.random.default_rng(0).permutation(32)), QUICK.model_copy(update={"rotation_margin": 0.9}), 0)


def test_a_channel_that_was_silent_on_the_source_day_stays_silent(small_bundle: Bundle, calibration: UnlabelledTrials) -> None:
    r = small_bundle.read_in
    gain = r.gain.copy()
    gain[3] = 0
    assert renormalise(replace(r, gain=gain), calibration).gain[3] == 0
    assert renormalise(r, calibration).gain[3] > 0
