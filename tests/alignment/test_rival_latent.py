from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bci_align.alignment.rivals import latent
from bci_align.alignment.rivals.latent import Latents, kl_of_gaussians, mmd_squared
from bci_align.alignment.rivals.normalisation import renormalise
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.threads import one_thread

Days = tuple[Session, Session]
METHODS = {"mmd": latent.mmd, "gaussian_kl": latent.gaussian_kl, "adversarial": latent.adversarial}


@pytest.fixture(scope="module")
def source(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    return unlabelled(small_days[0], small_days[0].rewarded(), small_bundle.manifest.run_in)


@pytest.fixture(scope="module")
def calibration(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    return unlabelled(small_days[1], small_days[1].rewarded()[:25], small_bundle.manifest.run_in)


@pytest.fixture(scope="module")
def mixed(source: UnlabelledTrials) -> tuple[UnlabelledTrials, UnlabelledTrials]:
    """Every other source trial, and the rest with ten channels moved one on: what re-normalisation cannot take back."""
    order = np.arange(len(source.channels))
    some = np.random.default_rng(0).permutation(order)[:10]
    order[some] = np.roll(some, 1)
    return (
        replace(source, counts=source.counts[::2], run_in=source.run_in[::2]),
        replace(source, counts=tuple(t[:, order] for t in source.counts[1::2]), run_in=source.run_in[1::2]),
    )


@torch.no_grad()
def encoded(bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials) -> Latents:
    model = bundle.models()[0]
    model.set_read_in(read_in)
    return latent.encode(model, *latent.stack(trials))


def distance(name: str, target: Latents, source: Latents) -> float:
    """What each of the three methods sets out to make small; for pairs, a measure that no discriminator had a hand in."""
    x, y = target.bins(), source.bins()
    if name == "mmd":
        return float(mmd_squared(x[::2], y[::2], latent.median_distance(y[::2])))
    return float(kl_of_gaussians(x, y) if name == "gaussian_kl" else kl_of_gaussians(target.pairs(), source.pairs()))


@one_thread()
@pytest.mark.parametrize("name", METHODS)
def test_its_own_distance_falls_and_the_normaliser_stays(
    name: str,
    small_bundle: Bundle,
    mixed: tuple[UnlabelledTrials, UnlabelledTrials],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latent, "STEPS", 100)
    start, moved = renormalise(small_bundle, *mixed, 0), METHODS[name](small_bundle, *mixed, 0)
    np.testing.assert_array_equal(moved.mean, start.mean)
    np.testing.assert_array_equal(moved.gain, start.gain)
    reference = encoded(small_bundle, small_bundle.read_in, mixed[0])
    before, after = (distance(name, encoded(small_bundle, r, mixed[1]), reference) for r in (start, moved))
    assert after < 0.6 * before


def test_the_adversarys_read_in_is_harder_to_tell_from_the_source_day(
    small_bundle: Bundle, source: UnlabelledTrials, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From no alignment at all: a discriminator trained anew must lose what it could see before."""
    monkeypatch.setattr(latent, "STEPS", 100)
    monkeypatch.setattr(latent, "renormalise", lambda read_in, trials: read_in)
    reference = encoded(small_bundle, small_bundle.read_in, source)
    moved = latent.adversarial(small_bundle, source, calibration, 0)

    def seen(read_in: ReadIn) -> float:
        return told_apart(encoded(small_bundle, read_in, calibration).pairs(), reference.pairs())

    assert seen(moved) > seen(small_bundle.read_in) + 0.15


def told_apart(x: Tensor, y: Tensor) -> float:
    """Loss, nats, of a new discriminator on pairs it was not trained on: log 2 if they look alike, less the easier they are."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = latent.discriminator(x.shape[1])
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        half = len(x) // 2, len(y) // 2
        for _ in range(80):
            loss = 0.5 * (F.softplus(-net(x[: half[0]])).mean() + F.softplus(net(y[: half[1]])).mean())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return float(0.5 * (F.softplus(-net(x[half[0] :])).mean() + F.softplus(net(y[half[1] :])).mean()))


def test_no_steps_is_re_normalisation(
    small_bundle: Bundle, source: UnlabelledTrials, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "STEPS", 0)
    start = renormalise(small_bundle, source, calibration, 0)
    for method in METHODS.values():
        np.testing.assert_array_equal(method(small_bundle, source, calibration, 0).weight, start.weight)


def test_mmd_is_zero_on_the_same_bins_and_sees_mean_spread_and_shape() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(1500, 3, generator=g), torch.randn(1500, 3, generator=g)
    scale = latent.median_distance(x)
    assert scale == pytest.approx(2 * 3 * 0.789, rel=0.1)  # a chi-square of 3 degrees has its median at 2.366
    assert float(mmd_squared(x, x, scale)) == pytest.approx(0, abs=1e-6)
    same = float(mmd_squared(x, y, scale))
    lumps = y.sign() * y.abs().pow(0.1)
    assert all(float(mmd_squared(x, other, scale)) > 5 * same for other in (y + 0.5, 1.5 * y, lumps / lumps.std(0)))


def test_kl_is_the_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 2, generator=g)
    y = 2 * torch.randn(200_000, 2, generator=g) + 1
    # per dimension: log(2) + (1 + 1) / (2 * 4) - 1/2
    assert float(kl_of_gaussians(x, y)) == pytest.approx(2 * (np.log(2) - 0.25), rel=0.02)
    assert float(kl_of_gaussians(x, x)) == pytest.approx(0, abs=1e-5)
    assert float(kl_of_gaussians(y, x)) > 1


def test_pairs_lie_inside_one_trial_and_four_bins_apart() -> None:
    z = torch.arange(24.0).reshape(2, 12, 1)
    inside = torch.zeros(2, 12, dtype=torch.bool)
    inside[0, 2:8] = inside[1, 3:12] = True
    pairs = Latents(z, inside).pairs()
    assert pairs.tolist() == [[2, 6], [3, 7], [15, 19], [16, 20], [17, 21], [18, 22], [19, 23]]


def test_trials_too_short_for_a_pair_are_left_out_or_refused(
    small_bundle: Bundle, source: UnlabelledTrials, calibration: UnlabelledTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "STEPS", 3)
    stub = calibration.counts[0][:3]

    def day(*counts: np.ndarray) -> UnlabelledTrials:
        return UnlabelledTrials(counts, (0,) * len(counts), calibration.bin_s, calibration.channels)

    assert latent.adversarial(small_bundle, source, day(stub, calibration.counts[1]), 0).finite()
    with pytest.raises(AlignmentError, match="calibration trials: expected trials of more than 4 bins, found 3 at most"):
        latent.adversarial(small_bundle, source, day(stub, stub), 0)
