"""Generated trials as a session file like any recorded one, except that it says what it is."""

from __future__ import annotations

import numpy as np

from bci_align.augmentation.trials import TrialSet
from bci_align.session.types import GENERATED, Session, Trials, validate


def as_session(trials: TrialSet, like: Session, before: int, name: str, how: str) -> Session:
    """Lay ``trials`` end to end as a session with the channels and kinematics of ``like``; each trial a stretch.

    ``before`` bins of each window lie ahead of its go cue; ``how`` goes into ``meta`` under the key that marks generated
    sessions.
    """
    n, bins, channels = trials.counts.shape
    begin = np.arange(n) * bins * like.bin_s
    events = Trials(
        begin,
        begin + (before + 1e-3) * like.bin_s,
        begin + (bins - 0.5) * like.bin_s,
        np.ones(n, bool),
        trials.target.astype(np.float64),
    )
    return validate(
        Session(
            trials.counts.reshape(-1, channels).astype(np.int32),
            like.bin_s,
            like.channels,
            events,
            np.ascontiguousarray(trials.kinematics.reshape(n * bins, -1), np.float32),
            like.kinematics_names,
            like.kinematics_units,
            name=name,
            meta={GENERATED: how},
            breaks=tuple(i * bins for i in range(1, n)),
        ),
        name,
    )
