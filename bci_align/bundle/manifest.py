"""The manifest: what a bundle says of itself, and the hashes that hold it to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError

from bci_align.config import Strict, explain
from bci_align.errors import BciAlignError, BundleError
from bci_align.models.layers import Layers

NAME = "manifest.json"
SEAL = "manifest.sha256"
"""Digest of the manifest, in a file beside it: an edited or damaged manifest is seen as any other file is."""
CORE = "core.safetensors"
"""The networks' weights."""
FILES = ("core.onnx", CORE, "decoder.safetensors", "read_in.safetensors", "source_trials.safetensors")
"""Everything a bundle holds beside its manifest. The names are fixed: a path never comes out of a manifest."""
MAX_FILE = 256 * 2**20
"""Bytes. The source trials are the largest file: 1000 trials of 100 bins and 1024 channels take 100 MB, 96 channels 10 MB."""
MAX_MANIFEST = 4 * 2**20
"""The same for the manifest, which is parsed; 1024 channels and a long record of an alignment take a tenth."""
VERSION = 2


class PriorShape(Strict):
    """Sizes of the diffusion prior."""

    width: int = Field(ge=4, le=512, description="width of every token")
    blocks: int = Field(ge=1, le=32, description="STBlocks")
    steps: int = Field(ge=2, le=4000, description="diffusion steps")
    window: int = Field(ge=2, le=4096, description="bins of a latent window")
    layers: Layers = Field("both", description="attention layers of every block")


class Manifest(Strict):
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
    files: dict[str, str] = Field(description="SHA-256 of every file")


def digest(data: bytes) -> str:
    """SHA-256 as hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _sealed(data: bytes) -> bytes:
    """The seal of a manifest's bytes, to the last byte: what differs from it anywhere is damaged."""
    return f"{digest(data)}\n".encode("ascii")


def write(manifest: Manifest, directory: Path) -> None:
    """Write ``manifest.json`` into ``directory``, keys sorted, so that equal manifests are equal bytes."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
    data = (text + "\n").encode()
    (directory / NAME).write_bytes(data)
    (directory / SEAL).write_bytes(_sealed(data))


def read(directory: Path) -> tuple[Manifest, str]:
    """Read the manifest of ``directory`` and its identity; :class:`BundleError` in one sentence if it is not one."""
    path = directory / NAME
    if not directory.is_dir():
        what = "is a file, not a bundle directory" if directory.exists() else "no such bundle directory"
        raise BundleError(f"{directory}: {what}")
    data = read_bounded(path, MAX_MANIFEST)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{path}: expected JSON, found something else ({e})") from None
    if not isinstance(content, dict) or content.get("format") != "bci_align.bundle":
        raise BundleError(f"{path}: expected format 'bci_align.bundle', found {_short(content)}")
    if content.get("version") != VERSION:
        raise BundleError(
            f"{path}: expected version {VERSION}, found {content.get('version')!r:.80};"
            " a bundle of another version of bci_align has to be trained again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as e:
        raise BundleError(f"{path}: {explain(Manifest, e)}") from None
    if set(manifest.files) != set(FILES):
        raise BundleError(f"{path}: files: expected {', '.join(FILES)}, found {', '.join(sorted(manifest.files)) or 'none':.200}")
    k = len(manifest.outputs)
    for name in ("units", "scale", "clamp"):
        if len(getattr(manifest, name)) != k:
            raise BundleError(f"{path}: {name}: expected {k} values, one per output, found {len(getattr(manifest, name))}")
    seal = read_bounded(directory / SEAL, MAX_MANIFEST)
    expected = seal.decode(errors="replace").strip()
    if expected == digest(data) and seal != _sealed(data):
        raise BundleError(f"{directory / SEAL}: expected a SHA-256 and the end of a line, found {seal[-4:]!r} at its end")
    if expected != digest(data):
        raise BundleError(f"{path}: expected SHA-256 {expected[:12]}... as in {SEAL}, found {digest(data)[:12]}...")
    return manifest, digest(data)


def read_bounded(path: Path, most: int = MAX_FILE, artefact: str = "bundle", error: type[BciAlignError] = BundleError) -> bytes:
    """Read a whole file that must exist, be a plain file (no link out of the ``artefact``) and have at most ``most`` bytes."""
    try:
        if path.is_symlink() or not path.is_file():
            raise error(f"{path}: expected a plain file of the {artefact}, found {'a link' if path.is_symlink() else 'nothing'}")
        if path.stat().st_size > most:
            raise error(f"{path}: expected at most {most} bytes, found {path.stat().st_size}")
        return path.read_bytes()
    except OSError as e:
        raise error(f"{path}: cannot be read ({e.strerror})") from None


def _short(content: object) -> str:
    """Describe unexpected JSON briefly."""
    return f"{content.get('format')!r:.80}" if isinstance(content, dict) else type(content).__name__
