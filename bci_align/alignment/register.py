"""Which registration an alignment starts from: the one asked for, or the one that the evidence asks for; or a refusal."""

from __future__ import annotations

import numpy as np

from bci_align.alignment import registration as reg
from bci_align.alignment.registration import Registration
from bci_align.alignment.start import check, renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.errors import AlignmentError
from bci_align.session.types import UnlabelledTrials


def register(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, config: AlignConfig, seed: int) -> Registration:
    """Find how today's channels relate to the source day's.

    ``identity``: the labels must be the bundle's. ``order``: units in the same order, lost and gained between. ``rotation``:
    neither.
    ``auto``: identity where the labels agree; else the order if it means something, else a rotation if it wins clearly.
    Raises :class:`AlignmentError` where nothing can be told, :class:`MismatchError` where identity is asked for and labels
    differ.
    """
    read_in, asked = bundle.source_read_in(), config.registration
    if asked == "identity":
        check(bundle, trials, config.min_trials)
    if asked == "identity" or (asked == "auto" and trials.channels == bundle.manifest.channels):
        return _same_channels(bundle, source, trials)
    found = []
    if asked in ("auto", "order"):
        in_order = reg.order_preserving(source, trials, read_in, seed=seed)
        confidence = in_order.record["confidence"]
        if confidence is not None and confidence >= config.order_confidence:
            return in_order
        found.append(f"their order explains the day by {confidence} standard deviations, expected {config.order_confidence:g}")
    if asked in ("auto", "rotation"):
        rotation = reg.rotation(source, trials, read_in, seed=seed)
        margin = rotation.record["confidence"]
        if margin is None or margin >= config.rotation_margin:
            return rotation
        found.append(f"the best rotation beats the next by {margin:.3f} of its cost, expected {config.rotation_margin:g}")
    raise AlignmentError(f"today's channels cannot be told from the source day's: {'; '.join(found)}")


def _same_channels(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials) -> Registration:
    """Re-normalise: from the source's read-in, so that errors do not add up over generations.

    From the bundle's own where an earlier generation had to be registered: its correspondence holds for today, too.
    """
    if trials.channels == source.channels:
        return reg.identity(source, trials, bundle.source_read_in())
    before = (bundle.manifest.alignment or {}).get("registration", {})
    matched = before.get("matched")
    return Registration(
        renormalise(bundle.read_in, trials),
        "identity",
        None if matched is None else np.array(matched, np.intp),
        {"method": "identity", "matched": matched, "with": "the generation before"},
    )
