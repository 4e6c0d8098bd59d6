"""Bundles on disk: written once, hashed, free of pickle, and loaded only when every hash agrees.

Torch is imported (with :mod:`bci_align.bundle.networks`) only where its networks are asked for: a decoder needs none of them, and
the import takes seconds of every start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bci_align.bundle import graph
from bci_align.bundle import manifest as mf
from bci_align.bundle import trials as source_trials
from bci_align.bundle.manifest import Manifest
from bci_align.bundle.pipeline import Pipeline
from bci_align.decoders import KINDS, Decoder
from bci_align.errors import BundleError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

if TYPE_CHECKING:
    from bci_align.diffusion.process import Diffusion
    from bci_align.models.encoder import SourceModel

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
        """Build the decode step: one ONNX Runtime session of one thread; :class:`BundleError` for one that does not run."""
        m, decoder, core = self.manifest, self.decoder(), self._files["core.onnx"]
        try:
            graph.check(core)
            pipeline = Pipeline(core, decoder, m.hidden, np.array(m.scale), np.array(m.clamp))
            _, output, _ = pipeline.step(pipeline.state0(), self.read_in.mean, self.read_in)
            if output.shape != (len(m.outputs),):
                raise ValueError(f"outputs {output.shape}")
        except Exception as e:  # ONNX Runtime's faults have no base of their own
            raise BundleError(
                f"{self.path}: core.onnx and decoder.safetensors: expected a step from {len(m.channels)} channels to "
                f"{len(m.outputs)} outputs, found {' '.join(str(e).split()):.200}"
            ) from None
        return pipeline

    def models(self) -> tuple[SourceModel, Diffusion]:
        """Build the torch source model, with this bundle's read-in in it, and the diffusion prior, both in eval mode.

        Its spike decoder is the source day's: the rates of ``manifest.source_channels``, whatever the read-in takes.
        """
        from bci_align.bundle import networks

        source, prior = networks.models(self.manifest, self._files[mf.CORE], self.path / mf.CORE)
        source.set_read_in(self.read_in)
        return source.eval(), prior.eval()

    def movement_prior(self) -> Diffusion:
        """Build the diffusion prior of the source day's kinematics: windows (B, window, K) in source standard deviations."""
        from bci_align.bundle import networks

        return networks.movement_prior(self.manifest, self._files[mf.CORE], self.path / mf.CORE)

    def source_read_in(self) -> ReadIn:
        """Give the read-in that the source day was trained with, whatever generation this is; for :meth:`source_trials`."""
        where = self.path / mf.CORE
        t = _tensors(self._files[mf.CORE], where)
        try:
            return ReadIn(t["source.mean"], t["source.gain"], t["source.readin.weight"].T.copy(), t["source.readin.bias"])
        except KeyError as e:
            raise BundleError(f"{where}: expected the source day's read-in, {e} is missing") from None

    def source_trials(self) -> UnlabelledTrials:
        """Give the source day's training trials, counts alone: what a day with other channels is registered to."""
        where = self.path / source_trials.NAME
        return source_trials.unpack(self._files[source_trials.NAME], where, self.manifest.source_channels, self.manifest.bin_s)


def save_source(
    path: Path,
    manifest: Manifest,
    source: SourceModel,
    priors: tuple[Diffusion, Diffusion],
    decoder: Decoder,
    trials: UnlabelledTrials,
) -> Bundle:
    """Write generation 0 with its training ``trials`` in it; ``manifest.files`` is filled in here. The target must not exist.

    ``priors``: of the latents, and of the kinematics.
    """
    from bci_align.bundle import tensors

    files = {
        "core.onnx": graph.build(source.core, len(manifest.channels)),
        mf.CORE: tensors.pack({"source": source, "prior": priors[0], "movement": priors[1]}),
        "decoder.safetensors": _decoder_bytes(decoder),
        "read_in.safetensors": _read_in_bytes(source.read_in()),
        source_trials.NAME: source_trials.pack(trials),
    }
    return _write(path, manifest, files)


def save_generation(
    parent: Bundle,
    read_in: ReadIn,
    path: Path,
    record: dict[str, Any],
    channels: tuple[str, ...] | None = None,
    encoder: SourceModel | None = None,
    generation: int | None = None,
    decoder: Decoder | None = None,
) -> Bundle:
    """Write the next generation: ``parent`` with another read-in and the ``record`` of the alignment that made it.

    ``channels`` are the labels of a session whose units are not the parent's; the read-in must have a row for each, and the
    graph is rebuilt for as many. None keeps the parent's. ``encoder``, where alignment moved more than the read-in, gives the
    new core. ``generation`` is its number where the parent's next one has been given to a candidate that was taken back;
    ``decoder`` one that was refitted.
    """
    channels = parent.manifest.channels if channels is None else channels
    if not all(len(a) == len(channels) for a in (read_in.mean, read_in.gain, read_in.weight)):
        raise BundleError(f"{path}: read-in: expected {len(channels)} channels, found {len(read_in.weight)} rows")
    update = {
        "generation": parent.manifest.generation + 1 if generation is None else generation,
        "parent": parent.identity,
        "alignment": record,
        "channels": channels,
    }
    files = dict(parent._files) | {"read_in.safetensors": _read_in_bytes(read_in)}
    if decoder is not None:
        update["decoder"] = decoder.kind
        files["decoder.safetensors"] = _decoder_bytes(decoder)
    if encoder is not None:
        from bci_align.bundle import networks

        files[mf.CORE] = networks.with_core(parent._files[mf.CORE], encoder.core)
    if encoder is not None or len(channels) != len(parent.manifest.channels):
        files["core.onnx"] = graph.build((encoder or parent.models()[0]).core, len(channels))
    return _write(path, parent.manifest.model_copy(update=update), files)


def load_bundle(path: Path | str) -> Bundle:
    """Load and verify a bundle; :class:`BundleError` names the file that is missing, altered or malformed."""
    path = Path(path)
    manifest, identity, files = mf.BUNDLE.read(path)
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
    mf.BUNDLE.write(path, manifest, files)
    return load_bundle(path)


def _decoder_bytes(decoder: Decoder) -> bytes:
    # safetensors writes an array's memory as it lies: one in another order would come back transposed.
    data: bytes = safetensors.numpy.save({k: np.ascontiguousarray(a) for k, a in decoder.arrays().items()})
    return data


def _read_in_bytes(read_in: ReadIn) -> bytes:
    data: bytes = safetensors.numpy.save({k: np.ascontiguousarray(getattr(read_in, k), np.float32) for k in READ_IN})
    return data


def _tensors(data: bytes, where: Path) -> dict[str, NDArray[np.float32]]:
    try:
        arrays: dict[str, NDArray[np.float32]] = safetensors.numpy.load(data)
    except SafetensorError as e:
        raise BundleError(f"{where}: not a safetensors file ({e})") from None
    except KeyError as e:  # a number type that NumPy does not know
        raise BundleError(f"{where}: expected numbers of NumPy's types, found {e}") from None
    return arrays


def versions() -> dict[str, str]:
    """Versions of the libraries that a training result depends on."""
    return {"torch": version("torch"), "numpy": np.__version__}
