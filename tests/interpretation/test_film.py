from pathlib import Path

import numpy as np
import pytest
import torch

from bci_align.config import ExplainConfig, FactorConfig, FilmConfig
from bci_align.errors import InterpretationError
from bci_align.interpretation.film import PANELS, compose, guide_to, make_film, noise
from bci_align.interpretation.store import FactorModel, load_model
from bci_align.interpretation.train import train_model
from bci_align.interpretation.video import write_film
from bci_align.session.types import Session


def test_a_film_has_all_its_panels(factor_model: FactorModel) -> None:
    assert factor_model.filming is not None
    film = make_film(factor_model.filming, 0, clips=2, seed=1)
    assert tuple(film.clips) == PANELS
    for pictures in film.clips.values():
        assert pictures.shape == (2, 16, 12, 15)
        assert pictures.min() >= 0 and pictures.max() <= 1
    again = make_film(factor_model.filming, 0, clips=2, seed=1)
    assert all((again.clips[p] == film.clips[p]).all() for p in PANELS)
    assert (make_film(factor_model.filming, 1, 2, 1).clips["unguided"] == film.clips["unguided"]).all()
    frames = compose(film, "vx")
    assert frames.shape[0] == 16 and frames.shape[3] == 3 and frames.dtype == np.uint8


def test_the_guide_activates_what_it_is_told_to(factor_model: FactorModel) -> None:
    """By the guide's own encoder: that the pictures show it, too, is what the benchmark's tracker is for."""
    filming = factor_model.filming
    assert filming is not None
    for chosen in (0, 2):
        clips = make_film(filming, chosen, clips=8).clips
        seen = [filming.encoder(filming.codec.encode(torch.from_numpy(clips[p]))).var(1).mean(0) for p in ("unguided", "guided")]
        ratio = seen[1] / seen[0]
        assert ratio[chosen] > 1.5 * ratio[[c for c in range(3) if c != chosen]].max()


def test_what_is_known_of_the_film_is_in_the_manifest(factor_model: FactorModel) -> None:
    shape = factor_model.manifest.film
    assert shape is not None and shape.frames == "kinematics" and shape.scene is not None
    assert shape.record["codec_r2"] > 0.9
    assert max(shape.record["encoder_r2"]) > 0.3
    assert (shape.height, shape.width, shape.length) == (12, 15, 16)
    assert shape.record["diffusion_loss"][-1] < 0.7 * shape.record["diffusion_loss"][0]


def test_a_camera_s_frames_and_a_convolutional_codec(mixed: Session, tmp_path: Path) -> None:
    """A textured blob that brightens with the grip, as an array; and the same as mp4."""
    assert mixed.kinematics is not None
    grip = (mixed.kinematics[:, 2] - mixed.kinematics[:, 2].min()) / np.ptp(mixed.kinematics[:, 2])
    texture = np.random.default_rng(0).random((16, 16))
    frames = (texture * (0.2 + 0.8 * grip[:, None, None]) * 255).astype(np.uint8)
    film = FilmConfig(
        size=16, length=12, codec="convolutional", components=4, codec_epochs=3, width=16, blocks=1, updates=6, strides=4
    )
    config = ExplainConfig(factors=FactorConfig(hidden=8, updates=6), film=film)
    np.save(tmp_path / "camera.npy", frames)
    model = train_model(mixed, config, 0, tmp_path / "a", camera=tmp_path / "camera.npy")
    assert model.manifest.film is not None and model.manifest.film.frames == "camera.npy"
    assert model.manifest.film.scene is None
    assert model.manifest.film.record["codec_r2"] > 0.5
    assert load_model(tmp_path / "a").filming is not None
    write_film(tmp_path / "camera.mp4", np.repeat(frames[..., None], 3, -1), 1 / mixed.bin_s)
    second = train_model(mixed, config, 0, tmp_path / "b", camera=tmp_path / "camera.mp4")
    assert second.filming is not None
    assert make_film(second.filming, 2).clips["guided"].shape == (1, 12, 16, 16)
    np.save(tmp_path / "short.npy", frames[:-1])
    with pytest.raises(InterpretationError, match=r"short\.npy: expected 3200 frames, one per bin of the session, found 3199"):
        train_model(mixed, config, 0, tmp_path / "c", camera=tmp_path / "short.npy")
    assert not (tmp_path / "c").exists()


def test_the_pixel_network_end_to_end_at_32_by_32_by_24(mixed: Session, tmp_path: Path) -> None:
    """Trained, guided, saved and read back on the CPU; what it costs at the paper's size is for a GPU."""
    from bci_align_sim.mixed import mixed_day

    day = mixed_day(1, trials=24, bins=24)
    film = FilmConfig(size=32, length=24, levels=(), space="pixels", width=8, blocks=3, updates=3, batch=8, steps=20, strides=4)
    config = ExplainConfig(factors=FactorConfig(hidden=8, updates=6), film=film)
    model = train_model(day, config, 0, tmp_path / "pixels")
    again = load_model(tmp_path / "pixels")
    assert model.filming is not None and again.filming is not None
    assert again.filming.sample_shape() == (24, 32, 32)
    clips = make_film(again.filming, 0).clips
    assert clips["guided"].shape == (1, 24, 32, 32)
    assert np.isfinite(clips["classifier-free"]).all()
    # Three steps of training draw noise, cut to 0 and 1: whether the gradient came through the net is seen before the cut.
    x = noise(again.filming, 1, 0)
    plain, pulled = (
        again.filming.diffusion.sample(tuple(x.shape), torch.Generator(), 4, x_T=x, guide=guide)
        for guide in (None, guide_to(again.filming, 0))
    )
    assert torch.isfinite(pulled).all() and not torch.equal(plain, pulled)
