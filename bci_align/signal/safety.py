"""What may leave the decoder: limits of speed and acceleration, decay to zero, zero. A pure step object over the last output."""

from __future__ import annotations

import math
from math import hypot

import numpy as np
from numpy.typing import NDArray

from bci_align.config import SafetyConfig

Floats = NDArray[np.float64]


class Safety:
    """Limits of the output.

    The state is the last output (K,) float64 in physical units; it is never changed in place.

    Parameters
    ----------
    outputs
        K.
    bin_s
        Bin width, seconds.
    config
        Limits, in the outputs' own units. Without any, :meth:`step` lets every finite output through as it is.
    """

    def __init__(self, outputs: int, bin_s: float, config: SafetyConfig) -> None:
        self._outputs = outputs
        self._speed = config.max_speed
        self._step = None if config.max_acceleration is None else config.max_acceleration * bin_s
        self._decay = math.exp(-bin_s / config.decay_s)
        self._rest = np.zeros(outputs)
        self.limits = self._speed is not None or self._step is not None
        """Whether there is anything to limit: else :meth:`step` gives what it gets, if that is finite."""

    def state0(self) -> Floats:
        """Give the output before the first bin: at rest."""
        return self._rest

    def step(self, state: Floats, values: Floats) -> tuple[Floats, bool]:
        """Limit ``values`` (K,): the output, which is also the new state, and whether it was cut.

        The acceleration is limited last, on the way between two outputs within ``max_speed``. Values that are not finite become
        zero.
        """
        speed = hypot(*values.tolist())
        if not (speed < math.inf or finite(values)):  # the norm of the largest finite numbers is beyond them
            return self._rest, True
        cut = False
        if self._speed is not None and speed > self._speed:
            values, cut = values * (self._speed / speed), True
        if self._step is not None:
            with np.errstate(over="ignore"):
                change = values - state
            if (size := norm(change)) > self._step:
                values, cut = (state + change * (self._step / size) if size < math.inf else state), True
        return values, cut

    def decay(self, state: Floats) -> Floats:
        """Give the output one bin further on its way to zero."""
        return state * self._decay

    def zero(self) -> Floats:
        """Give no movement, at once."""
        return self._rest


def norm(values: Floats) -> float:
    """Euclidean norm, without a square that could overflow."""
    return hypot(*values.tolist())


def finite(x: NDArray[np.floating]) -> bool:
    """Whether all numbers of an array are finite."""
    return 0 not in np.isfinite(x).tobytes()  # quicker than to count them
