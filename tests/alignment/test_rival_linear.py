from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bci_align.alignment.rivals import linear
from bci_align.alignment.rivals.linear import coral, coral_map, factor_procrustes, gaussian_transport, monge_map
from bci_align.alignment.rivals.normalisation import renormalise
from bci_align.bundle.store import Bundle
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

C = 32


def trials(bundle: Bundle, x: np.ndarray) -> UnlabelledTrials:
    """Cut bins (n, C), any real numbers, into trials without run-in."""
    cuts = tuple(np.array_split(x.astype(np.float32), 20))
    return UnlabelledTrials(cuts, (0,) * len(cuts), bundle.manifest.bin_s, bundle.manifest.channels)


def covariance(seed: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(C, C)))[0]
    return (q * np.exp(spread * rng.normal(size=C))) @ q.T


def close(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("method", [coral, gaussian_transport])
def test_mean_and_covariance_become_the_source_days(small_bundle: Bundle, method: Callable[..., ReadIn]) -> None:
    rng, r = np.random.default_rng(0), small_bundle.read_in
    x = rng.multivariate_normal(np.full(C, 2.0), covariance(1, 0.5), 6000)
    y = rng.multivariate_normal(np.full(C, 5.0), covariance(2, 0.5), 6000)
    source, today = trials(small_bundle, x), trials(small_bundle, y)
    wanted, start = r.apply(x), renormalise(small_bundle, source, today, 0).apply(y)
    read_in = method(small_bundle, source, today, 0)
    assert isinstance(read_in, ReadIn)
    found = read_in.apply(y)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-2 * wanted.std())
    assert close(np.cov(found.T), np.cov(wanted.T)) < 0.05
    assert close(np.cov(start.T), np.cov(wanted.T)) > 0.2


@pytest.mark.parametrize("method", [coral, gaussian_transport])
def test_a_day_like_the_source_day_is_left_alone(small_bundle: Bundle, method: Callable[..., ReadIn]) -> None:
    x = np.random.default_rng(0).multivariate_normal(np.full(C, 2.0), covariance(1, 0.5), 4000)
    day = trials(small_bundle, x)
    bundle = replace(small_bundle, read_in=renormalise(small_bundle, day, day, 0))  # as if it had been trained on that day
    wanted = bundle.read_in.apply(x)
    np.testing.assert_allclose(method(bundle, day, day, 0).apply(x), wanted, atol=1e-3 * wanted.std())


def test_transport_moves_least_of_all_maps_between_the_two_covariances() -> None:
    t, s = covariance(1, 1.0), covariance(2, 1.0)
    maps = {"coral": coral_map(t, s), "monge": monge_map(t, s)}
    for a in maps.values():
        np.testing.assert_allclose(a.T @ t @ a, s, rtol=1e-6, atol=1e-8)
    moved = {k: np.trace((a - np.eye(C)).T @ t @ (a - np.eye(C))) for k, a in maps.items()}
    assert moved["monge"] < moved["coral"]
    np.testing.assert_allclose(maps["monge"], maps["monge"].T, atol=1e-9)
    assert np.linalg.eigvalsh(maps["monge"]).min() > 0


def test_few_bins_do_not_blow_up(small_bundle: Bundle) -> None:
    """Fewer bins than channels: without shrinkage the inverse root would be noise without bound."""
    rng = np.random.default_rng(0)
    source = trials(small_bundle, rng.poisson(2.0, (3000, C)))
    few = trials(small_bundle, rng.poisson(2.0, (20, C)))
    for method in (coral, gaussian_transport):
        later = rng.poisson(2.0, (2000, C)).astype(np.float32)
        ratio = method(small_bundle, source, few, 0).apply(later).std() / small_bundle.read_in.apply(later).std()
        assert 0.3 < ratio < 3


def test_the_rotation_of_factors_is_found_among_channels_that_changed() -> None:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(40, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    today = loadings @ turn.T
    today[:12] = rng.normal(size=(12, 5))
    np.testing.assert_allclose(linear.stable_rotation(today, loadings, 24), turn, atol=1e-9)
    assert np.abs(linear.rotation(today, loadings) - turn).max() > 0.01


def test_factors_carry_the_source_days_code_over_channels_that_changed(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the channels records other neurons: what they now say must be read as factors, not as channels."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(linear, "FACTORS", 4)
    loadings = rng.normal(size=(C, 4))
    later = loadings.copy()
    later[:8] = -2 * loadings[:8]
    r = replace(small_bundle.read_in, mean=np.full(C, 5, np.float32), gain=np.full(C, 0.5, np.float32))
    bundle = replace(small_bundle, read_in=r)

    def day(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = rng.normal(size=(4000, 4))
        return z, 5 + z @ code.T + 0.5 * rng.normal(size=(4000, C))

    (_, x), (z, y) = day(loadings), day(later)
    source, today = trials(bundle, x), trials(bundle, y)
    wanted = r.apply((5 + z @ loadings.T).astype(np.float32))
    off = {f.__name__: close(f(bundle, source, today, 0).apply(y), wanted) for f in (renormalise, factor_procrustes)}
    assert off["factor_procrustes"] < 0.25
    assert off["renormalise"] > 0.8


def test_factors_of_the_source_day_itself_lose_little_movement(small_bundle: Bundle) -> None:
    """Back from factors, the shared part must have the size that it had: posterior means alone are too small."""
    rng = np.random.default_rng(0)
    z, loadings = rng.normal(size=(6000, 3)), 0.4 * rng.normal(size=(C, 3))
    x = 5 + z @ loadings.T + rng.normal(size=(6000, C))
    day = trials(small_bundle, x)
    found = factor_procrustes(small_bundle, day, day, 0).apply(x)
    shared = small_bundle.read_in.apply((5 + z @ loadings.T).astype(np.float32))
    slope = np.linalg.lstsq(shared - shared.mean(0), found - found.mean(0), rcond=1e-3)[0]
    direction = np.linalg.svd(shared - shared.mean(0), full_matrices=False)[2][0]
    assert direction @ slope @ direction == pytest.approx(1.0, abs=0.1)
