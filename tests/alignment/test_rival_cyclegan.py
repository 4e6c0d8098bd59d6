import numpy as np
import pytest
import torch
from torch import Tensor

from bci_align.alignment.rivals import cyclegan
from bci_align.alignment.rivals.cyclegan import cycle_gan, train
from bci_align.alignment.rivals.normalisation import renormalise
from bci_align.bundle.store import Bundle
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.threads import one_thread

Days = tuple[Session, Session]
C = 8


@pytest.fixture(scope="module")
def days() -> tuple[Tensor, Tensor]:
    """Two days of factors with lopsided noise; today's channels are mixed in pairs."""
    rng = np.random.default_rng(0)

    def bins() -> np.ndarray:
        return (rng.normal(size=(3000, 2)) @ rng_loadings + 0.5 * rng.exponential(size=(3000, C)) - 0.5).astype(np.float32)

    rng_loadings = np.random.default_rng(1).normal(size=(2, C))
    mix = np.kron(np.eye(C // 2), [[1.0, 0.7], [-0.7, 1.0]]).astype(np.float32) / np.float32(np.sqrt(1.49))
    return torch.from_numpy(bins() @ mix), torch.from_numpy(bins())


def off(x: Tensor, y: Tensor) -> float:
    return float((torch.cov(x.T) - torch.cov(y.T)).norm() / torch.cov(y.T).norm())


@one_thread()
def test_the_generator_moves_today_towards_the_source_day(days: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cyclegan, "STEPS", 600)
    today, source = days
    to_source, to_target = train(today, source, 0)
    with torch.no_grad():
        assert off(to_source(today), source) < 0.6 * off(today, source)
        assert off(to_target(source), today) < 0.6 * off(source, today)


@one_thread()
def test_the_cycle_error_falls_with_its_loss(days: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The generators start as the identity, whose cycle error is 0: what the loss does shows against training without it."""
    monkeypatch.setattr(cyclegan, "STEPS", 300)
    today, source = days

    def error(cycle: float) -> float:
        forth, back = train(today, source, 0, cycle=cycle, identity=0.0)
        with torch.no_grad():
            assert float((forth(today) - today).abs().mean()) > 0.05
            return float((back(forth(today)) - today).abs().mean())

    assert error(cyclegan.CYCLE) < 0.5 * error(0.0)


@one_thread()
def test_the_identity_loss_leaves_the_source_day_alone(days: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cyclegan, "STEPS", 300)
    today, source = days

    def change(identity: float) -> float:
        forth, _ = train(today, source, 0, cycle=0.0, identity=identity)
        with torch.no_grad():
            return float((forth(source) - source).abs().mean())

    assert change(cyclegan.IDENTITY) < 0.5 * change(0.0)


@pytest.fixture(scope="module")
def trials(small_bundle: Bundle, small_days: Days) -> tuple[UnlabelledTrials, UnlabelledTrials]:
    r = small_bundle.manifest.run_in
    first, second = (unlabelled(d, d.rewarded()[:25], r) for d in small_days)
    return first, second


def test_no_steps_is_re_normalisation(
    small_bundle: Bundle, trials: tuple[UnlabelledTrials, UnlabelledTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cyclegan, "STEPS", 0)
    mapping, start = cycle_gan(small_bundle, *trials, 0), renormalise(small_bundle, *trials, 0)
    x = trials[1].counts[0]
    np.testing.assert_allclose(small_bundle.read_in.apply(mapping(x)), start.apply(x), atol=1e-4)


def test_what_decodes_is_the_generator_that_was_trained(
    small_bundle: Bundle, trials: tuple[UnlabelledTrials, UnlabelledTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cyclegan, "STEPS", 120)
    trained = []

    def spy(*args: object) -> object:
        trained.append(train(*args))  # type: ignore[arg-type]
        return trained[-1]

    monkeypatch.setattr(cyclegan, "train", spy)
    mapping, start = cycle_gan(small_bundle, *trials, 0), renormalise(small_bundle, *trials, 0)
    x, r = trials[1].counts[0], small_bundle.read_in
    with torch.no_grad():
        wanted = trained[0][0](torch.from_numpy((x - start.mean) * start.gain)).numpy()
    np.testing.assert_allclose((mapping(x) - r.mean) * r.gain, wanted * (r.gain > 0), atol=1e-4)
    assert np.abs(wanted - (x - start.mean) * start.gain).max() > 0.01
