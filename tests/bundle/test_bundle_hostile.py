"""Bundles made to do harm, by somebody who seals them properly: every hash agrees, and what is inside lies."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bci_align.bundle import manifest as mf
from bci_align.bundle.artefact import MAX_MANIFEST, digest
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.errors import BundleError

fuzzed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shared_copy(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(small_bundle.path, tmp_path_factory.mktemp("hostile") / "copy"))


@pytest.fixture
def copy(shared_copy: Path, small_bundle: Bundle) -> Path:
    """A copy as it was made; what the test before did to it is undone."""
    for name in (mf.NAME, mf.BUNDLE.seal, *mf.FILES):
        (shared_copy / name).write_bytes((small_bundle.path / name).read_bytes())
    return shared_copy


def put(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and every hash that is to agree with it."""
    (bundle / name).write_bytes(data)
    if name != mf.NAME:
        content = json.loads((bundle / mf.NAME).read_text())
        content["files"][name] = digest(data)
        (bundle / mf.NAME).write_text(json.dumps(content))
    (bundle / mf.BUNDLE.seal).write_text(digest((bundle / mf.NAME).read_bytes()) + "\n")


def use(path: Path) -> None:
    """All that the live system and alignment do with a bundle before the first bin."""
    bundle = load_bundle(path)
    bundle.pipeline()
    bundle.source_trials()
    bundle.source_read_in()


def attempt(path: Path) -> None:
    try:
        use(path)
    except BundleError as e:
        assert "\n" not in str(e) and len(str(e)) < 2000


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3))


@given(key=st.sampled_from(sorted(mf.Manifest.model_fields)), value=anything)
@fuzzed
def test_any_value_in_the_manifest(copy: Path, small_bundle: Bundle, key: str, value: object) -> None:
    content = json.loads((small_bundle.path / mf.NAME).read_text()) | {key: value}
    put(copy, mf.NAME, json.dumps(content).encode())
    attempt(copy)


@given(name=st.sampled_from(mf.FILES), at=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=8))
@fuzzed
def test_any_bytes_in_any_file(copy: Path, small_bundle: Bundle, name: str, at: float, value: bytes) -> None:
    good = (small_bundle.path / name).read_bytes()
    # The head is where lengths and shapes are: half of the changes go there.
    at = int(at * 2 * len(good)) if at < 0.5 else int((at - 0.5) * 2 * 400)
    put(copy, name, good[:at] + value + good[at + len(value) :])
    attempt(copy)
    put(copy, name, good)


def tensors(**declared: tuple[str, list[int], int]) -> bytes:
    """A safetensors file whose header declares ``name: (dtype, shape, bytes)`` and has 64 bytes to give."""
    header, at = {}, 0
    for name, (dtype, shape, size) in declared.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


@pytest.mark.parametrize("name", [n for n in mf.FILES if n.endswith(".safetensors")])
@pytest.mark.parametrize(
    "data",
    [
        tensors(mean=("F32", [10 * 2**30 // 4], 10 * 2**30), source=("F32", [1], 4)),
        tensors(mean=("F32", [2**31, 2**31], 64)),
        tensors(mean=("BF16", [32], 64)),
        tensors(counts=("F8_E4M3", [64], 64)),
        struct.pack("<Q", 2**63 - 1) + b"{}",
        b"",
    ],
    ids=["ten gigabytes", "overflow", "bfloat", "eight bits", "header without end", "empty"],
)
def test_arrays_that_are_declared_and_not_there(copy: Path, name: str, data: bytes) -> None:
    put(copy, name, data)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            bundle = load_bundle(copy)
            bundle.decoder()
            bundle.source_trials()
            bundle.source_read_in()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**26


def test_a_model_larger_than_its_weights_is_never_made(copy: Path, small_bundle: Bundle) -> None:
    """100,000 source channels of 4096 units are 1.6 GB, declared in a megabyte."""
    many = [str(k) for k in range(100_000)]
    put(copy, mf.NAME, json.dumps(json.loads((copy / mf.NAME).read_text()) | {"source_channels": many}).encode())
    with pytest.raises(BundleError, match=r"source\.readin\.weight: expected \(32, 100000\), found \(32, 32\)"):
        load_bundle(copy).models()
    put(copy, mf.NAME, b"{" + b" " * MAX_MANIFEST + b"}")
    with pytest.raises(BundleError, match=f"manifest.json: expected at most {MAX_MANIFEST} bytes"):
        load_bundle(copy)


def weights_elsewhere(model: onnx.ModelProto, to: str) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "one")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", to), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def large_output(model: onnx.ModelProto) -> None:
    """Ten gigabytes from a node that a core does not have."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [10 * 2**30 // 4])
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["huge"]))


def transposed(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "w_z")
    tensor.dims[:] = list(reversed(tensor.dims))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: weights_elsewhere(m, "../outside.bin"), "weights that are not in the graph"),
        (lambda m: weights_elsewhere(m, "/etc/passwd"), "weights that are not in the graph"),
        (large_output, "operators that no core has: ConstantOfShape"),
        (transposed, "expected a step from 32 channels to 2 outputs"),
        (lambda m: m.graph.ClearField("node"), "expected a step from 32 channels to 2 outputs"),
    ],
    ids=["beside the bundle", "anywhere", "large", "transposed", "empty"],
)
def test_graphs_that_are_no_core(copy: Path, change: Callable[[onnx.ModelProto], None], sentence: str) -> None:
    (copy.parent / "outside.bin").write_bytes(bytes(4))
    model = onnx.ModelProto.FromString((copy / "core.onnx").read_bytes())
    change(model)
    put(copy, "core.onnx", model.SerializeToString())
    with pytest.raises(BundleError) as e:
        load_bundle(copy).pipeline()
    assert sentence in str(e.value)


def test_a_decoder_of_another_size(copy: Path) -> None:
    arrays = safetensors.numpy.load((copy / "decoder.safetensors").read_bytes())
    for name, array in arrays.items():
        put(copy, "decoder.safetensors", safetensors.numpy.save(arrays | {name: np.zeros((3, *array.shape[1:]), array.dtype)}))
        with pytest.raises(BundleError):
            load_bundle(copy).pipeline()


@pytest.mark.parametrize("name", ["../core.onnx", "/etc/passwd", "core.onnx/../../x", ""])
def test_no_path_comes_out_of_a_manifest(copy: Path, name: str) -> None:
    content = json.loads((copy / mf.NAME).read_text())
    content["files"] = {name: digest(b""), **{k: v for k, v in content["files"].items() if k != "core.onnx"}}
    put(copy, mf.NAME, json.dumps(content).encode())
    with pytest.raises(BundleError, match=r"manifest\.json: files: expected"):
        load_bundle(copy)


@pytest.mark.parametrize("name", [mf.NAME, mf.BUNDLE.seal, *mf.FILES])
def test_no_link_is_followed(copy: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(copy / name, tmp_path / "elsewhere")
    linked = Path(shutil.copytree(copy, tmp_path / "linked"))
    (linked / name).unlink()
    (linked / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="found a link"):
        load_bundle(linked)
