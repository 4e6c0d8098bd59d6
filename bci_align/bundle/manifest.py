"""The manifest: what a bundle says of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from bci_align.bundle.artefact import Artefact, Sealed
from bci_align.config import Strict
from bci_align.errors import BundleError
from bci_align.models.layers import Layers

NAME = "manifest.json"
CORE = "core.safetensors"
"""The networks' weights."""
FILES = ("core.onnx", CORE, "decoder.safetensors", "read_in.safetensors", "source_trials.safetensors")
"""Everything a bundle holds beside its manifest. The names are fixed: a path never comes out of a manifest."""


class PriorShape(Strict):
    """Sizes of the diffusion prior."""

    width: int = Field(ge=4, le=512, description="width of every token")
    blocks: int = Field(ge=1, le=32, description="STBlocks")
    steps: int = Field(ge=2, le=4000, description="diffusion steps")
    window: int = Field(ge=2, le=4096, description="bins of a latent window")
    layers: Layers = Field("both", description="attention layers of every block")


class Manifest(Sealed):
    """The content of ``manifest.json``. Two bundles with the same manifest are the same bundle."""

    format: Literal["bci_align.bundle"] = "bci_align.bundle"
    version: Literal[2] = 2
    generation: int = Field(ge=0, description="0 for the source day's bundle, +1 with every accepted alignment")
    parent: str | None = Field(None, description="identity of the bundle this generation was aligned from")
    channels: tuple[str, ...] = Field(min_length=1, description="channel labels, in the order of the counts")
    source_channels: tuple[str, ...] = Field(
        min_length=1, description="channel labels of the source day, those of the source trials; a generation may have others"
    )
    bin_s: float = Field(gt=0, description="bin width in seconds")
    outputs: tuple[str, ...] = Field(min_length=1, description="names of the decoded kinematics")
    units: tuple[str, ...] = Field(min_length=1, description="their physical units")
    scale: tuple[PositiveFloat, ...] = Field(min_length=1, description="their source-day standard deviations, physical units")
    clamp: tuple[PositiveFloat, ...] = Field(min_length=1, description="largest magnitude let out, in units of scale")
    hidden: int = Field(ge=1, le=4096, description="units of the core")
    latents: int = Field(ge=1, le=512, description="latent dimensions")
    run_in: int = Field(ge=0, description="bins before a trial that settle the state")
    decoder: str = Field(description="kind of the velocity decoder")
    prior: PriorShape
    training: dict[str, Any] = Field(description="record of the source-day training: session, seed, scores, versions")
    alignment: dict[str, Any] | None = Field(None, description="record of the alignment that made this generation")


def _files(manifest: Manifest) -> tuple[str, ...]:
    return FILES


def _fault(manifest: Manifest) -> str | None:
    k = len(manifest.outputs)
    for name in ("units", "scale", "clamp"):
        if len(getattr(manifest, name)) != k:
            return f"{name}: expected {k} values, one per output, found {len(getattr(manifest, name))}"
    return None


BUNDLE = Artefact(Manifest, NAME, "bundle", BundleError, _files, _fault)
