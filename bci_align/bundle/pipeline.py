"""The whole decode step of one bundle: counts -> read-in -> core (ONNX Runtime) -> velocity decoder -> clamp.

Offline scoring, the gate and the live loop all call :meth:`Pipeline.step`; there is no second path.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bci_align.bundle.graph import OUTPUTS
from bci_align.decoders import Decoder, Floats
from bci_align.errors import MismatchError
from bci_align.models.encoder import ReadIn


class State(NamedTuple):
    """State between two bins: the core's (1, H) float32 and the velocity decoder's own. Never changed in place."""

    core: NDArray[np.float32]
    decoder: Floats


class Pipeline:
    """One frozen core and its velocity decoder; the read-in comes with every call, so incumbent and candidate share it.

    Parameters
    ----------
    onnx_core
        Serialised graph of :func:`bci_align.bundle.graph.build`.
    decoder
        Latents (d,) -> kinematics (K,) in units of the source day's standard deviation.
    hidden
        Units of the core.
    scale
        (K,) source-day standard deviation, in the kinematics' physical units.
    clamp
        (K,) largest magnitude let out, in units of ``scale``.
    """

    def __init__(self, onnx_core: bytes, decoder: Decoder, hidden: int, scale: Floats, clamp: Floats) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # a step is microseconds: a second thread only adds jitter
        )
        options.log_severity_level = 3
        self._session = ort.InferenceSession(onnx_core, options, providers=["CPUExecutionProvider"])
        self.decoder, self.scale, self.clamp = decoder, scale, clamp
        self._hidden = hidden

    def state0(self) -> State:
        """Give the state before the first bin."""
        return State(np.zeros((1, self._hidden), np.float32), self.decoder.state0())

    def encode(
        self, core: NDArray[np.float32], counts: NDArray[np.float32], read_in: ReadIn
    ) -> tuple[NDArray[np.float32], Floats]:
        """Step the core alone: ``(core state (1, H), whitened latents (d,))`` for one bin of counts (C,)."""
        latents, core = self._session.run(
            OUTPUTS,
            {
                "counts": counts[None],
                "state": core,
                "mean": read_in.mean,
                "gain": read_in.gain,
                "weight": read_in.weight,
                "bias": read_in.bias,
            },
        )
        return core, latents[0].astype(np.float64)

    def step(self, state: State, counts: NDArray[np.float32], read_in: ReadIn) -> tuple[State, Floats, bool]:
        """Decode one bin of ``counts`` (C,) float32: ``(state, output (K,) in physical units, whether it was clamped)``."""
        core, latents = self.encode(state.core, counts, read_in)
        decoder, y = self.decoder.step(state.decoder, latents)
        clamped = bool(np.count_nonzero(np.abs(y) > self.clamp))
        if clamped:
            y = np.clip(y, -self.clamp, self.clamp)
        return State(core, decoder), y * self.scale, clamped

    def run(self, counts: NDArray[np.float32], read_in: ReadIn, breaks: Collection[int] = ()) -> Floats:
        """Step over ``counts`` (T, C) from the first state, and again from it at each bin of ``breaks``, where a gap lies before.

        Outputs (T, K) in physical units.
        """
        state, anew = self.state0(), frozenset(breaks)
        out = np.empty((len(counts), len(self.scale)))
        for i, x in enumerate(counts.astype(np.float32, copy=False)):
            if i in anew:
                state = self.state0()
            state, out[i], _ = self.step(state, x, read_in)
        return out
