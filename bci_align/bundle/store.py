"""Bundles on disk: written once, hashed, free of pickle, and loaded only when every hash agrees."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from bci_align.atomic import write_directory
from bci_align.bundle import manifest as mf
from bci_align.bundle.graph import build
from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.bundle.pipeline import Pipeline
from bci_align.decoders import KINDS, Decoder
from bci_align.diffusion.process import Diffusion
from bci_align.errors import BundleError
from bci_align.models.denoiser import LatentDenoiser
from bci_align.models.encoder import ReadIn, SourceModel

READ_IN = ("mean", "gain", "weight", "bias")


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: ``path``, ``manifest``, ``identity`` (SHA-256 of the manifest), ``read_in``; models on demand."""

    path: Path
    manifest: Manifest
    identity: str
    read_in: ReadIn
    _files: dict[str, bytes] = field(repr=False)

    def decoder(self) -> Decoder:
        """Build the velocity decoder."""
        where = self.path / "decoder.safetensors"
        try:
            return KINDS[self.manifest.decoder].load(_tensors(self._files["decoder.safetensors"], where))
        except (KeyError, IndexError) as e:
            raise BundleError(f"{where}: expected the arrays of a {self.manifest.decoder} decoder, {e} is missing") from None

    def pipeline(self) -> Pipeline:
        """Build the decode step: one ONNX Runtime session of one thread."""
        m = self.manifest
        return Pipeline(self._files["core.onnx"], self.decoder(), m.hidden, np.array(m.scale), np.array(m.clamp))

    def models(self) -> tuple[SourceModel, Diffusion]:
        """Build the torch source model, with this bundle's read-in in it, and the diffusion prior, both in eval mode."""
        m = self.manifest
        source = SourceModel(len(m.channels), m.hidden, m.latents, len(m.outputs))
        prior = new_prior(m.latents, m.prior)
        try:
            tensors = safetensors.torch.load(self._files["core.safetensors"])
            source.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("source.")}, strict=True)
            prior.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("prior.")}, strict=True)
        except SafetensorError as e:
            raise BundleError(f"{self.path / 'core.safetensors'}: not a safetensors file ({e})") from None
        except RuntimeError as e:
            raise BundleError(f"{self.path / 'core.safetensors'}: does not fit its manifest ({str(e).splitlines()[0]})") from None
        source.set_read_in(self.read_in)
        return source.eval(), prior.eval()


def new_prior(latents: int, shape: PriorShape) -> Diffusion:
    """Build an untrained diffusion prior of latent windows (B, window, d)."""
    return Diffusion(LatentDenoiser(latents, shape.width, shape.blocks), steps=shape.steps)


def save_source(path: Path, manifest: Manifest, source: SourceModel, prior: Diffusion, decoder: Decoder) -> Bundle:
    """Write generation 0; ``manifest.files`` is filled in here. The target must not exist."""
    tensors = {f"source.{k}": v for k, v in source.state_dict().items()} | {
        f"prior.{k}": v for k, v in prior.state_dict().items()
    }
    files = {
        "core.onnx": build(source.core, len(manifest.channels)),
        "core.safetensors": safetensors.torch.save({k: v.detach().contiguous() for k, v in tensors.items()}),
        "decoder.safetensors": safetensors.numpy.save(decoder.arrays()),
        "read_in.safetensors": _read_in_bytes(source.read_in()),
    }
    return _write(path, manifest, files)


def save_generation(parent: Bundle, read_in: ReadIn, path: Path, record: dict[str, Any]) -> Bundle:
    """Write the next generation: ``parent`` with another read-in and the ``record`` of the alignment that made it."""
    update = {"generation": parent.manifest.generation + 1, "parent": parent.identity, "alignment": record}
    files = dict(parent._files) | {"read_in.safetensors": _read_in_bytes(read_in)}
    return _write(path, parent.manifest.model_copy(update=update), files)


def load_bundle(path: Path | str) -> Bundle:
    """Load and verify a bundle; :class:`BundleError` names the file that is missing, altered or malformed."""
    path = Path(path)
    manifest, identity = mf.read(path)
    files = {}
    for name in mf.FILES:
        data = mf.read_bounded(path / name)
        if mf.digest(data) != manifest.files[name]:
            raise BundleError(f"{path / name}: expected SHA-256 {manifest.files[name][:12]}..., found {mf.digest(data)[:12]}...")
        files[name] = data
    if manifest.decoder not in KINDS:
        raise BundleError(f"{path / mf.NAME}: decoder: expected one of {', '.join(KINDS)}, found {manifest.decoder!r}")
    arrays = _tensors(files["read_in.safetensors"], path / "read_in.safetensors")
    c, h = len(manifest.channels), manifest.hidden
    for name, shape in zip(READ_IN, ((c,), (c,), (c, h), (h,)), strict=True):
        found = arrays[name].shape if name in arrays else "nothing"
        if found != shape or arrays[name].dtype != np.float32:
            raise BundleError(f"{path / 'read_in.safetensors'}: {name}: expected float32 {shape}, found {found}")
    read_in = ReadIn(*(arrays[name] for name in READ_IN))
    if not read_in.finite():
        raise BundleError(f"{path / 'read_in.safetensors'}: expected finite weights, found NaN or infinite values")
    return Bundle(path, manifest, identity, read_in, files)


def _write(path: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    manifest = manifest.model_copy(update={"files": {name: mf.digest(data) for name, data in files.items()}})
    with write_directory(path, error=BundleError) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        mf.write(manifest, temporary)
    return load_bundle(path)


def _read_in_bytes(read_in: ReadIn) -> bytes:
    data: bytes = safetensors.numpy.save({k: np.ascontiguousarray(getattr(read_in, k), np.float32) for k in READ_IN})
    return data


def _tensors(data: bytes, where: Path) -> dict[str, NDArray[np.float32]]:
    try:
        arrays: dict[str, NDArray[np.float32]] = safetensors.numpy.load(data)
    except SafetensorError as e:
        raise BundleError(f"{where}: not a safetensors file ({e})") from None
    return arrays


def versions() -> dict[str, str]:
    """Versions of the libraries that a training result depends on."""
    return {"torch": torch.__version__, "numpy": np.__version__}
