"""Checkpoints of a training of a model of trials: one that was interrupted goes on to the same result."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bci_align.atomic import TEMPORARY, write_file
from bci_align.config import AugmentConfig
from bci_align.errors import AugmentationError
from bci_align.session.digest import digest as session_digest
from bci_align.session.types import Session


def training_identity(session: Session, trials: Any, config: AugmentConfig, seed: int, how: str) -> str:
    """What a checkpoint must belong to, as a SHA-256: the whole session with its labels, trials, settings, seed."""
    facts = [session_digest(session), np.asarray(trials).tolist(), config.model_dump(mode="json"), seed, how, torch.__version__]
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
        if not os.path.lexists(self.path):
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
            try:
                self.path.parent.mkdir(exist_ok=True)
            except OSError as e:
                raise AugmentationError(f"{self.path.parent}: checkpoints cannot be written ({e.strerror or e})") from None
            with write_file(self.path, overwrite=True, error=AugmentationError) as temporary:
                safetensors.torch.save_file(
                    {k: v.detach().contiguous() for k, v in state.items()}, temporary, {"identity": self.identity}
                )


STAGES = ("all trials", "held out")
"""Trainings of a model, in turn."""


@dataclass(frozen=True)
class Partial:
    """The directory that holds the checkpoints of a model's trainings until it is written: made with the first of them.

    Another's files in it are never touched, and the directory itself goes only when it is empty.
    """

    path: Path
    identity: str

    @classmethod
    def beside(cls, out: Path, identity: str) -> Partial:
        """``OUT.partial``; :class:`AugmentationError` where it could not be made."""
        path = out.with_name(out.name + ".partial")
        if os.path.lexists(path) and not path.is_dir():
            raise AugmentationError(f"{path}: expected nothing or the checkpoints of an interrupted training, found a file")
        if not path.is_dir():
            try:  # told at the start, not after the first epochs
                path.mkdir()
                path.rmdir()
            except OSError as e:
                raise AugmentationError(f"{out}: cannot be written ({e.strerror or e})") from None
        return cls(path, identity)

    def file(self, stage: str) -> CheckpointFile:
        """Where the training ``stage`` keeps its state."""
        return CheckpointFile(self.path / f"{stage.replace(' ', '_')}.safetensors", self.identity)

    @property
    def begun(self) -> bool:
        """Whether an earlier run left checkpoints."""
        return any(self.file(stage).path.exists() for stage in STAGES)

    def clear(self) -> None:
        """Delete the checkpoints, what a killed writer left of them, and the directory if nothing else is in it."""
        if not self.path.is_dir():
            return
        try:
            for stage in STAGES:
                mine = self.file(stage).path
                for file in (mine, *self.path.glob(f"{TEMPORARY}*-{mine.name}")):
                    file.unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()
        except OSError as e:
            raise AugmentationError(
                f"{self.path}: the model is written, but these checkpoints stay ({e.strerror or e})"
            ) from None
