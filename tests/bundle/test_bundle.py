import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bci_align.bundle import manifest as mf
from bci_align.bundle import trials as source_trials
from bci_align.bundle.artefact import digest
from bci_align.bundle.store import Bundle, load_bundle, save_generation
from bci_align.decoders import Wiener
from bci_align.errors import BundleError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled


@pytest.fixture
def copy(small_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle.path, tmp_path / "copy"))


def reseal(bundle: Path, **change: object) -> None:
    """Change a manifest and its seal, as somebody would who knows both."""
    manifest = json.loads((bundle / mf.NAME).read_text()) | change
    (bundle / mf.NAME).write_text(json.dumps(manifest))
    (bundle / mf.BUNDLE.seal).write_text(digest((bundle / mf.NAME).read_bytes()) + "\n")


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


def other_units(bundle: Bundle, channels: int) -> ReadIn:
    rng = np.random.default_rng(0)
    h = bundle.manifest.hidden
    mean, weight = rng.random(channels).astype(np.float32), rng.standard_normal((channels, h)).astype(np.float32)
    return ReadIn(mean, np.ones(channels, np.float32), 0.1 * weight, bundle.read_in.bias)


@pytest.mark.parametrize("channels", [20, 45, 32])
def test_a_generation_may_have_other_channels(small_bundle: Bundle, tmp_path: Path, channels: int) -> None:
    read_in, labels = other_units(small_bundle, channels), tuple(f"unit{i + 1}" for i in range(channels))
    made = load_bundle(save_generation(small_bundle, read_in, tmp_path / "gen1", {}, labels).path)
    assert made.manifest.channels == labels
    assert made.manifest.source_channels == small_bundle.manifest.channels
    counts = np.random.default_rng(1).poisson(1.0, (60, channels)).astype(np.float32)
    source, _ = made.models()
    assert source.spikes.out_features == len(small_bundle.manifest.channels)
    with torch.no_grad():
        expected = source(torch.from_numpy(counts)[None])[0][0].numpy()
    pipeline = made.pipeline()
    core, latents = pipeline.state0().core, np.empty_like(expected)
    for i, x in enumerate(counts):
        core, latents[i] = pipeline.encode(core, x, made.read_in)
    assert float(np.abs(latents - expected).max()) < 1e-5
    # and back again: the next generation of it, with its parent's channels or with the source's
    again = save_generation(made, read_in, tmp_path / "gen2", {})
    assert (again.manifest.generation, again.manifest.channels) == (2, labels)
    home = save_generation(made, made.source_read_in(), tmp_path / "gen3", {}, made.manifest.source_channels)
    for name in ("mean", "gain", "weight", "bias"):
        np.testing.assert_array_equal(getattr(home.read_in, name), getattr(small_bundle.read_in, name))
    assert (home.path / "core.onnx").read_bytes() == (small_bundle.path / "core.onnx").read_bytes()
    with pytest.raises(BundleError, match=f"read-in: expected 32 channels, found {channels + 1} rows"):
        save_generation(small_bundle, other_units(small_bundle, channels + 1), tmp_path / "gen4", {})


