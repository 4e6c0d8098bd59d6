"""Where every alignment starts: are these trials this bundle's, and per-channel re-normalisation."""

from __future__ import annotations

import numpy as np

from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError, MismatchError
from bci_align.evaluation.score import difference
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.signal import normaliser


def renormalise(read_in: ReadIn, trials: UnlabelledTrials) -> ReadIn:
    """Per-channel re-normalisation: the source's linear map behind a normaliser fitted on today's trials.

    A channel that was silent on the source day stays silent: its weights have never seen a spike.
    """
    mean, gain = normaliser.fit(trials.bodies())
    gain = np.where(read_in.gain > 0, gain, np.float32(0))
    return ReadIn(mean, gain, read_in.weight, read_in.bias)


def check(bundle: Bundle, trials: UnlabelledTrials, least: int) -> None:
    """Refuse trials that cannot be aligned on: another rig's channels or bin width, or too few of them."""
    if trials.channels != bundle.manifest.channels:
        raise MismatchError(f"calibration trials: {difference(bundle.manifest.channels, trials.channels)}")
    check_size(bundle, trials, least)


def check_size(bundle: Bundle, trials: UnlabelledTrials, least: int) -> None:
    """Refuse another bin width, and fewer than ``least`` trials."""
    m = bundle.manifest
    if abs(trials.bin_s - m.bin_s) > 1e-9:
        raise MismatchError(f"calibration trials: expected bins of {m.bin_s:g} s as in the bundle, found {trials.bin_s:g} s")
    if len(trials) < least:
        raise AlignmentError(f"expected at least {least} calibration trials, found {len(trials)}")
