"""Factor models on disk: a directory written once, hashed, free of pickle, and loaded only when every hash agrees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from torch import nn

from bci_align.bundle.artefact import Artefact, Sealed
from bci_align.bundle.tensors import fill, pack, unpack
from bci_align.config import BehaviourConfig, FactorConfig, FilmConfig, Strict
from bci_align.errors import InterpretationError
from bci_align.interpretation.clips import Filming
from bci_align.interpretation.data import FactorDay
from bci_align.interpretation.scene import Scene
from bci_align.models.factor_vae import FactorVAE

NAME = "manifest.json"
FACTORS, DAY, FILM = "factors.safetensors", "day.safetensors", "film.safetensors"


class FilmShape(Strict):
    """What the film's networks were built with."""

    config: FilmConfig
    scene: Scene | None = Field(None, description="how kinematics became frames; none where a camera's were given")
    frames: str = Field(description="where the frames come from: 'kinematics', or the name of the camera's file")
    height: int = Field(ge=4, le=4096)
    width: int = Field(ge=4, le=4096)
    codes: int = Field(ge=1, le=256)
    length: int = Field(ge=1, le=256, description="frames of a clip")
    record: dict[str, Any] = Field(description="how it was trained and how well it sees")


class FactorManifest(Sealed):
    """The content of a factor model's ``manifest.json``."""

    format: Literal["bci_align.factors"] = "bci_align.factors"
    version: Literal[3] = 3
    session: str = Field(description="name of the session that it was trained on")
    counts_sha256: str = Field(description="fingerprint of that session's counts")
    channels: tuple[str, ...] = Field(min_length=1, description="channel labels, in the order of the counts")
    bin_s: float = Field(gt=0, description="bin width in seconds")
    behaviours: dict[str, BehaviourConfig] = Field(description="what every labelled factor's behaviour is made of, in order")
    units: dict[str, str] = Field(description="unit of every column of the kinematics that they are made of")
    config: FactorConfig
    seed: int
    training: dict[str, Any] = Field(description="last losses, CPU seconds, versions")
    film: FilmShape | None = None

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of all factors: the behaviours', then the free ones'."""
        return (*self.behaviours, *(f"free {i + 1}" for i in range(self.config.free)))


@dataclass(frozen=True)
class FactorModel:
    """A loaded factor model: its networks, and the day that it was trained on."""

    path: Path
    manifest: FactorManifest
    identity: str
    network: FactorVAE
    day: FactorDay
    filming: Filming | None

    def factor(self, name: str) -> int:
        """Index of the factor called ``name``; :class:`InterpretationError` for another."""
        known = self.manifest.factors
        if name not in known:
            raise InterpretationError(f"{self.path}: factor: expected one of {', '.join(known)}, found {name!r}")
        return known.index(name)


def save_model(path: Path, manifest: FactorManifest, network: FactorVAE, day: FactorDay, filming: Filming | None) -> FactorModel:
    """Write a factor model to ``path``, which must not exist, whole or not at all; ``manifest.files`` is filled in here."""
    files = {FACTORS: pack({"": network}), DAY: _day_bytes(day)} | ({FILM: pack({"": filming})} if filming is not None else {})
    KIND.write(path, manifest, files)
    return load_model(path)


def load_model(path: Path | str) -> FactorModel:
    """Load and verify a factor model; :class:`InterpretationError` names the file that is missing, altered or malformed."""
    path = Path(path)
    manifest, identity, files = KIND.read(path)
    c = manifest.config
    network = FactorVAE(len(manifest.channels), len(manifest.behaviours), c.free, c.hidden, c.head)
    _fill(network, files, path / FACTORS)
    filming = None
    if manifest.film is not None:
        f = manifest.film
        try:
            filming = Filming.empty((f.height, f.width), f.codes, len(manifest.factors), f.length, f.config)
        except ValueError as e:
            raise InterpretationError(f"{path / NAME}: film: {e}") from None
        _fill(filming, files, path / FILM)
        filming.eval().requires_grad_(False)
    day = _day(files[DAY], path / DAY, manifest)
    return FactorModel(path, manifest, identity, network.eval().requires_grad_(False), day, filming)


def _fill(module: nn.Module, files: dict[str, bytes], where: Path) -> None:
    fill(module, unpack(files[where.name], where, InterpretationError), "", where, InterpretationError)


def _files(manifest: FactorManifest) -> tuple[str, ...]:
    return (FACTORS, DAY, FILM) if manifest.film is not None else (FACTORS, DAY)


KIND = Artefact(FactorManifest, NAME, "factor model", InterpretationError, _files, sort_keys=False)  # factors are in that order


def _day_bytes(day: FactorDay) -> bytes:
    most = int(day.counts.max())
    smallest = next(t for t in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(t).max)
    arrays: dict[str, NDArray[Any]] = {
        "counts": np.ascontiguousarray(day.counts, smallest),
        "behaviours": np.ascontiguousarray(day.behaviours, np.float32),
        "trials": np.ascontiguousarray(day.trials, np.int64),
        "held_out": day.held_out.astype(np.uint8),
        "breaks": np.array(day.breaks, np.int64),
        "numbers": np.ascontiguousarray(day.numbers, np.int64),
    }
    data: bytes = safetensors.numpy.save(arrays)
    return data


def _day(data: bytes, where: Path, manifest: FactorManifest) -> FactorDay:
    try:
        a = safetensors.numpy.load(data)
        counts, values, trials = a["counts"].astype(np.int32), a["behaviours"].astype(np.float32), a["trials"].astype(np.int64)
        held_out, breaks = a["held_out"].astype(np.bool_), tuple(int(b) for b in a["breaks"])
        numbers = a["numbers"].astype(np.int64)
    except (SafetensorError, KeyError) as e:
        raise InterpretationError(f"{where}: expected a session's arrays, found others ({e})") from None
    t, names = len(counts), tuple(manifest.behaviours)
    fits = (
        counts.shape == (t, len(manifest.channels))
        and values.shape == (t, len(names))
        and trials.ndim == 2
        and trials.shape == (len(held_out), 2)
        and numbers.shape == held_out.shape
        and bool(((trials >= 0) & (trials <= t)).all() and (trials[:, 0] < trials[:, 1]).all())
        and held_out.any()
        and not held_out.all()
    )
    if not fits:
        raise InterpretationError(f"{where}: does not fit its manifest (counts {counts.shape}, behaviours {values.shape})")
    return FactorDay(counts, values, manifest.behaviours, trials, held_out, breaks, manifest.bin_s, numbers)
