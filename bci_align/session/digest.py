"""A fingerprint of everything a session holds, the same on every machine and however the file stores it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from bci_align.session.types import Session


def digest(session: Session) -> str:
    """SHA-256 (hex) over all arrays, their shapes, and all text of ``session``; equal for equal sessions."""
    s, t = session, session.trials
    arrays = {
        "counts": (s.counts, "<i4"),
        "kinematics": (s.kinematics, "<f4"),
        "start_s": (t.start_s, "<f8"),
        "go_s": (t.go_s, "<f8"),
        "end_s": (t.end_s, "<f8"),
        "success": (t.success, "|u1"),
        "target": (t.target, "<f8"),
    }
    plain: dict[str, Any] = {
        "bin_s": float(s.bin_s).hex(),
        "channels": s.channels,
        "kinematics_names": s.kinematics_names,
        "kinematics_units": s.kinematics_units,
        "name": s.name,
        "meta": s.meta,
        "shapes": {key: None if a is None else a.shape for key, (a, _) in arrays.items()},
    }
    if s.breaks:  # only where there are any, so that files from before there were breaks keep their digest
        plain["breaks"] = s.breaks
    sha = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for a, dtype in arrays.values():
        if a is not None:
            sha.update(np.ascontiguousarray(a, dtype=dtype).tobytes())
    return sha.hexdigest()