def test_the_source_trials_are_those_of_the_training(
    small_bundle: Bundle, small_days: tuple[Session, Session], tmp_path: Path
) -> None:
    day, m = small_days[0], small_bundle.manifest
    training = np.setdiff1d(day.rewarded(), m.training["validation_trials"])
    expected = unlabelled(day, training, m.run_in)
    made = save_generation(small_bundle, other_units(small_bundle, 7), tmp_path / "gen1", {}, tuple("abcdefg"))
    for found in (small_bundle.source_trials(), made.source_trials()):
        assert (found.run_in, found.bin_s, found.channels) == (expected.run_in, expected.bin_s, expected.channels)
        assert [c.dtype for c in found.counts] == [np.float32] * len(training)
        for a, b in zip(found.counts, expected.counts, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("most", [255, 256, 70_000])
def test_source_trials_pack_into_the_smallest_integers(most: int) -> None:
    trials = UnlabelledTrials((np.full((3, 2), most, np.float32), np.ones((1, 2), np.float32)), (1, 0), 0.02, ("a", "b"))
    data = source_trials.pack(trials)
    assert safetensors.numpy.load(data)["counts"].itemsize == {255: 1, 256: 2, 70_000: 4}[most]
    again = source_trials.unpack(data, "here", trials.channels, trials.bin_s)
    assert again.run_in == (1, 0)
    assert [c.tolist() for c in again.counts] == [c.tolist() for c in trials.counts]


def test_source_trials_come_back_whatever_their_memory_order() -> None:
    """Counts of an imported recording lie column by column; written as they lie they would come back scrambled."""
    rng = np.random.default_rng(0)
    counts = tuple(np.asfortranarray(rng.integers(0, 9, (n, 5)).astype(np.float32)) for n in (7, 11))
    again = source_trials.unpack(
        source_trials.pack(UnlabelledTrials(counts, (2, 0), 0.02, tuple("abcde"))), "here", tuple("abcde"), 0.02
    )
    for found, expected in zip(again.counts, counts, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_decoder_comes_back_whatever_its_memory_order(small_bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    d = small_bundle.manifest.latents
    weight = np.asfortranarray(rng.standard_normal((3 * d, 2)).astype(np.float32))
    made = Wiener(weight, np.zeros(2, np.float32), 3)
    save_generation(small_bundle, small_bundle.read_in, tmp_path / "next", {}, decoder=made)
    found = load_bundle(tmp_path / "next").decoder()
    np.testing.assert_array_equal(found.arrays()["weight"], weight)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"counts": np.ones((4, 2), np.float32)}, "counts: expected unsigned integers, found float32"),
        ({"counts": np.ones((4, 3), np.uint8)}, r"counts: expected \(bins, 2\), one column per channel, found \(4, 3\)"),
        ({"lengths": np.array([3, 2], np.uint32)}, "lengths and run_in: expected those of trials that fill 4 bins"),
        ({"lengths": np.array([4], np.uint32)}, "lengths and run_in"),
        ({"run_in": np.array([3, 0], np.uint32)}, "lengths and run_in"),
        ({"run_in": None}, "run_in: expected unsigned integers, found nothing"),
    ],
)
def test_source_trials_that_are_none_are_refused(change: dict[str, np.ndarray | None], says: str) -> None:
    good: dict[str, np.ndarray | None] = {
        "counts": np.ones((4, 2), np.uint8),
        "lengths": np.array([3, 1], np.uint32),
        "run_in": np.zeros(2, np.uint32),
    }
    data = safetensors.numpy.save({k: v for k, v in (good | change).items() if v is not None})
    with pytest.raises(BundleError, match=f"here: {says}"):
        source_trials.unpack(data, "here", ("a", "b"), 0.02)
    with pytest.raises(BundleError, match="here: not a safetensors file"):
        source_trials.unpack(b"nothing", "here", ("a", "b"), 0.02)


def test_the_pipeline_starts_anew_at_breaks(small_bundle: Bundle, small_days: tuple[Session, Session]) -> None:
    counts, r, pipeline = small_days[0].counts[:60].astype(np.float32), small_bundle.read_in, small_bundle.pipeline()
    found = pipeline.run(counts, r, (20, 35))
    parts = [pipeline.run(counts[a:b], r) for a, b in ((0, 20), (20, 35), (35, 60))]
    np.testing.assert_array_equal(found, np.concatenate(parts))
    assert not np.array_equal(found, pipeline.run(counts, r))


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
    manifest["files"]["core.safetensors"] = digest((copy / "core.safetensors").read_bytes())
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
        ({"version": 1}, "expected version 2, found 1; a bundle of another version of bci_align has to be trained again"),
        ({"format": "other"}, "expected format 'bci_align.bundle'"),
        ({"bin_s": -1}, "bin_s"),
        ({"files": {"../../etc/passwd": "0"}}, "files: expected"),
        ({"scale": [1.0]}, "scale: expected 2 values"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"decoder": "oracle"}, "decoder: expected one of"),
        ({"hidden": 33}, "expected float32"),
        ({"channels": ["a", "b"]}, r"read_in.safetensors: mean: expected float32 \(2,\), found \(32,\)"),
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
