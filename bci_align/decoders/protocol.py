"""The protocol of all velocity decoders: latents in, kinematics out, one bin at a time.

Decoders work in whitened latents (d,) and in kinematics divided by the source day's standard deviation (K,). ``step`` is pure;
``run`` is repeated ``step``, so what is scored offline is what runs live.
"""

from __future__ import annotations

from collections.abc import Collection
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
        """Take one bin of latents (d,) and give ``(state, kinematics (K,))``.

        Neither may be, or be a view of, ``latents``: that is the caller's, who writes the next bin's there.
        """
        ...

    def arrays(self) -> Arrays:
        """Give every number that the decoder needs, by name, for the bundle."""
        ...


def history(rows: NDArray[np.intp], breaks: Collection[int]) -> NDArray[np.intp]:
    """How many bins lie before each of ``rows`` (bin indices) with no gap between; ``breaks`` in ascending order."""
    edges = np.array([0, *breaks], np.intp)
    before: NDArray[np.intp] = rows - edges[np.searchsorted(edges, rows, side="right") - 1]
    return before


def run(decoder: Decoder, latents: Floats, breaks: Collection[int] = ()) -> Floats:
    """Step ``decoder`` over ``latents`` (T, d) from its first state, anew from each bin of ``breaks``; kinematics (T, K)."""
    state, anew = decoder.state0(), frozenset(breaks)
    out = []
    for i, z in enumerate(latents):
        if i in anew:
            state = decoder.state0()
        state, y = decoder.step(state, z)
        out.append(y)
    return np.stack(out)
