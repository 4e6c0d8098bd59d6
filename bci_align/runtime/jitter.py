"""How late this machine wakes a process, and how late its decode step is done: measured, in processes of their own.

A loop sleeps to one deadline after another, on a grid that does not move, and takes one real decode step at each. What it is late
by is what a decoder would be late by with a bin that arrives at the deadline; transports come on top.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bci_align.bundle.graph import build
from bci_align.bundle.pipeline import Pipeline
from bci_align.bundle.store import load_bundle
from bci_align.decoders import Wiener
from bci_align.errors import RuntimeFault
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.runtime import process

Floats = NDArray[np.float64]

HIDDEN, LATENTS, OUTPUTS = 64, 16, 2
"""Sizes of the step that is taken where no bundle is given: those of the training defaults."""

_CONTEXT = multiprocessing.get_context("spawn")
_FIRST_STEPS = 50
_TELL_S = 0.25
_START_S = 60.0


@dataclass(frozen=True)
class Plan:
    """One process's run: ``seconds`` of deadlines every ``period_s``, on the real-time scheduler (and ``core``) if ``real_time``.

    ``bundle`` is the directory of the bundle whose step is taken; None: an untrained one of ``channels``.
    """

    seconds: float
    period_s: float
    real_time: bool
    core: int | None = None
    channels: int = 96
    bundle: str | None = None


class Late(NamedTuple):
    """Seconds after each deadline (n,): at which the process was awake (``wake``), and at which its step was done (``done``)."""

    wake: Floats
    done: Floats


@dataclass(frozen=True)
class Jitter:
    """What one process found: ``scheduler`` in words, whether what was asked for was ``granted``, and how late it was."""

    scheduler: str
    granted: bool
    late: Late

    def summary(self) -> dict[str, Any]:
        """JSON-ready, milliseconds: quantiles of the wake-up, of the step, and of both together."""
        wake, done = self.late
        parts = {"wake": wake, "step": done - wake, "both": done}
        return {"scheduler": self.scheduler, "granted": self.granted, "n": len(wake)} | {
            k: quantiles(v) for k, v in parts.items()
        }


def quantiles(seconds: Floats) -> dict[str, float]:
    """``p50``, ``p99``, ``p99.9`` and ``max`` in milliseconds."""
    found = {f"p{q:g}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 99, 99.9)}
    return found | {"max": float(seconds.max()) * 1e3}


def measure(
    seconds: float, period_s: float, work: Callable[[], object], tell: Callable[[float], object] = lambda done: None
) -> Late:
    """Meet one deadline after another with ``work``; ``tell(seconds so far)`` is called four times a second.

    A deadline that passes while the one before is still at work is late by as much, as a bin that has to wait is.
    """
    n = max(int(seconds / period_s), 1)
    wake, done = np.zeros(n), np.zeros(n)
    start = time.monotonic() + period_s
    told = start
    for k in range(n):
        deadline = start + k * period_s
        left = deadline - time.monotonic()
        if left > 0:
            time.sleep(left)  # to an absolute time on the monotonic clock, as clock_nanosleep does
        woke = time.monotonic()
        work()
        end = time.monotonic()
        wake[k], done[k] = woke - deadline, end - deadline
        if end - told > _TELL_S:
            told = end
            tell(end - start)
    return Late(wake, done)


def step_of(plan: Plan) -> Callable[[], object]:
    """One decode step, its state carried on, over counts that change; a real ONNX session in any case."""
    pipeline, read_in, channels = _untrained(plan.channels) if plan.bundle is None else _of_bundle(plan.bundle)
    counts = np.random.default_rng(0).poisson(1.0, (64, channels)).astype(np.float32)
    state, at = pipeline.state0(), 0

    def step() -> None:
        nonlocal state, at
        state, _, _ = pipeline.step(state, counts[at % 64], read_in)
        at += 1

    for _ in range(_FIRST_STEPS):
        step()
    return step


def _of_bundle(path: str) -> tuple[Pipeline, ReadIn, int]:
    bundle = load_bundle(Path(path))
    return bundle.pipeline(), bundle.read_in, len(bundle.manifest.channels)


def _untrained(channels: int) -> tuple[Pipeline, ReadIn, int]:
    model = SourceModel(channels, HIDDEN, LATENTS, OUTPUTS)
    lags = 5
    decoder = Wiener(np.zeros((lags * LATENTS, OUTPUTS), np.float32), np.zeros(OUTPUTS, np.float32), lags)
    pipeline = Pipeline(build(model.core, channels), decoder, HIDDEN, np.ones(OUTPUTS), np.ones(OUTPUTS))
    return pipeline, model.read_in(), channels


def run(plans: Sequence[Plan], load: bool = True, progress: Callable[[float], object] | None = None) -> list[Jitter]:
    """Run all ``plans`` beside each other, each in a process of its own; ``progress(seconds so far)``.

    ``load``: beside a process that keeps a core busy at nice 19, as the aligner does. :class:`RuntimeFault` when one fails.
    """
    children: list[SpawnProcess] = []
    waiting: dict[Any, int] = {}
    found: dict[int, Jitter] = {}
    try:
        for i, plan in enumerate(plans):
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            waiting[ours] = i
            children.append(_start(_loop, plan, theirs))
            theirs.close()
        if load:
            children.append(_start(_busy))
        deadline = time.monotonic() + _START_S + max(p.seconds for p in plans)
        while waiting:
            ready = multiprocessing.connection.wait(list(waiting), max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise RuntimeFault("jitter run: expected its processes to be done by now, found them still at work")
            for pipe in ready:
                heard = _heard(pipe)
                if "done_s" in heard:
                    late = Late(np.array(heard["wake_s"]), np.array(heard["done_s"]))
                    found[waiting.pop(pipe)] = Jitter(heard["scheduler"], heard["granted"], late)
                elif progress:
                    progress(heard["so_far"])
        return [found[i] for i in range(len(plans))]
    finally:
        for child in children:
            child.kill()
            child.join()
            child.close()


def _start(target: Callable[..., None], *args: Any) -> SpawnProcess:
    child = _CONTEXT.Process(target=target, args=args, name="bci-align jitter", daemon=True)
    with process.as_child():
        child.start()
    return child


def _heard(pipe: Any) -> dict[str, Any]:
    """The next message of a child; :class:`RuntimeFault` if it failed."""
    try:
        heard: dict[str, Any] = json.loads(pipe.recv_bytes())
    except EOFError:
        raise RuntimeFault("jitter run: one of its processes died") from None
    if "error" in heard:
        raise RuntimeFault(f"jitter run: {heard['error']}")
    return heard


def _loop(plan: Plan, pipe: Connection[Any, Any]) -> None:
    """One process of :func:`run`."""

    def send(message: dict[str, Any]) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    process.ignore_interrupts()
    try:
        work = step_of(plan)
        scheduler = process.real_time(True, plan.core) if plan.real_time else "default scheduler"
        granted = not plan.real_time or os.sched_getscheduler(0) == os.SCHED_FIFO
        late = measure(plan.seconds, plan.period_s, work, lambda so_far: send({"so_far": so_far}))
        arrays = {"wake_s": late.wake.tolist(), "done_s": late.done.tolist()}
        send({"scheduler": scheduler, "granted": granted} | arrays)
    except Exception as e:  # whatever it is, the parent must hear of it
        send({"error": f"{type(e).__name__}: {e}"})


def _busy() -> None:
    """Keep a core busy until killed, or until the parent is gone."""
    process.ignore_interrupts()
    process.give_way()
    parent = process.ParentWatch()
    x = np.random.default_rng(0).standard_normal((200, 200))
    while not parent.gone():
        x = x @ x
        x /= np.abs(x).max()
