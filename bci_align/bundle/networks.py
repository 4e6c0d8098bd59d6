"""The torch networks of a bundle, as one safetensors file: source model, prior of the latents, prior of the kinematics."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch

from bci_align.bundle.manifest import Manifest, PriorShape
from bci_align.bundle.tensors import fill, pack, unpack
from bci_align.diffusion.process import Diffusion
from bci_align.errors import BundleError
from bci_align.models.denoiser import LatentDenoiser
from bci_align.models.encoder import Core, SourceModel


def models(manifest: Manifest, data: bytes, where: Path) -> tuple[SourceModel, Diffusion]:
    """Build the source model, with the read-in of the source day, and the prior of its latents.

    :class:`BundleError` begins with ``where`` for ``data`` that does not fit ``manifest``.
    """
    m, tensors = manifest, unpack(data, where, BundleError)
    c, h = len(m.source_channels), m.hidden
    weight = tensors.get("source.readin.weight")
    if weight is None or weight.shape != (h, c):  # before a model of that size is made
        found = "nothing" if weight is None else tuple(weight.shape)
        raise BundleError(f"{where}: source.readin.weight: expected {(h, c)}, found {found}")
    source = SourceModel(c, h, m.latents, len(m.outputs))
    prior = new_prior(m.latents, m.prior)
    fill(source, tensors, "source", where, BundleError)
    fill(prior, tensors, "prior", where, BundleError)
    return source, prior


def movement_prior(manifest: Manifest, data: bytes, where: Path) -> Diffusion:
    """Build the prior of the kinematics; see :meth:`bci_align.bundle.store.Bundle.movement_prior`."""
    prior = new_prior(len(manifest.outputs), manifest.prior.model_copy(update={"layers": "both"}))
    fill(prior, unpack(data, where, BundleError), "movement", where, BundleError)
    return prior.eval().requires_grad_(False)


def new_prior(latents: int, shape: PriorShape) -> Diffusion:
    """Build an untrained diffusion prior of latent windows (B, window, d)."""
    return Diffusion(LatentDenoiser(latents, shape.width, shape.blocks, layers=shape.layers), steps=shape.steps)


def with_core(data: bytes, core: Core) -> bytes:
    """Put another ``core`` into the bytes of a bundle's networks."""
    return pack(safetensors.torch.load(data) | {f"source.core.{k}": v for k, v in core.state_dict().items()})
