"""What all rivals have in common: labels never seen, seeds, permutations, refusals, causality."""

from dataclasses import fields, replace

import numpy as np
import pytest

from bci_align.alignment.rivals import RIVALS, Adapted, cyclegan, decode, latent
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.score import score_outputs
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled

Days = tuple[Session, Session]
CLOSED = ("none", "renormalise", "running", "fa_procrustes", "coral", "gaussian_ot")
SEEDED = ("mmd", "adversarial", "gaussian_kl", "cycle_gan")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough steps to move, few enough for a test."""
    monkeypatch.setattr(latent, "STEPS", 25)
    monkeypatch.setattr(cyclegan, "STEPS", 60)


@pytest.fixture(scope="module")
def source(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    return unlabelled(small_days[0], small_days[0].rewarded(), small_bundle.manifest.run_in)


@pytest.fixture(scope="module")
def calibration(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    return unlabelled(small_days[1], small_days[1].rewarded()[:25], small_bundle.manifest.run_in)


def permuted(trials: UnlabelledTrials, seed: int) -> UnlabelledTrials:
    order = np.random.default_rng(seed).permutation(len(trials))
    return replace(trials, counts=tuple(trials.counts[i] for i in order), run_in=tuple(trials.run_in[i] for i in order))


def outputs(bundle: Bundle, adapted: Adapted, day: Session) -> np.ndarray:
    return decode(bundle, adapted, day.counts[:600].astype(np.float32)) / bundle.manifest.scale


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def test_every_rival_of_the_issue_is_there_and_says_where_it_is_from() -> None:
    assert set(RIVALS) == {*CLOSED, *SEEDED}
    for name, r in RIVALS.items():
        assert r.name == name
        assert r.about
        assert r.citation


@pytest.mark.parametrize("name", RIVALS)
def test_other_channels_and_other_bins_are_refused(
    name: str, small_bundle: Bundle, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    method, other = RIVALS[name].method, ("other", *source.channels[1:])
    with pytest.raises(MismatchError, match="calibration trials: channel 0: expected label"):
        method(small_bundle, source, replace(calibration, channels=other), 0)
    with pytest.raises(MismatchError, match="source trials: channel 0: expected label"):
        method(small_bundle, replace(source, channels=other), calibration, 0)
    with pytest.raises(MismatchError, match=r"expected bins of 0.05 s as in the bundle, found 0.02 s"):
        method(small_bundle, source, replace(calibration, bin_s=0.02), 0)
    with pytest.raises(AlignmentError, match="expected at least 2 bins of trials"):
        method(small_bundle, source, replace(calibration, counts=(), run_in=()), 0)


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_gives_the_same_and_the_order_of_trials_is_seed_noise(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    """Either day is shuffled by itself: a method that pairs trials by index would change far more than from seed to seed."""
    method = RIVALS[name].method

    def run(s: UnlabelledTrials, t: UnlabelledTrials, seed: int) -> np.ndarray:
        return outputs(small_bundle, method(small_bundle, s, t, seed), small_days[1])

    first = run(source, calibration, 0)
    np.testing.assert_array_equal(first, run(source, calibration, 0))
    noise = max(rms(first, run(source, calibration, seed)) for seed in (1, 2))
    assert noise > 0 if name != "gaussian_kl" else noise < 1e-3  # all trials in every step: nothing is left to chance
    assert rms(first, run(permuted(source, 3), permuted(calibration, 4), 0)) < 2 * noise + 1e-3


@pytest.mark.parametrize("name", CLOSED)
def test_the_order_of_trials_and_the_seed_mean_nothing_to_a_closed_form(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    method = RIVALS[name].method
    first = outputs(small_bundle, method(small_bundle, source, calibration, 0), small_days[1])
    second = outputs(small_bundle, method(small_bundle, permuted(source, 3), permuted(calibration, 4), 1), small_days[1])
    np.testing.assert_allclose(first, second, atol=2e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_the_order_of_channels_means_nothing_to_a_closed_form(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    order = np.random.default_rng(5).permutation(len(source.channels))

    def shuffled(trials: UnlabelledTrials) -> UnlabelledTrials:
        channels = tuple(trials.channels[i] for i in order)
        return replace(trials, counts=tuple(t[:, order] for t in trials.counts), channels=channels)

    r = small_bundle.read_in
    other = replace(
        small_bundle,
        manifest=small_bundle.manifest.model_copy(update={"channels": shuffled(source).channels}),
        read_in=ReadIn(r.mean[order], r.gain[order], r.weight[order], r.bias),
    )
    method, counts = RIVALS[name].method, small_days[1].counts[:600].astype(np.float32)
    first = decode(small_bundle, method(small_bundle, source, calibration, 0), counts)
    second = decode(other, method(other, shuffled(source), shuffled(calibration), 0), counts[:, order])
    np.testing.assert_allclose(first / small_bundle.manifest.scale, second / small_bundle.manifest.scale, atol=2e-3)


@pytest.mark.parametrize("name", ["running", "cycle_gan"])
def test_a_map_of_counts_never_looks_ahead(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    mapping = RIVALS[name].method(small_bundle, source, calibration, 0)
    assert not isinstance(mapping, ReadIn)
    counts = small_days[1].counts[:200].astype(np.float32)
    whole = mapping(counts)
    assert whole.dtype == np.float32
    assert whole.shape == counts.shape
    changed = counts.copy()
    changed[120:] += 9
    np.testing.assert_allclose(mapping(changed)[:120], whole[:120], rtol=1e-5, atol=1e-5)
    assert np.abs(mapping(changed)[120:] - whole[120:]).max() > 0.1


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "none"])
def test_every_rival_is_better_than_nothing_on_a_drifted_day(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    later = small_days[1].rewarded()[25:]

    def r2(which: str) -> float:
        adapted = RIVALS[which].method(small_bundle, source, calibration, 0)
        decoded = decode(small_bundle, adapted, small_days[1].counts.astype(np.float32))
        return float(score_outputs(small_bundle, small_days[1], later, decoded)["r2"])

    assert r2(name) > r2("none") + 5


@pytest.mark.parametrize("name", RIVALS)
def test_silent_channels_of_either_day_do_no_harm(
    name: str, small_bundle: Bundle, small_days: Days, source: UnlabelledTrials, calibration: UnlabelledTrials
) -> None:
    """Channel 3 was silent on the source day and fires today; channel 4 has died since."""
    before = tuple(t.copy() for t in source.counts)
    after = tuple(t.copy() for t in calibration.counts)
    for t in before:
        t[:, 3] = 0
    for t in after:
        t[:, 4] = 0
    gain = small_bundle.read_in.gain.copy()
    gain[3] = 0
    bundle = replace(small_bundle, read_in=replace(small_bundle.read_in, gain=gain))
    adapted = RIVALS[name].method(bundle, replace(source, counts=before), replace(calibration, counts=after), 0)
    if isinstance(adapted, ReadIn):
        assert all(np.isfinite(getattr(adapted, f.name)).all() for f in fields(ReadIn))
    counts = small_days[1].counts[:300].astype(np.float32)
    counts[:, 4] = 0
    loud = counts.copy()
    loud[:, 3] += 5
    quiet, heard = (decode(bundle, adapted, x) / bundle.manifest.scale for x in (counts, loud))
    assert np.isfinite(quiet).all()
    if name != "cycle_gan":  # its networks see every channel; the others must not hear one without a source
        np.testing.assert_allclose(heard, quiet, atol=1e-4)
