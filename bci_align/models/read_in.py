"""A day's part of the encoder as plain arrays: all that a decoder, its checks and its mailbox need of a network.

Without torch, which takes seconds to import: a decoder that starts again while a participant waits has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ReadIn:
    """A day's part of the encoder: ``((counts - mean) * gain) @ weight + bias``.

    ``mean`` (C,) spikes per bin; ``gain`` (C,) 1 / spikes per bin, 0 for a channel that never fires; ``weight`` (C, H);
    ``bias`` (H,).
    """

    mean: Array
    gain: Array
    weight: Array
    bias: Array

    def apply(self, counts: Array) -> Array:
        """Map ``counts`` (..., C) to the core's input (..., H)."""
        return ((counts - self.mean) * self.gain) @ self.weight + self.bias  # type: ignore[return-value]

    def finite(self) -> bool:
        """Whether every number is finite."""
        return all(bool(np.isfinite(a).all()) for a in (self.mean, self.gain, self.weight, self.bias))
