"""The decoder process: bins in, decoded samples out, and nothing that could make a bin wait."""

from __future__ import annotations

import gc
import math
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import LiveConfig
from bci_align.errors import MismatchError
from bci_align.runtime import process
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.reports import fault, send
from bci_align.runtime.shared import Cell, Layout, Shared
from bci_align.streams.contract import END, Bin, Flags, Sink, Source, StreamSpec
from bci_align.streams.registry import make_sink, make_source

_READ_S = 0.005
"""Longest wait for a bin: after it come the mailbox and the order to stop."""

_CATCH_UP = 4
"""Bins that a candidate is stepped by between two looks at the source: so many steps is the most a live bin waits for it."""

_FIRST_STEPS = 20
"""Steps of the pipeline before the first bin: libraries take their time the first time round."""


def main(layout: Layout, config: LiveConfig, pipe: Connection[Any, Any]) -> None:
    """Run the process; everything that ends it is reported to the parent as one sentence."""
    process.ignore_interrupts()
    try:
        # Before any LSL or ZeroMQ object: their threads inherit the scheduler.
        scheduler = process.real_time()
        shared = Shared.attach(layout)
        try:
            _run(shared, config, pipe, scheduler)
        finally:
            shared.close()
    except Exception as e:  # whatever it is, the parent must hear of it
        send(pipe, fault(e))


def _run(shared: Shared, config: LiveConfig, pipe: Connection[Any, Any], scheduler: str) -> None:
    bundle = load_bundle(Path(config.bundle))
    m = bundle.manifest
    pipeline = bundle.pipeline()
    state = pipeline.state0()
    for _ in range(_FIRST_STEPS):
        state, _, _ = pipeline.step(state, bundle.read_in.mean, bundle.read_in)
    source, sink = make_source(config.source), make_sink(config.sink)
    try:
        spec = source.open(config.source.connect_timeout_s)
        check_stream(spec, bundle)
        sink.open(m.outputs, m.units, 1.0 / m.bin_s)
        send(
            pipe,
            {
                "report": "ready",
                "stream": spec.name,
                "channels": len(spec.channels),
                "bin_s": spec.bin_s,
                "generation": m.generation,
                "scheduler": scheduler,
            },
        )
        loop = DecodeLoop(
            pipeline,
            bundle.read_in,
            m.generation,
            m.bin_s,
            scale=m.scale,
            checks=config.checks,
            safety=config.safety,
            promotion=config.promotion,
        )
        gc.collect()
        gc.freeze()  # what is here now stays: no collection need look at it again
        why = _decode(shared, loop, source, sink, pipe, config.stale_s)
        counts = {"bins": shared.get(Cell.BINS), "gaps": loop.gaps, "bad": loop.bad, "malformed_events": _malformed(source)}
        send(pipe, {"report": "ended", "why": why} | counts)
    finally:
        source.close()
        sink.close()


def _decode(shared: Shared, loop: DecodeLoop, source: Source, sink: Sink, pipe: Connection[Any, Any], stale_s: float) -> str:
    """Decode until told to stop or until no bin has come for ``stale_s`` seconds (0: for ever); why it ended."""
    parent = process.ParentWatch()
    last, bins, marks, ends, successes = time.monotonic(), 0, 0, 0, 0
    while not shared.get(Cell.STOP):
        for item in source.read(0.0 if loop.warming else _READ_S):
            if not isinstance(item, Bin):
                marks += loop.on_event(item)
                ends += item.name == END
                successes += item.name == END and bool(item.value)
                shared.ring.put(item)
                continue
            decoded = loop.on_bin(item)
            if decoded is None:
                continue
            sink.write(decoded)
            bins += 1
            if not decoded.flags & Flags.BAD_COUNTS:  # else left out: a trial with a bin missing is not calibrated on
                shared.ring.put(item)
            loop.idle(_CATCH_UP)
            last = time.monotonic()
            shared.set(Cell.BINS, bins)
            shared.set(Cell.LAST_SEQ, item.seq + 1)
        shared.set(Cell.MARKS, marks)
        shared.set(Cell.ENDS, ends)
        shared.set(Cell.SUCCESSES, successes)
        shared.set(Cell.MALFORMED, _malformed(source))
        shared.set(Cell.GAPS, loop.gaps)
        shared.set(Cell.BAD, loop.bad)
        posted = shared.mailbox.poll()
        if posted is not None:
            loop.offer(*posted)
        loop.idle(_CATCH_UP)
        for report in loop.news():
            send(pipe, report)
        if not loop.warming:
            shared.set(Cell.SETTLED, shared.mailbox.fetched)
        if stale_s and time.monotonic() - last > stale_s:
            return f"no bin has come for {stale_s:g} s"
        if parent.gone():
            return "the parent process is gone"
    return "stopped"


def _malformed(source: Source) -> int:
    """Markers that a transport could not understand; 0 for one that has no markers to read."""
    return int(getattr(getattr(source, "events", None), "malformed", 0))


def check_stream(spec: StreamSpec, bundle: Bundle) -> None:
    """Refuse a stream that the bundle was not trained for; :class:`MismatchError` names both and the first difference."""
    m = bundle.manifest
    both = f"stream {spec.name!r} and bundle {str(bundle.path)!r} do not belong together"
    if len(spec.channels) != len(m.channels):
        raise MismatchError(f"{both}: expected {len(m.channels)} channels, found {len(spec.channels)}")
    for i, (expected, found) in enumerate(zip(m.channels, spec.channels, strict=True)):
        if expected != found:
            raise MismatchError(f"{both}: channel {i}: expected label {expected!r}, found {found!r}")
    if not math.isclose(spec.bin_s, m.bin_s, rel_tol=1e-6):
        raise MismatchError(f"{both}: expected bins of {m.bin_s * 1e3:g} ms, found {spec.bin_s * 1e3:g} ms")
