"""The bare step and ours, turn about on the same bins, in a process of its own; and what a swap costs.

*Bare* is ``session.run`` of the bundle's core graph with prepared feeds, nothing else. *Ours* is ``DecodeLoop.on_bin``: checks,
read-in, core, velocity decoder, safety, and the promotion's bookkeeping. Both are woken every few milliseconds, as live bins are,
so neither runs from a cache that a tight loop would keep warm; which goes first alternates.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bci_align.bundle.graph import OUTPUTS
from bci_align.bundle.store import load_bundle
from bci_align.config import PromotionConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.streams.contract import Bin, Flags
from benchmarks.latency_days import days
from benchmarks.latency_process import Helper, Pipe, real_time

Floats = NDArray[np.float64]

PERIOD_S = 0.004
WARM_UP = 100
"""Bins that are not counted."""
PROMOTION = PromotionConfig(shadow_bins=20, probation_bins=20)
_CATCH_UP = 4
"""As the decoder's process does between two bins."""
_BESIDE = 10
"""Neighbours on either side of a bin whose median it is compared with."""


@dataclass(frozen=True)
class Plan:
    """``bins`` of ``bundle`` on the real-time scheduler where ``real_time``."""

    bundle: str
    channels: int
    bin_s: float
    bins: int
    real_time: bool
    out: str


@dataclass(frozen=True)
class Steps:
    """Seconds of each bin (n,): ``bare``, ``ours``; ``woken`` late by; the first bins (m,) of new generations, ``swaps``."""

    bare: Floats
    ours: Floats
    woken: Floats
    swaps: NDArray[np.int64]

    def extra(self) -> Floats:
        """Seconds that every bin of ours took beyond the median of its neighbours (n,)."""
        n, out = len(self.ours), np.zeros(len(self.ours))
        for k in range(n):
            beside = np.r_[self.ours[max(k - _BESIDE, 0) : k], self.ours[k + 1 : k + 1 + _BESIDE]]
            out[k] = self.ours[k] - np.median(beside)
        return out

    def of_swaps(self) -> tuple[Floats, Floats]:
        """:meth:`extra` of the swap bins, and of all others."""
        extra = self.extra()
        return extra[self.swaps], np.delete(extra, self.swaps)


def loop(plan: Plan, pipe: Pipe) -> None:
    """Take both steps, bin by bin, and write ``plan.out``."""
    bundle = load_bundle(plan.bundle)
    pipeline, first = bundle.pipeline(), bundle.read_in
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    core = (Path(plan.bundle) / "core.onnx").read_bytes()
    session = ort.InferenceSession(core, options, providers=["CPUExecutionProvider"])
    counts = days(0, plan.channels, plan.bin_s)[0].counts.astype(np.float32)
    feeds = {"counts": counts[:1].copy(), "state": pipeline.state0().core}
    feeds |= {k: getattr(first, k) for k in ("mean", "gain", "weight", "bias")}
    ours = DecodeLoop(pipeline, first, 0, plan.bin_s, scale=pipeline.scale, promotion=PROMOTION)
    n, generation, offered = plan.bins + WARM_UP, 0, False
    took_bare, took_ours, woken = np.zeros(n), np.zeros(n), np.zeros(n)
    swaps = []
    scheduler = real_time(plan.real_time)
    gc.collect()
    gc.freeze()
    gc.disable()
    pipe.send(ready=True, scheduler=scheduler)
    start = time.monotonic() + PERIOD_S
    for k in range(n):
        due = start + k * PERIOD_S
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        else:  # what is behind would be woken by nobody, and run warm
            start -= left
        woken[k] = max(-left, 0.0) if left <= 0 else time.monotonic() - due
        item = Bin(k, (k + 1) * plan.bin_s, counts[k % len(counts)], (k + 1) * plan.bin_s)
        if k % 2:
            a = time.perf_counter()
            session.run(OUTPUTS, feeds)
            b = time.perf_counter()
            decoded = ours.on_bin(item)
            c = time.perf_counter()
            took_bare[k], took_ours[k] = b - a, c - b
        else:
            a = time.perf_counter()
            decoded = ours.on_bin(item)
            b = time.perf_counter()
            session.run(OUTPUTS, feeds)
            c = time.perf_counter()
            took_ours[k], took_bare[k] = b - a, c - b
        if decoded is not None and decoded.flags & Flags.SWAPPED:
            swaps.append(k)
        ours.idle(_CATCH_UP)
        news = {r["report"] for r in ours.news()}
        if "committed" in news or "dropped" in news or not offered:
            offered, generation = True, generation + 1
            # Another object of the same numbers: a swap costs what it costs, and outputs stay those of the bundle.
            parts = (first.mean, first.gain, first.weight, first.bias)
            ours.offer(ReadIn(*(np.array(p) for p in parts)), generation)
    kept = np.array([s - WARM_UP for s in swaps if s >= WARM_UP + _BESIDE], np.int64)
    np.savez(plan.out, bare=took_bare[WARM_UP:], ours=took_ours[WARM_UP:], woken=woken[WARM_UP:], swaps=kept)
    pipe.send(done=True, scheduler=scheduler)


def measure(plan: Plan) -> Steps:
    """Run one process to its end; what it found."""
    with Helper("step loop", loop, plan) as child:
        child.wait("ready", 120.0)
        child.wait("done", 60.0 + 5.0 * (plan.bins + WARM_UP) * PERIOD_S)
    with np.load(plan.out, allow_pickle=False) as f:
        return Steps(f["bare"], f["ours"], f["woken"], f["swaps"])
