"""The protocol of all velocity decoders: latents in, kinematics out, one bin at a time.

Decoders work in whitened latents (d,) and in kinematics divided by the source day's standard deviation (K,). ``step`` is pure;
``run`` is repeated ``step``, so what is scored offline is what runs live.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[np.float32]]


class Decoder(Protocol):
    """A velocity decoder with its state passed in and out."""

    kind: str

    def state0(self) -> Floats:
        """Give the state before the first bin."""
        ...

    def step(self, state: Floats, latents: Floats) -> tuple[Floats, Floats]:
        """Take one bin of latents (d,) and give ``(state, kinematics (K,))``."""
        ...

    def arrays(self) -> Arrays:
        """Give every number that the decoder needs, by name, for the bundle."""
        ...


def run(decoder: Decoder, latents: Floats) -> Floats:
    """Step ``decoder`` over ``latents`` (T, d) from its first state; kinematics (T, K)."""
    state = decoder.state0()
    out = []
    for z in latents:
        state, y = decoder.step(state, z)
        out.append(y)
    return np.stack(out)
