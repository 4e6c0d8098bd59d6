"""Which registration an alignment starts from, and when it is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bci_align.alignment import registration as reg
from bci_align.alignment.register import register
from bci_align.alignment.registration import Registration
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import AlignConfig
from bci_align.errors import AlignmentError, MismatchError
from bci_align.session.types import UnlabelledTrials, unlabelled
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift

LOST = (3, 11, 20)
KEPT = np.delete(np.arange(32), LOST)


@pytest.fixture(scope="module")
def today(small_bundle: Bundle) -> UnlabelledTrials:
    """A later day of the subject behind ``small_bundle``, on which only few units were replaced."""
    drift = Drift(turnover=0.1, gain_sd=0.2, rotation_deg=5, baseline_sd_hz=1, dead=0)
    day = simulate_days(seed=2, trials=(60, 60), drift=drift, bin_s=0.05, channels=32)[1]
    return unlabelled(day, day.rewarded()[:45], small_bundle.manifest.run_in)


def units(trials: UnlabelledTrials, which: np.ndarray) -> UnlabelledTrials:
    """The channels ``which`` under labels that say nothing."""
    counts = tuple(np.ascontiguousarray(t[:, which]) for t in trials.counts)
    return replace(trials, counts=counts, channels=tuple(f"unit{i}" for i in range(len(which))))


def run(bundle: Bundle, trials: UnlabelledTrials, **config: object) -> Registration:
    return register(bundle, bundle.source_trials(), trials, AlignConfig.model_validate(config), 0)


def same(a: Registration, b: Registration) -> None:
    assert a.matched is not None and b.matched is not None
    np.testing.assert_array_equal(a.matched, b.matched)
    np.testing.assert_array_equal(a.read_in.weight, b.read_in.weight)


@pytest.mark.parametrize("asked", ["auto", "identity"])
def test_equal_labels_are_equal_electrodes(small_bundle: Bundle, today: UnlabelledTrials, asked: str) -> None:
    found = run(small_bundle, today, registration=asked)
    assert found.method == "identity"
    assert found.matched is not None and found.matched.tolist() == list(range(32))
    np.testing.assert_array_equal(found.read_in.weight, small_bundle.source_read_in().weight)
    np.testing.assert_array_equal(found.read_in.mean, renormalise(small_bundle.source_read_in(), today).mean)


@pytest.mark.parametrize("asked", ["auto", "order"])
def test_other_labels_in_order_are_matched_in_order(small_bundle: Bundle, today: UnlabelledTrials, asked: str) -> None:
    found = run(small_bundle, units(today, KEPT), registration=asked)
    assert found.method == "order-preserving"
    assert found.matched is not None and len(found.matched) == 29
    known = found.matched >= 0
    assert known.sum() > 20
    assert np.mean(found.matched[known] == KEPT[known]) > 0.8
    same(found, run(small_bundle, units(today, KEPT), registration=asked))


def test_order_can_be_asked_for_where_labels_agree(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    found = run(small_bundle, today, registration="order")
    assert found.method == "order-preserving"


def test_identity_refuses_other_labels(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    renamed = replace(today, channels=("other", *today.channels[1:]))
    with pytest.raises(MismatchError, match="calibration trials: channel 0: expected label"):
        run(small_bundle, renamed, registration="identity")
    with pytest.raises(MismatchError, match="calibration trials"):
        run(small_bundle, units(today, KEPT), registration="identity")


def test_permuted_units_are_refused_with_what_was_found(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    """The order means nothing, and no rotation stands out: an alignment would be a guess."""
    permuted = units(today, np.random.default_rng(0).permutation(32))
    order = r"their order explains the day by -?[\d.]+ standard deviations, expected 5"
    rotation = r"the best rotation beats the next by 0\.\d+ of its cost, expected 0\.9"
    cannot = "today's channels cannot be told from the source day's: "
    with pytest.raises(AlignmentError, match=f"^{cannot}{order}; {rotation}$"):
        run(small_bundle, permuted, rotation_margin=0.9)
    with pytest.raises(AlignmentError, match=f"^{cannot}{order}$"):
        run(small_bundle, permuted, registration="order")
    with pytest.raises(AlignmentError, match=f"^{cannot}{rotation}$"):
        run(small_bundle, permuted, registration="rotation", rotation_margin=0.9)


def test_a_rotation_with_margin_enough_is_taken(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    permuted = units(today, np.random.default_rng(0).permutation(32))
    found = run(small_bundle, permuted, rotation_margin=0.0)
    assert found.matched is None
    assert found.read_in.weight.shape == small_bundle.read_in.weight.shape


def test_a_rotation_takes_more_than_a_handful_of_trials(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    """With few trials a wrong rotation can win by a clear margin."""
    few = replace(today, counts=today.counts[:39], run_in=today.run_in[:39])
    permuted = units(few, np.random.default_rng(0).permutation(32))
    with pytest.raises(AlignmentError, match="a rotation takes 40 trials on both days, found 39"):
        run(small_bundle, permuted, rotation_margin=0.0)


def test_registrations_that_contradict_each_other_need_the_priors_word(
    small_bundle: Bundle, today: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation by half a turn beside a good order: the prior says which, or nothing is aligned."""
    right = run(small_bundle, units(today, KEPT), registration="order")
    turned = replace(right.read_in, weight=-right.read_in.weight)
    wrong = Registration(turned, "rotation", None, {"method": "rotation", "confidence": 1.0})
    monkeypatch.setattr(reg, "rotation", lambda *_, **__: wrong)
    found = run(small_bundle, units(today, KEPT), registration_margin=0.0)
    assert found.method == min(found.record["scores"], key=found.record["scores"].__getitem__)
    assert set(found.record["scores"]) == {"order-preserving", "rotation"} and found.record["margin"] > 0
    with pytest.raises(AlignmentError, match="contradict each other, and the prior prefers the first by"):
        run(small_bundle, units(today, KEPT), registration_margin=found.record["margin"] + 0.01)


