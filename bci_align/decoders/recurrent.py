"""Recurrent decoder: a small GRU on latents with a linear readout beside a direct linear path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bci_align.decoders.protocol import Arrays, Floats


class Recurrent:
    """GRU (torch's gate order r, z, n) of ``hidden`` units; every array as torch names it, stepped in NumPy."""

    kind = "recurrent"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_out", "bias_out")

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = {name: arrays[name].astype(np.float64) for name in self.names}
        self.hidden = self._arrays["weight_hh"].shape[1]

    @classmethod
    def fit(
        cls,
        latents: Floats,
        kinematics: Floats,
        rows: NDArray[np.intp],
        seed: int = 0,
        hidden: int = 32,
        steps: int = 360,
        breaks: Sequence[int] = (),
    ) -> Recurrent:
        """Fit by least squares on ``rows`` (bin indices) of ``latents`` (T, d), ``kinematics`` (T, K).

        ``breaks`` are bins before which lies a gap. Windows lie inside one stretch; one that begins with its stretch begins in
        the true state and needs no burn-in.
        """
        from bci_align.decoders.recurrent_fit import fit  # torch: seconds to import, and stepping needs none of it

        return cls(fit(latents, kinematics, rows, seed, hidden, steps, breaks))

    @classmethod
    def load(cls, arrays: Arrays) -> Recurrent:
        """Rebuild from :meth:`arrays`."""
        return cls(arrays)

    def state0(self) -> Floats:
        """Give the hidden state before the first bin (hidden,)."""
        return np.zeros(self.hidden)

    def step(self, state: Floats, latents: Floats) -> tuple[Floats, Floats]:
        """Take one GRU step and read out."""
        a = self._arrays
        i = a["weight_ih"] @ latents + a["bias_ih"]
        h = a["weight_hh"] @ state + a["bias_hh"]
        n = self.hidden
        gates = 1.0 / (1.0 + np.exp(-(i[: 2 * n] + h[: 2 * n])))
        reset, update = gates[:n], gates[n:]
        new = np.tanh(i[2 * n :] + reset * h[2 * n :])
        state = (1.0 - update) * new + update * state
        return state, a["weight_out"] @ np.concatenate([state, latents]) + a["bias_out"]

    def arrays(self) -> Arrays:
        """Give the six weight arrays."""
        return {name: a.astype(np.float32) for name, a in self._arrays.items()}
