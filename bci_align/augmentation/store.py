"""Models of trials on disk: a directory written once, hashed, free of pickle, and loaded only when every hash agrees."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from bci_align.atomic import write_directory
from bci_align.augmentation.codes import CodeSpace, untrained
from bci_align.augmentation.generate import CodePrior, Generator
from bci_align.augmentation.model import Model
from bci_align.augmentation.navigate import AXES, Navigator
from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import LEAST_BIN_S, Scaler, TrialSet, cut, window_bins
from bci_align.bundle.manifest import MAX_FILE, digest, read_bounded
from bci_align.config import AugmentConfig, Strict, explain
from bci_align.errors import AugmentationError, MismatchError
from bci_align.session.digest import digest as session_digest
from bci_align.session.types import Session

NAME, SEAL = "model.json", "model.sha256"
VERSION = 2
MAX_MANIFEST = 4 * 2**20
WHAT = "model of trials"
TWINS = ("full", "proof")
PARTS: dict[str, tuple[str, ...]] = {
    "navigator": ("mean", "sd", "centre", "directions", "precision", "limit", "targets"),
    "spikes": ("dispersion", "memory"),
    "edited": ("dispersion", "memory"),
    "prior": ("weights", "means", "covariances"),
    "scaler": ("mean", "sd"),
}
"""Arrays of a generator beside its networks."""


class ModelManifest(Strict):
    """The content of ``model.json``."""

    format: Literal["bci_align.trial_model"] = "bci_align.trial_model"
    version: Literal[2] = 2
    session: str = Field(description="name of the session whose trials it knows")
    session_sha256: str = Field(description="digest of all that session holds: counts, kinematics, trials, targets")
    counts_sha256: str = Field(description="fingerprint of its counts alone, to tell other labels from another day")
    channels: tuple[str, ...] = Field(min_length=1, description="channel labels")
    bin_s: float = Field(ge=LEAST_BIN_S, le=10, description="bin width in seconds")
    outputs: tuple[str, ...] = Field(min_length=1, description="names of the kinematics")
    units: tuple[str, ...] = Field(min_length=1, description="their units")
    variables: tuple[str, ...] = Field(min_length=1, description="variables that can be navigated by")
    trials: tuple[int, ...] = Field(min_length=1, description="trials of the session that it was trained on")
    held_out: tuple[int, ...] = Field(min_length=1, description="places among those that the twin has not seen")
    seed: int = Field(ge=0)
    config: AugmentConfig
    files: dict[str, str] = Field(description="SHA-256 of both files")


@dataclass(frozen=True)
class Stored:
    """A loaded model: ``path``, ``manifest``, ``identity`` (SHA-256 of the manifest), ``model``."""

    path: Path
    manifest: ModelManifest
    identity: str
    model: Model

    def cuts(self, session: Session) -> TrialSet:
        """The trials that the model was trained on, out of their ``session``; :class:`MismatchError` for another one."""
        m = self.manifest
        for what, expected, found in (
            ("channels", len(m.channels), len(session.channels)),
            ("channel labels", m.channels, session.channels),
            ("bin width", m.bin_s, session.bin_s),
            ("kinematics", ", ".join(m.outputs), ", ".join(session.kinematics_names) or "none"),
        ):
            if expected != found:
                shown = (expected, found) if what != "channel labels" else ("the model's", "others")
                raise MismatchError(f"session {session.name!r}: {what}: expected {shown[0]} as in {self.path}, found {shown[1]}")
        if session.fingerprint() == m.counts_sha256 and session_digest(session) != m.session_sha256:
            raise MismatchError(
                f"session {session.name!r}: expected {m.session!r} as {self.path} was trained on it, "
                "found the same counts with other kinematics, trials, targets or names"
            )
        if session.fingerprint() != m.counts_sha256:
            raise MismatchError(
                f"session {session.name!r}: expected {m.session!r}, the one {self.path} was trained on, found another: "
                "its codes mean nothing here"
            )
        return cut(session, self.model.trials, m.config)[0]


def save(model: Model, session: Session, path: Path) -> Stored:
    """Write ``model``, trained on ``session``, as the directory ``path``, which must not exist."""
    files = {f"{name}.safetensors": _pack(getattr(model, name)) for name in TWINS}
    manifest = ModelManifest(
        session=session.name,
        session_sha256=session_digest(session),
        counts_sha256=session.fingerprint(),
        channels=session.channels,
        bin_s=session.bin_s,
        outputs=session.kinematics_names,
        units=session.kinematics_units,
        variables=model.full.navigator.names,
        trials=tuple(int(i) for i in model.trials),
        held_out=tuple(int(i) for i in model.held_out),
        seed=model.seed,
        config=model.config,
        files={name: digest(data) for name, data in files.items()},
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"
    with write_directory(path, error=AugmentationError) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        (temporary / NAME).write_bytes(text.encode())
        (temporary / SEAL).write_bytes(f"{digest(text.encode())}\n".encode("ascii"))
    return load(path)


def load(path: Path) -> Stored:
    """Load and verify the model in ``path``; :class:`AugmentationError` names the file that is missing, altered or malformed."""
    if not path.is_dir():
        raise AugmentationError(f"{path}: expected a model directory (bci-align augment train), found {_kind(path)}")
    manifest, identity = _read_manifest(path)
    twins = []
    for name in TWINS:
        where = path / f"{name}.safetensors"
        packed = _read(where)
        if digest(packed) != manifest.files.get(where.name):
            raise AugmentationError(f"{where}: expected the SHA-256 in {NAME}, found another; the file was altered")
        twins.append(_unpack(packed, manifest, where))
    model = Model(twins[0], twins[1], np.array(manifest.trials), np.array(manifest.held_out), manifest.config, manifest.seed)
    return Stored(path, manifest, identity, model)


def _read(path: Path, most: int = MAX_FILE) -> bytes:
    return read_bounded(path, most, WHAT, AugmentationError)


def _read_manifest(path: Path) -> tuple[ModelManifest, str]:
    where, data = path / NAME, _read(path / NAME, MAX_MANIFEST)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise AugmentationError(f"{where}: expected JSON, found something else ({e})") from None
    if not isinstance(content, dict) or content.get("format") != "bci_align.trial_model":
        raise AugmentationError(f"{where}: expected format 'bci_align.trial_model', found something else")
    if content.get("version") != VERSION:
        raise AugmentationError(
            f"{where}: expected version {VERSION}, found {content.get('version')!r:.80}; "
            "a model of another version of bci_align has to be trained again"
        )
    try:
        seal = _read(path / SEAL, MAX_MANIFEST).decode(errors="replace").strip()
        if seal != digest(data):
            raise AugmentationError(f"{where}: expected SHA-256 {seal[:12]}... as in {SEAL}, found {digest(data)[:12]}...")
        manifest = ModelManifest.model_validate(content)
    except ValidationError as e:
        raise AugmentationError(f"{where}: {explain(ModelManifest, e)}") from None
    if fault := _inconsistent(manifest):
        raise AugmentationError(f"{where}: {fault}")
    return manifest, digest(data)


def _inconsistent(m: ModelManifest) -> str | None:
    """What of a manifest contradicts itself: whom a seal does not stop is one who seals anew."""
    n, k = len(m.trials), len(m.outputs)
    if min(m.trials) < 0 or len(set(m.trials)) != n:
        return "trials: expected different places in the session, found negative or repeated ones"
    if not set(m.held_out) < set(range(n)) or len(set(m.held_out)) != len(m.held_out):
        return f"held_out: expected some, not all, different places among {n} trials, found {list(m.held_out)!r:.80}"
    if len(m.units) != k:
        return f"units: expected {k} values, one per output, found {len(m.units)}"
    known = {f"{kind} {axis}" for kind in ("target", "start") for axis in AXES} | {"speed"}
    if not set(m.variables) <= known or len(set(m.variables)) != len(m.variables):
        return f"variables: expected different ones of {', '.join(sorted(known))}, found {', '.join(m.variables)!r:.200}"
    return None


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _pack(generator: Generator) -> bytes:
    space = generator.space
    assert isinstance(space, CodeSpace)
    tensors: dict[str, Tensor] = {f"encoder.{k}": v for k, v in space.encoder.state_dict().items()}
    tensors |= {f"diffusion.{k}": v for k, v in space.diffusion.state_dict().items()}
    tensors["gain"] = torch.from_numpy(np.ascontiguousarray(generator.gain))
    for part, names in PARTS.items():
        owner = space if part == "scaler" else generator
        for name in names:
            tensors[f"{part}.{name}"] = torch.from_numpy(np.array(getattr(getattr(owner, part), name)))
    packed: bytes = safetensors.torch.save({k: v.detach().contiguous() for k, v in tensors.items()})
    return packed


def _unpack(data: bytes, manifest: ModelManifest, where: Path) -> Generator:
    try:
        t: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as e:
        raise AugmentationError(f"{where}: not a safetensors file ({e})") from None
    config, channels = manifest.config, len(manifest.channels)
    bins = sum(window_bins(config, manifest.bin_s))
    encoder, diffusion = untrained(config, bins, channels, len(manifest.outputs))
    _fill(encoder, t, "encoder", where)
    _fill(diffusion, t, "diffusion", where)
    shapes = _shapes(manifest, t, config.code)
    a: dict[str, Any] = {}
    for name, shape in shapes.items():
        _fits(name, shape, t.get(name), where)
        a[name] = t[name].numpy()
    part = {p: {n: a[f"{p}.{n}"] for n in names} for p, names in PARTS.items()}
    gain = a["gain"]
    limit = float(part["navigator"].pop("limit"))
    space = CodeSpace(
        encoder.eval().requires_grad_(False),
        diffusion.eval().requires_grad_(False),
        Scaler(part["scaler"]["mean"], part["scaler"]["sd"], channels),
        config,
        bins,
    )
    navigator = Navigator(manifest.variables, limit=limit, **part["navigator"])
    return Generator(
        space, navigator, SpikeModel(**part["spikes"]), SpikeModel(**part["edited"]), CodePrior(**part["prior"]), gain
    )


def _fill(net: nn.Module, tensors: dict[str, Tensor], name: str, where: Path) -> None:
    """Load the tensors that begin with ``name`` into ``net``, each of which must be there and of the right shape."""
    wanted = {f"{name}.{k}": tuple(v.shape) for k, v in net.state_dict().items()}
    for key, shape in wanted.items():
        _fits(key, shape, tensors.get(key), where)
    if extra := sorted(k for k in tensors if k.startswith(f"{name}.") and k not in wanted):
        raise AugmentationError(f"{where}: does not fit its {NAME}: expected no tensor {extra[0]!r:.80}, found one")
    net.load_state_dict({k.removeprefix(f"{name}."): tensors[k] for k in wanted})


def _fits(name: str, shape: tuple[int, ...], tensor: Tensor | None, where: Path) -> None:
    found = None if tensor is None else tuple(tensor.shape)
    if found != shape:
        raise AugmentationError(
            f"{where}: does not fit its {NAME}: {name}: expected a tensor of shape {shape}, "
            f"found {'none' if found is None else found}"
        )


def _shapes(manifest: ModelManifest, tensors: dict[str, Tensor], code: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays beside the networks; how many targets and components there are, only the file can say."""

    def many(name: str) -> int:
        return int(tensors[name].shape[0]) if name in tensors and tensors[name].ndim else 1

    c, v = len(manifest.channels), len(manifest.variables)
    dims, k = sum(n.startswith("target ") for n in manifest.variables), many("prior.weights")
    both = c + len(manifest.outputs)
    return {
        "gain": (c,),
        "navigator.mean": (v,),
        "navigator.sd": (v,),
        "navigator.centre": (code,),
        "navigator.directions": (v, code),
        "navigator.precision": (code, code),
        "navigator.limit": (),
        "navigator.targets": (many("navigator.targets"), dims),
        "prior.weights": (k,),
        "prior.means": (k, code),
        "prior.covariances": (k, code, code),
        "scaler.mean": (both,),
        "scaler.sd": (both,),
        **{f"{name}.{what}": (c,) for name in ("spikes", "edited") for what in PARTS[name]},
    }
