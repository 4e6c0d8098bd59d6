import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bci_align.bundle import manifest as mf
from bci_align.bundle.store import Bundle, load_bundle, save_generation
from bci_align.errors import BundleError
from bci_align.models.encoder import ReadIn
from bci_align.session.types import Session


@pytest.fixture
def copy(small_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle.path, tmp_path / "copy"))


def reseal(bundle: Path, **change: object) -> None:
    """Change a manifest and its seal, as somebody would who knows both."""
    manifest = json.loads((bundle / mf.NAME).read_text()) | change
    (bundle / mf.NAME).write_text(json.dumps(manifest))
    (bundle / mf.SEAL).write_text(mf.digest((bundle / mf.NAME).read_bytes()))


def test_onnx_and_torch_agree_on_every_bin(small_bundle: Bundle, small_days: tuple[Session, Session]) -> None:
    counts = small_days[1].counts.astype(np.float32)
    source, _ = small_bundle.models()
    with torch.no_grad():
        expected = source(torch.from_numpy(counts)[None])[0][0].numpy()
    pipeline = small_bundle.pipeline()
    core = pipeline.state0().core
    latents = np.empty_like(expected)
    for i, x in enumerate(counts):
        core, latents[i] = pipeline.encode(core, x, small_bundle.read_in)
    assert len(counts) > 1500
    assert float(np.abs(latents - expected).max()) < 1e-5


def test_the_read_in_is_an_input_of_the_graph(small_bundle: Bundle) -> None:
    graph = onnx.load(small_bundle.path / "core.onnx").graph
    assert [i.name for i in graph.input] == ["counts", "state", "mean", "gain", "weight", "bias"]
    c, h = len(small_bundle.manifest.channels), small_bundle.manifest.hidden
    assert (c, h) not in [tuple(i.dims) for i in graph.initializer]
    pipeline, r = small_bundle.pipeline(), small_bundle.read_in
    other = ReadIn(r.mean + 1, r.gain, r.weight, r.bias)
    x = np.full(c, 3, np.float32)
    state = pipeline.state0()
    assert not np.allclose(pipeline.step(state, x, r)[1], pipeline.step(state, x, other)[1])
    np.testing.assert_allclose(pipeline.step(state, x, r)[1], pipeline.step(state, x + 1, other)[1], rtol=1e-5)


def test_offline_run_is_repeated_stepping_and_steps_are_pure(small_bundle: Bundle, small_days: tuple[Session, Session]) -> None:
    counts = small_days[0].counts[:200].astype(np.float32)
    pipeline, state = small_bundle.pipeline(), small_bundle.pipeline().state0()
    offline = pipeline.run(counts, small_bundle.read_in)
    for x, expected in zip(counts, offline, strict=True):
        twice = pipeline.step(state, x, small_bundle.read_in)[1]
        state, y, _ = pipeline.step(state, x, small_bundle.read_in)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(y, twice)


def test_outputs_are_clamped_and_said_to_be(small_bundle: Bundle) -> None:
    pipeline, r = small_bundle.pipeline(), small_bundle.read_in
    wild = ReadIn(r.mean, r.gain * 50, r.weight * 50, r.bias)
    rng = np.random.default_rng(0)
    state, clamped = pipeline.state0(), False
    for _ in range(300):
        state, y, hit = pipeline.step(state, rng.poisson(20, len(r.mean)).astype(np.float32), wild)
        clamped |= hit
        assert (np.abs(y) <= np.array(small_bundle.manifest.clamp) * np.array(small_bundle.manifest.scale) + 1e-9).all()
    pipeline.clamp = np.full_like(pipeline.clamp, 1e-6)
    assert pipeline.step(state, rng.poisson(20, len(r.mean)).astype(np.float32), r)[2]


def test_a_generation_keeps_its_parent_and_is_never_overwritten(small_bundle: Bundle, tmp_path: Path) -> None:
    r = small_bundle.read_in
    made = save_generation(small_bundle, ReadIn(r.mean + 1, r.gain, r.weight, r.bias), tmp_path / "gen1", {"method": "test"})
    assert made.manifest.generation == 1
    assert made.manifest.parent == small_bundle.identity
    assert made.identity != small_bundle.identity
    np.testing.assert_array_equal(made.read_in.mean, r.mean + 1)
    np.testing.assert_array_equal(load_bundle(small_bundle.path).read_in.mean, r.mean)
    with pytest.raises(BundleError, match="gen1"):
        save_generation(small_bundle, r, tmp_path / "gen1", {})


@pytest.mark.parametrize("name", mf.FILES)
def test_an_altered_or_missing_file_is_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: expected SHA-256"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)


def test_a_pickle_offered_as_a_model_is_refused(copy: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "exploded"),))  # type: ignore[return-value]

    (copy / "core.safetensors").write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((copy / mf.NAME).read_text())
    manifest["files"]["core.safetensors"] = mf.digest((copy / "core.safetensors").read_bytes())
    reseal(copy, files=manifest["files"])
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(copy).models()
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "model.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(BundleError, match="is a file, not a bundle directory"):
        load_bundle(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "expected version 1, found 2"),
        ({"format": "other"}, "expected format 'bci_align.bundle'"),
        ({"bin_s": -1}, "bin_s"),
        ({"files": {"../../etc/passwd": "0"}}, "files: expected"),
        ({"scale": [1.0]}, "scale: expected 2 values"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"decoder": "oracle"}, "decoder: expected one of"),
        ({"hidden": 33}, "expected float32"),
        ({"clamp": [-1.0, 1.0]}, "clamp"),
        ({"decoder": "kalman"}, "expected the arrays of a kalman decoder"),
    ],
)
def test_a_manifest_that_lies_is_refused(copy: Path, change: dict[str, object], says: str) -> None:
    reseal(copy, **change)
    with pytest.raises(BundleError, match=says):
        load_bundle(copy).decoder()


def test_an_edited_manifest_is_seen(copy: Path) -> None:
    text = (copy / mf.NAME).read_text()
    (copy / mf.NAME).write_text(text.replace('"run_in": 10', '"run_in": 11'))
    with pytest.raises(BundleError, match=r"manifest.json: expected SHA-256"):
        load_bundle(copy)
    (copy / mf.NAME).write_text(text)
    load_bundle(copy)


def test_a_link_out_of_the_bundle_is_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "core.onnx").rename(tmp_path / "elsewhere.onnx")
    (copy / "core.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="found a link"):
        load_bundle(copy)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle directory"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"manifest.json: expected a plain file"):
        load_bundle(tmp_path)


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())


@given(data=st.one_of(st.binary(max_size=200), JSON))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_bytes_raise_only_our_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / mf.NAME).write_bytes(data)
    with pytest.raises(BundleError):
        load_bundle(tmp_path)
