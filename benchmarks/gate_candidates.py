"""Candidates of the gate's benchmark kept on disk, so that another gate can be judged on the same ones in minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.erdiff import Candidate
from bci_align.bundle.store import READ_IN, Bundle
from bci_align.config import AlignConfig
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

MATCHED = "matched"


def kept(
    folder: Path,
    align: Callable[[Bundle, UnlabelledTrials, int], Candidate],
    bundle: Bundle,
    trials: UnlabelledTrials,
    seed: int,
) -> Candidate:
    """What ``align`` gives, or what it gave before for the same bundle, incumbent, trials and settings.

    Its record is not kept, nor a core that moved. A file's name says nothing of the aligner's code: keep a folder for one
    version of it. Refusals are not kept.
    """
    digest = hashlib.sha256(f"{bundle.identity} {seed} {AlignConfig().model_dump_json()} {trials.run_in}".encode())
    for a in (*(getattr(bundle.read_in, name) for name in READ_IN), *trials.counts):
        digest.update(np.ascontiguousarray(a).tobytes())
    path = folder / f"{digest.hexdigest()}.npz"
    if path.exists():
        with np.load(path) as found:
            matched = found[MATCHED]
            return Candidate(ReadIn(*(found[name] for name in READ_IN)), trials.channels, {}, matched if len(matched) else None)
    made = align(bundle, trials, seed)
    if made.core is not None:
        raise ValueError("expected candidates that moved the read-in alone")
    arrays: dict[str, NDArray[np.generic]] = {name: getattr(made.read_in, name) for name in READ_IN}
    arrays[MATCHED] = np.zeros(0, np.intp) if made.matched is None else made.matched
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        np.savez(f, allow_pickle=False, **arrays)
    return made
