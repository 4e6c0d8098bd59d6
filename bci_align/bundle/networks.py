"""The torch networks of a bundle, as one safetensors file: source model, prior of the latents, prior of the kinematics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.diffusion.process import Diffusion
from bci_align.errors import BundleError
from bci_align.models.denoiser import LatentDenoiser
from bci_align.models.encoder import Core, SourceModel


def models(manifest: Manifest, data: bytes, where: Path) -> tuple[SourceModel, Diffusion]:
    """Build the source model, with the read-in of the source day, and the prior of its latents.

    :class:`BundleError` begins with ``where`` for ``data`` that does not fit ``manifest``.
    """
    m, tensors = manifest, _tensors(data, where)
    c, h = len(m.source_channels), m.hidden
    weight = tensors.get("source.readin.weight")
    if weight is None or weight.shape != (h, c):  # before a model of that size is made
        found = "nothing" if weight is None else tuple(weight.shape)
        raise BundleError(f"{where}: source.readin.weight: expected {(h, c)}, found {found}")
    source = SourceModel(c, h, m.latents, len(m.outputs))
    prior = new_prior(m.latents, m.prior)
    _fill(source, tensors, "source.", where)
    _fill(prior, tensors, "prior.", where)
    return source, prior


def movement_prior(manifest: Manifest, data: bytes, where: Path) -> Diffusion:
    """Build the prior of the kinematics; see :meth:`bci_align.bundle.store.Bundle.movement_prior`."""
    prior = new_prior(len(manifest.outputs), manifest.prior.model_copy(update={"layers": "both"}))
    _fill(prior, _tensors(data, where), "movement.", where)
    return prior.eval().requires_grad_(False)


def new_prior(latents: int, shape: PriorShape) -> Diffusion:
    """Build an untrained diffusion prior of latent windows (B, window, d)."""
    return Diffusion(LatentDenoiser(latents, shape.width, shape.blocks, layers=shape.layers), steps=shape.steps)


def pack(named: Mapping[str, nn.Module]) -> bytes:
    """Serialise the parameters of networks, each under its name."""
    tensors = {f"{name}.{k}": v for name, module in named.items() for k, v in module.state_dict().items()}
    return _bytes(tensors)


def with_core(data: bytes, core: Core) -> bytes:
    """Put another ``core`` into :func:`pack`'s bytes."""
    return _bytes(safetensors.torch.load(data) | {f"source.core.{k}": v for k, v in core.state_dict().items()})


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    data: bytes = safetensors.torch.save({k: v.detach().contiguous() for k, v in tensors.items()})
    return data


def _tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as e:
        raise BundleError(f"{where}: not a safetensors file ({e})") from None
    return tensors


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, where: Path) -> None:
    """Fill ``module`` from the tensors whose names begin with ``prefix``."""
    try:
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, strict=True)
    except RuntimeError as e:
        raise BundleError(f"{where}: does not fit its manifest ({str(e).splitlines()[0]})") from None
