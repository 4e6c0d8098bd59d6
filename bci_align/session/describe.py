"""A session in numbers, for ``bci-align inspect``."""

from __future__ import annotations

from typing import Any

import numpy as np

from bci_align.session.types import Session


def describe(session: Session) -> dict[str, Any]:
    """Plain, JSON-ready facts of a valid session.

    ``minutes`` of recording, ``breaks`` the number of gaps in it, ``mean_rate_hz`` over all channels,
    ``silent_channels`` (labels of those that never fired),
    ``trial_median_s`` the median time from start to end, and per kinematics output its name, unit and standard deviation.
    """
    s, t = session, session.trials
    silent = np.flatnonzero(s.counts.max(axis=0) == 0)
    sd = () if s.kinematics is None else s.kinematics.std(axis=0, dtype=np.float64)
    return {
        "name": s.name,
        "bins": s.bins,
        "bin_s": s.bin_s,
        "minutes": s.bins * s.bin_s / 60,
        "breaks": len(s.breaks),
        "channels": len(s.channels),
        "mean_rate_hz": float(s.counts.mean(dtype=np.float64)) / s.bin_s,
        "silent_channels": [s.channels[i] for i in silent],
        "trials": len(t),
        "rewarded": len(s.rewarded()),
        "trial_median_s": float(np.median(t.end_s - t.start_s)),
        "kinematics": [
            {"name": name, "unit": unit, "sd": float(d)}
            for name, unit, d in zip(s.kinematics_names, s.kinematics_units, sd, strict=True)
        ],
        "meta": dict(s.meta),
    }
