"""The whole decode step of one bundle: counts -> read-in -> core (ONNX Runtime) -> velocity decoder -> clamp.

Offline scoring, the gate and the live loop all call :meth:`Pipeline.step`; there is no second path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from operator import gt
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


class _Bound:
    """The core bound to one read-in and to buffers: to hand over arrays by name costs as much as a third of the step.

    The state's two buffers change places with every bin, so that one who steps this read-in alone, as a live loop does each of
    its generations, finds the last bin's state where the core reads it.
    """

    def __init__(self, session: ort.InferenceSession, read_in: ReadIn) -> None:
        self.read_in, self._session = read_in, session
        shapes = {a.name: a.shape for a in (*session.get_inputs(), *session.get_outputs())}
        self._counts, self._latents, *self._states = (
            np.zeros(shapes[name], np.float32) for name in ("counts", OUTPUTS[0], "state", OUTPUTS[1])
        )
        self._row, self._latents_row, self._shape = self._counts[0], self._latents[0], self._counts[0].shape
        self.latents: Floats = np.zeros(self._latents_row.shape)
        """Whitened latents (d,) of the last step, until the next one."""
        self._run = [self._bind(*self._states), self._bind(*reversed(self._states))]
        self._side = 0
        self._last: NDArray[np.float32] | None = None

    def _bind(self, state: NDArray[np.float32], state_out: NDArray[np.float32]) -> Callable[[], None]:
        """What steps the core from ``state`` to ``state_out``."""
        session = self._session
        binding = session.io_binding()
        inputs = {"counts": self._counts, "state": state} | {name: getattr(self.read_in, name) for name in INPUTS[2:]}
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array, np.float32))
        for name, array in zip(OUTPUTS, (self._latents, state_out), strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        # What the public method calls in the end: its own checks are the same in every bin, and a twentieth of the step.
        run, inner = getattr(getattr(session, "_sess", None), "run_with_iobinding", None), getattr(binding, "_iobinding", None)
        return partial(session.run_with_iobinding, binding) if run is None or inner is None else partial(run, inner, None)

    def step(self, core: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Step ``core`` (1, H) over ``counts`` (C,): its state after them."""
        if counts.shape != self._shape:
            raise MismatchError(f"counts: expected {self._shape[0]} channels, found an array of shape {counts.shape}")
        side = self._side
        self._row[...] = counts
        if core is not self._last:
            self._states[side][...], self._last = core, None
        self._run[side]()
        self._side = side = 1 - side
        self.latents[...] = self._latents_row
        self._last = after = self._states[side].copy()
        return after


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
        self._bound: deque[_Bound] = deque(maxlen=_BOUND)
        self._of: _Bound | None = None

    def state0(self) -> State:
        """Give the state before the first bin."""
        return State(np.zeros((1, self._hidden), np.float32), self.decoder.state0())

    def encode(
        self, core: NDArray[np.float32], counts: NDArray[np.float32], read_in: ReadIn
    ) -> tuple[NDArray[np.float32], Floats]:
        """Step the core alone: ``(core state (1, H), whitened latents (d,))`` for one bin of counts (C,)."""
        bound = self._bind(read_in)
        return bound.step(core, counts), bound.latents.copy()

    def _bind(self, read_in: ReadIn) -> _Bound:
        for bound in self._bound:
            if bound.read_in is read_in:
                return bound
        self._bound.append(_Bound(self._session, read_in))
        return self._bound[-1]

    def step(self, state: State, counts: NDArray[np.float32], read_in: ReadIn) -> tuple[State, Floats, bool]:
        """Decode one bin of ``counts`` (C,) float32: ``(state, output (K,) in physical units, whether it was clamped)``."""
        before, line = state
        bound = self._of
        if bound is None or bound.read_in is not read_in:
            bound = self._of = self._bind(read_in)
        core = bound.step(before, counts)
        decoder, y = self.decoder.step(line, bound.latents)
        clamped = any(map(gt, map(abs, y.tolist()), self.clamp.tolist()))  # so few numbers are quicker compared without NumPy
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
