"""Checkpoints of a training of a model of trials: one that was interrupted goes on to the same result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bci_align.atomic import write_file
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
