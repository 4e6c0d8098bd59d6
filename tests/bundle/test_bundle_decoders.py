"""Every kind of velocity decoder survives the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bci_align.bundle.store import Bundle, load_bundle, save_source
from bci_align.decoders import KINDS, Decoder, run
from bci_align.evaluation.score import evaluate, rows, score_outputs
from bci_align.session.types import Session


def turning(n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents (n, 8), kinematics (n, 2) that go round with a damped turn, so that no transition is symmetric, and all bins."""
    rng = np.random.default_rng(0)
    y, step = np.zeros((n, 2)), 0.95 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    for t in range(1, n):
        y[t] = step @ y[t - 1] + 0.3 * rng.standard_normal(2)
    y /= y.std(0)
    return y @ rng.standard_normal((2, 8)) + 0.5 * rng.standard_normal((n, 8)), y, np.arange(n)


def with_decoder(bundle: Bundle, decoder: Decoder, path: Path) -> Bundle:
    """What training would have written, had this decoder been the best."""
    model, prior = bundle.models()
    manifest = bundle.manifest.model_copy(update={"decoder": decoder.kind})
    return save_source(path, manifest, model, (prior, bundle.movement_prior()), decoder, bundle.source_trials())


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_decoder_comes_back_bit_for_bit(small_bundle: Bundle, tmp_path: Path, kind: str) -> None:
    """safetensors writes memory as it lies: a transition that lay in another order once came back as its transpose."""
    z, y, index = turning()
    decoder = KINDS[kind].fit(z, y, index)
    again = load_bundle(with_decoder(small_bundle, decoder, tmp_path / kind).path).decoder()
    assert again.kind == kind
    arrays = again.arrays()
    assert arrays.keys() == decoder.arrays().keys()
    for name, expected in decoder.arrays().items():
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name, strict=True)
    if kind == "kalman":
        assert np.abs(arrays["transition"] - arrays["transition"].T).max() > 0.3
    # The order in which BLAS adds follows the memory order, which may differ.
    np.testing.assert_allclose(run(again, z[:200]), run(decoder, z[:200]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_bundle_scores_as_its_decoder_does_on_latents(
    small_bundle: Bundle, small_days: tuple[Session, Session], tmp_path: Path, kind: str
) -> None:
    """Disk, graph and pipeline, against the decoder in memory on the latents that torch gives."""
    day, trials = small_days[0], small_days[0].rewarded()[:20]
    assert day.kinematics is not None
    model, scale = small_bundle.models()[0], np.array(small_bundle.manifest.scale)
    with torch.no_grad():
        latents = model(torch.from_numpy(day.counts.astype(np.float32))[None])[0][0].double().numpy()
    decoder = KINDS[kind].fit(latents, day.kinematics / scale, rows(day, day.rewarded()))
    bundle = with_decoder(small_bundle, decoder, tmp_path / kind)
    limit = np.array(bundle.manifest.clamp)
    expected = score_outputs(bundle, day, trials, np.clip(run(decoder, latents), -limit, limit) * scale)
    found = evaluate(bundle, day, trials)
    assert found["r2"] == pytest.approx(expected["r2"], abs=0.01)
    assert found["rmse"] == pytest.approx(expected["rmse"], rel=1e-4)
    assert expected["r2"] > 30
