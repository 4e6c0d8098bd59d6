"""Score a bundle on a session's trials; a target day's kinematics decide nothing, they only score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.errors import MismatchError
from bci_align.evaluation.metrics import Floats, r2, r2_per_output, rmse
from bci_align.session.types import Session, refuse_generated


def check(bundle: Bundle, session: Session) -> None:
    """Refuse a session that does not belong to ``bundle``: its channels or bin width differ, or the kinematics that it has."""
    m = bundle.manifest
    if session.channels != m.channels:
        raise MismatchError(f"session {session.name!r}: {difference(m.channels, session.channels)}")
    if abs(session.bin_s - m.bin_s) > 1e-9:
        raise MismatchError(
            f"session {session.name!r}: expected bins of {m.bin_s:g} s as in the bundle, found {session.bin_s:g} s"
        )
    if session.kinematics is not None:
        for what, expected, found in (
            ("kinematics", m.outputs, session.kinematics_names),
            ("units", m.units, session.kinematics_units),
        ):
            if expected != found:
                wanted = ", ".join(expected)
                raise MismatchError(
                    f"session {session.name!r}: {what}: expected {wanted} as in the bundle, found {', '.join(found)}"
                )


def difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    """Say in a few words how two lists of channel labels differ."""
    if len(expected) != len(found):
        return f"expected {len(expected)} channels as in the bundle, found {len(found)}"
    i = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
    return f"channel {i}: expected label {expected[i]!r} as in the bundle, found {found[i]!r}"


def rows(session: Session, trials: NDArray[np.intp]) -> NDArray[np.intp]:
    """Indices of all bins of ``trials``."""
    return np.concatenate([np.arange(*session.trial_bins(int(i))) for i in trials])


def score_outputs(bundle: Bundle, session: Session, trials: NDArray[np.intp], outputs: Floats) -> dict[str, Any]:
    """Score ``outputs`` (T, K), physical units, on the bins of ``trials``: r2, r2_per_output (%), rmse, bins, trials, lost.

    R2 weighs the outputs in units of the source day's standard deviation; RMSE is in physical units.
    """
    m = bundle.manifest
    if session.kinematics is None:
        raise MismatchError(f"session {session.name!r}: kinematics: expected {', '.join(m.outputs)} to score against, found none")
    index = rows(session, trials)
    truth, decoded = session.kinematics[index].astype(np.float64), outputs[index]
    scale = np.array(m.scale)
    heard = ~np.isnan(decoded).any(1)
    return {
        "r2": r2(truth / scale, decoded / scale),
        "r2_per_output": r2_per_output(truth / scale, decoded / scale),
        "rmse": rmse(truth[heard], decoded[heard]),
        "bins": len(index),
        "trials": len(trials),
        "lost": int((~heard).sum()),
    }


def evaluate(bundle: Bundle, session: Session, trials: NDArray[np.intp], allow_generated: bool = False) -> dict[str, Any]:
    """Decode the whole ``session`` bin by bin as the live system would, anew after every gap, and score ``trials`` (indices).

    A session of generated trials is no evidence of anything that a decoder does, and is refused unless asked for.
    """
    if not allow_generated:
        refuse_generated(session, "scoring a bundle")
    check(bundle, session)
    outputs = bundle.pipeline().run(session.counts.astype(np.float32), bundle.read_in, session.breaks)
    return score_outputs(bundle, session, trials, outputs)
