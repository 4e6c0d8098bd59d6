"""What a rig would have noted, made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.latency_control import Lateness
from benchmarks.latency_rig import Heard

BIN_S = 0.02
NOTHING = Lateness(np.array([0.0]), np.array([0.0]))
"""A control loop that was never late."""


def heard(trip: list[float], **change: Any) -> Heard:
    """Bins pushed on the grid from 10 s on and answered ``trip`` seconds later, but for what is to ``change``."""
    n = len(trip)
    pushed = 10.0 + BIN_S * np.arange(n)
    t = pushed + 1.0
    parts = {
        "due": pushed - 1e-4,
        "pushed": pushed,
        "t": t,
        "heard": pushed + np.array(trip),
        "t_out": t.copy(),
        "answers": np.ones(n, np.int64),
        "generation": np.zeros(n, np.int64),
        "flags": np.zeros(n, np.int64),
        "order": np.arange(n),
    }
    return Heard(**(parts | change))
