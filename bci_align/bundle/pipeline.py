"""The whole decode step of one bundle: counts -> read-in -> core (ONNX Runtime) -> velocity decoder -> clamp.

Offline scoring, the gate and the live loop all call :meth:`Pipeline.step`; there is no second path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bci_align.bundle.graph import INPUTS, OUTPUTS
from bci_align.decoders import Decoder, Floats
from bci_align.errors import MismatchError
from bci_align.models.read_in import ReadIn

_BOUND = 4
"""Read-ins that stay bound to the core: those of the live loop, incumbent, candidate and the one before, and one to spare."""


class State(NamedTuple):
    """State between two bins: the core's (1, H) float32 and the velocity decoder's own. Never changed in place."""

    core: NDArray[np.float32]
    decoder: Floats


class Pipeline:
    """One frozen core and its velocity decoder; the read-in comes with every call, so incumbent and candidate share it.

    States go in and come out as values of their own; between, the core works in buffers of the pipeline: one thread at a time.

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
        shapes = {a.name: a.shape for a in (*self._session.get_inputs(), *self._session.get_outputs())}
        # The core reads and writes these: to hand over arrays by name costs as much as a third of the step.
        self._counts, self._core, self._latents, self._core_out = (
            np.zeros(shapes[name], np.float32) for name in ("counts", "state", *OUTPUTS)
        )
        self._bound: deque[tuple[ReadIn, ort.IOBinding]] = deque(maxlen=_BOUND)
        self._of: ReadIn | None = None
        self._binding: ort.IOBinding | None = None

    def state0(self) -> State:
        """Give the state before the first bin."""
        return State(np.zeros((1, self._hidden), np.float32), self.decoder.state0())

    def encode(
        self, core: NDArray[np.float32], counts: NDArray[np.float32], read_in: ReadIn
    ) -> tuple[NDArray[np.float32], Floats]:
        """Step the core alone: ``(core state (1, H), whitened latents (d,))`` for one bin of counts (C,)."""
        if counts.shape != self._counts.shape[1:]:
            raise MismatchError(f"counts: expected {self._counts.shape[1]} channels, found an array of shape {counts.shape}")
        self._counts[0] = counts
        self._core[:] = core
        if read_in is not self._of:
            self._of, self._binding = read_in, self._bind(read_in)
        self._session.run_with_iobinding(self._binding)
        return self._core_out.copy(), self._latents[0].astype(np.float64)

    def _bind(self, read_in: ReadIn) -> ort.IOBinding:
        """The core bound to its buffers and to ``read_in``, both of which the binding keeps."""
        for bound, binding in self._bound:
            if bound is read_in:
                return binding
        binding = self._session.io_binding()
        inputs = {"counts": self._counts, "state": self._core} | {name: getattr(read_in, name) for name in INPUTS[2:]}
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array, np.float32))
        for name, array in zip(OUTPUTS, (self._latents, self._core_out), strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._bound.append((read_in, binding))
        return binding

    def step(self, state: State, counts: NDArray[np.float32], read_in: ReadIn) -> tuple[State, Floats, bool]:
        """Decode one bin of ``counts`` (C,) float32: ``(state, output (K,) in physical units, whether it was clamped)``."""
        core, latents = self.encode(state.core, counts, read_in)
        decoder, y = self.decoder.step(state.decoder, latents)
        clamped = True in (np.abs(y) > self.clamp).tolist()
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
