"""Models of trials on disk: a directory written once, hashed, free of pickle, and loaded only when every hash agrees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bci_align.augmentation.beyond import Beyond
from bci_align.augmentation.codes import CodeSpace, untrained
from bci_align.augmentation.encoding import Encoding, lags_of, width
from bci_align.augmentation.generate import CodePrior, Generator
from bci_align.augmentation.model import Model
from bci_align.augmentation.navigate import AXES, Navigator
from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import LEAST_BIN_S, Scaler, TrialSet, cut, smoothed, window_bins
from bci_align.bundle.artefact import Artefact, Sealed
from bci_align.bundle.tensors import fill, pack, unpack
from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError, MismatchError
from bci_align.session.digest import digest as session_digest
from bci_align.session.types import Session

TWINS = ("full", "proof")
EARLIER = "earlier.safetensors"
"""Windows of the earlier day's trials, as recorded, of a model that has one: what it was trained on it generates from, too."""
PARTS: dict[str, tuple[str, ...]] = {
    "navigator": ("mean", "sd", "centre", "directions", "precision", "limit", "targets"),
    "spikes": ("dispersion", "memory"),
    "beyond": ("sharpness", "loadings", "courses"),
    "edited": ("dispersion", "memory"),
    "prior": ("weights", "means", "covariances"),
    "scaler": ("mean", "sd"),
    "encoding": ("origin", "size", "unit", "weights"),
    "encoded": ("dispersion", "memory"),
}
"""Arrays of a generator beside its networks."""


class ModelManifest(Sealed):
    """The content of ``model.json``."""

    format: Literal["bci_align.trial_model"] = "bci_align.trial_model"
    version: Literal[4] = 4
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
    earlier_trials: int = Field(ge=0, description="trials of an earlier day that it knows, too")
    seed: int = Field(ge=0)
    config: AugmentConfig


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
    if model.earlier is not None:
        files[EARLIER] = _pack_trials(model.earlier)
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
        earlier_trials=0 if model.earlier is None else len(model.earlier),
        seed=model.seed,
        config=model.config,
        files={},
    )
    KIND.write(path, manifest, files)
    return load(path)


def load(path: Path) -> Stored:
    """Load and verify the model in ``path``; :class:`AugmentationError` names the file that is missing, altered or malformed."""
    manifest, identity, files = KIND.read(path)
    full, proof = (_unpack(files[name], manifest, path / name) for name in _files(manifest)[: len(TWINS)])
    earlier = _unpack_trials(files[EARLIER], manifest, path / EARLIER) if manifest.earlier_trials else None
    trials, held_out = np.array(manifest.trials), np.array(manifest.held_out)
    model = Model(full, proof, trials, held_out, manifest.config, manifest.seed, earlier)
    return Stored(path, manifest, identity, model)


def _files(manifest: ModelManifest) -> tuple[str, ...]:
    return *(f"{name}.safetensors" for name in TWINS), *((EARLIER,) if manifest.earlier_trials else ())


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


KIND = Artefact(ModelManifest, "model.json", "trial model", AugmentationError, _files, _inconsistent)


def _pack(generator: Generator) -> bytes:
    space = generator.space
    assert isinstance(space, CodeSpace)
    tensors: dict[str, nn.Module | Tensor] = {"encoder": space.encoder, "diffusion": space.diffusion}
    tensors["gain"] = torch.from_numpy(np.ascontiguousarray(generator.gain))
    assert generator.encoding is not None
    elsewhere = {"scaler": space.scaler, "beyond": generator.spikes.beyond, "encoded": generator.encoding.spikes}
    owners = {p: getattr(generator, p, None) for p in PARTS} | elsewhere
    for part, names in PARTS.items():
        for name in names:
            tensors[f"{part}.{name}"] = torch.from_numpy(np.array(getattr(owners[part], name)))
    return pack(tensors)


def _unpack(data: bytes, manifest: ModelManifest, where: Path) -> Generator:
    t = unpack(data, where, AugmentationError)
    config, channels = manifest.config, len(manifest.channels)
    bins = sum(window_bins(config, manifest.bin_s))
    encoder, diffusion = untrained(config, bins, channels, len(manifest.outputs))
    fill(encoder, t, "encoder", where, AugmentationError)
    fill(diffusion, t, "diffusion", where, AugmentationError)
    shapes = _shapes(manifest, t, bins)
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
    spikes = SpikeModel(beyond=Beyond(**part["beyond"]), **part["spikes"])
    edited, encoded = (SpikeModel(**part[name]) for name in ("edited", "encoded"))
    encoding = Encoding(spikes=encoded, lags=lags_of(manifest.bin_s), **part["encoding"])
    return Generator(space, navigator, spikes, edited, CodePrior(**part["prior"]), gain, encoding)


def _pack_trials(trials: TrialSet) -> bytes:
    """Counts, kinematics and targets; rates are counts smoothed."""
    counts = trials.counts.astype(np.int32)
    return pack({k: torch.from_numpy(np.array(v)) for k, v in {**vars(trials), "counts": counts}.items() if k != "rates"})


def _unpack_trials(data: bytes, manifest: ModelManifest, where: Path) -> TrialSet:
    t = unpack(data, where, AugmentationError)
    n, bins = manifest.earlier_trials, sum(window_bins(manifest.config, manifest.bin_s))
    dims = sum(name.startswith("target ") for name in manifest.variables)
    last = {"counts": (bins, len(manifest.channels)), "kinematics": (bins, len(manifest.outputs)), "target": (dims,)}
    for name, shape in last.items():
        _fits(name, (n, *shape), t.get(name), where)
        if not np.isfinite(t[name].numpy()).all():
            raise AugmentationError(f"{where}: {name}: expected finite numbers, found NaN or infinite ones")
    counts = t["counts"].numpy().astype(np.float32)
    if counts.min() < 0:
        raise AugmentationError(f"{where}: counts: expected none below 0, found {counts.min():g}")
    rates = smoothed(counts, manifest.config, manifest.bin_s)
    return TrialSet(counts, rates, t["kinematics"].numpy().astype(np.float32), t["target"].numpy().astype(np.float64))


def _fits(name: str, shape: tuple[int, ...], tensor: Tensor | None, where: Path) -> None:
    found = None if tensor is None else tuple(tensor.shape)
    if found != shape:
        raise AugmentationError(
            f"{where}: does not fit its manifest: {name}: expected a tensor of shape {shape}, "
            f"found {'none' if found is None else found}"
        )


def _shapes(manifest: ModelManifest, tensors: dict[str, Tensor], bins: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays beside the networks; how many targets, components and gains there are, only the file can say."""

    def many(name: str) -> int:
        return int(tensors[name].shape[0]) if name in tensors and tensors[name].ndim else 1

    c, v, outputs, code = len(manifest.channels), len(manifest.variables), len(manifest.outputs), manifest.config.code
    dims, k = sum(n.startswith("target ") for n in manifest.variables), many("prior.weights")
    both, shared = c + outputs, many("beyond.loadings")
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
        "beyond.sharpness": (bins, c),
        "beyond.loadings": (shared, c),
        "beyond.courses": (shared, bins, bins),
        "scaler.mean": (both,),
        "scaler.sd": (both,),
        "encoding.origin": (outputs,),
        "encoding.size": (),
        "encoding.unit": (c,),
        "encoding.weights": (c, width(outputs, len(lags_of(manifest.bin_s)))),
        **{f"{name}.{what}": (c,) for name in ("spikes", "edited", "encoded") for what in PARTS[name]},
    }
