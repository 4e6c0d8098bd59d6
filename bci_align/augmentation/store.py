"""Models of trials on disk: a directory written once, hashed, free of pickle; and the checkpoints of a training that goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from bci_align.atomic import write_directory, write_file
from bci_align.augmentation.codes import CodeSpace, untrained
from bci_align.augmentation.generate import CodePrior, Generator
from bci_align.augmentation.model import Model
from bci_align.augmentation.navigate import Navigator
from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import Scaler, TrialSet, cut, window_bins
from bci_align.bundle.manifest import digest, read_bounded
from bci_align.config import AugmentConfig, Strict, explain
from bci_align.errors import AugmentationError, MismatchError
from bci_align.session.types import Session

NAME = "model.json"
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
    version: Literal[1] = 1
    session: str = Field(description="name of the session whose trials it knows")
    counts_sha256: str = Field(description="fingerprint of that session")
    channels: tuple[str, ...] = Field(min_length=1, description="channel labels")
    bin_s: float = Field(gt=0, description="bin width in seconds")
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
        (temporary / NAME).write_text(text, encoding="utf-8")
    return load(path)


def load(path: Path) -> Stored:
    """Load and verify the model in ``path``; :class:`AugmentationError` names the file that is missing, altered or malformed."""
    if not path.is_dir():
        raise AugmentationError(f"{path}: expected a model directory (bci-align augment train), found {_kind(path)}")
    data = read_bounded(path / NAME)
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or content.get("format") != "bci_align.trial_model":
            raise AugmentationError(f"{path / NAME}: expected format 'bci_align.trial_model', found something else")
        manifest = ModelManifest.model_validate(content)
    except ValidationError as e:
        raise AugmentationError(f"{path / NAME}: {explain(ModelManifest, e)}") from None
    except (ValueError, RecursionError) as e:
        raise AugmentationError(f"{path / NAME}: expected JSON, found something else ({e})") from None
    twins = []
    for name in TWINS:
        where = path / f"{name}.safetensors"
        packed = read_bounded(where)
        if digest(packed) != manifest.files.get(where.name):
            raise AugmentationError(f"{where}: expected the SHA-256 in {NAME}, found another; the file was altered")
        twins.append(_unpack(packed, manifest, where))
    model = Model(twins[0], twins[1], np.array(manifest.trials), np.array(manifest.held_out), manifest.config, manifest.seed)
    return Stored(path, manifest, digest(data), model)


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
    try:
        for name, net in (("encoder", encoder), ("diffusion", diffusion)):
            net.load_state_dict({k.removeprefix(f"{name}."): v for k, v in t.items() if k.startswith(f"{name}.")})
        a: dict[str, Any] = {k: v.numpy() for k, v in t.items()}
        part = {p: {n: a[f"{p}.{n}"] for n in names} for p, names in PARTS.items()}
        gain = a["gain"]
    except (KeyError, RuntimeError) as e:
        raise AugmentationError(f"{where}: does not fit its {NAME} ({str(e).splitlines()[0]})") from None
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


def training_identity(session: Session, trials: Any, config: AugmentConfig, seed: int, how: str) -> str:
    """What a checkpoint must belong to, as a SHA-256."""
    facts = [session.fingerprint(), np.asarray(trials).tolist(), config.model_dump(mode="json"), seed, how, torch.__version__]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CheckpointFile:
    """A training's state in one safetensors file, written whole or not at all every ``every`` epochs.

    ``identity`` says which training it belongs to: a file of another one is refused, not continued.
    """

    path: Path
    identity: str
    every: int = 10

    def load(self) -> dict[str, Tensor] | None:
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as f:
                found = (f.metadata() or {}).get("identity")
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError) as e:
            raise AugmentationError(f"{self.path}: not a checkpoint that can be read ({e}); delete it to begin anew") from None
        if found != self.identity:
            raise AugmentationError(
                f"{self.path}: expected a checkpoint of this session, these trials, settings and seed, found another training's; "
                "delete it to begin anew"
            )
        return tensors

    def save(self, state: dict[str, Tensor]) -> None:
        if int(state["epoch"]) % self.every == 0:
            with write_file(self.path, overwrite=True, error=AugmentationError) as temporary:
                safetensors.torch.save_file(
                    {k: v.detach().contiguous() for k, v in state.items()}, temporary, {"identity": self.identity}
                )