def test_registrations_that_confirm_each_other_are_averaged(
    small_bundle: Bundle, today: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that only the rotation knows gets half of the rotation's row; what both know gets the mean."""
    right = run(small_bundle, units(today, KEPT), registration="order")
    r, fewer = right.read_in, right.read_in.gain.copy()
    lost = int(np.flatnonzero(fewer > 0)[0])
    fewer[lost] = 0
    rotated = replace(r, weight=1.1 * r.weight, bias=r.bias + 0.01)
    monkeypatch.setattr(reg, "rotation", lambda *_, **__: Registration(rotated, "rotation", None, {"confidence": 1.0}))
    monkeypatch.setattr(
        reg, "order_preserving", lambda *_, **__: replace(right, read_in=replace(r, gain=fewer, mean=r.mean * (fewer > 0)))
    )
    found = run(small_bundle, units(today, KEPT))
    assert found.method == "order-preserving and rotation"
    np.testing.assert_array_equal(found.matched, right.matched)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.read_in.gain, r.gain)
    np.testing.assert_array_equal(found.read_in.mean, r.mean)
    np.testing.assert_allclose(found.read_in.bias, r.bias + 0.005, atol=1e-6)
    wanted = 1.05 * r.weight * (r.gain > 0)[:, None]
    wanted[lost] = 0.55 * r.weight[lost]
    np.testing.assert_allclose(found.read_in.weight, wanted, atol=1e-6)


def test_the_thresholds_of_the_configuration_decide(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    with pytest.raises(AlignmentError, match="expected 1000"):
        run(small_bundle, units(today, KEPT), registration="order", order_confidence=1000)


def test_a_generation_of_other_channels_goes_on_by_its_own_correspondence(
    small_bundle: Bundle, today: UnlabelledTrials, tmp_path: Path
) -> None:
    first = units(today, KEPT)
    registered = run(small_bundle, first)
    assert registered.matched is not None
    learnt = replace(registered.read_in, weight=registered.read_in.weight + 0.01)
    record = {"registration": registered.record | {"matched": registered.matched.tolist()}}
    made = save_generation(small_bundle, learnt, tmp_path / "g1", record, first.channels)
    found = run(made, first)
    assert found.method == "identity"
    same(replace(registered, read_in=learnt), found)
    assert found.record["with"] == "the generation before"
    # Labels of a third kind are registered anew, to the source day and not to that generation.
    other = units(today, np.arange(32))
    anew = run(made, replace(other, channels=tuple(f"x{c}" for c in other.channels)))
    assert anew.method == "order-preserving"
