"""Rigs and decoders for the stream tests: real outlets and sockets, in this process or in spawned ones."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np

from bci_align.config import SinkConfig, SourceConfig
from bci_align.session.types import TIME_TOLERANCE_S
from bci_align.streams.contract import END, GO, START, Bin, Decoded, Flags, RigOutlet, Source, StreamSpec, TrialEvent
from bci_align.streams.registry import make_rig, make_sink, make_source

KINDS = ("lsl", "zmq")
SPEC = StreamSpec(("a1", "a2", "a3", "b1"), 0.01, "test rig", "")
PATIENCE_S = 20.0


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def configs(kind: str) -> tuple[SourceConfig, SinkConfig]:
    """Names and ports that no other test uses."""
    me = uuid.uuid4().hex
    return (
        SourceConfig(kind=kind, stream=f"counts-{me}", markers=f"events-{me}", address=free_address()),
        SinkConfig(kind=kind, stream=f"velocity-{me}", address=free_address()),
    )


def session(bins: int, first_seq: int = 0, channels: int = len(SPEC.channels)) -> list[Bin | TrialEvent]:
    """Bins and events as a rig sends them: a trial every 50 bins, its start exactly on a bin's edge, every other one rewarded."""
    counts = np.random.default_rng(bins).poisson(0.7, (bins, channels)).astype(np.float32)
    t0 = 1234.5
    items: list[Bin | TrialEvent] = []
    for k in range(bins):
        edge = t0 + k * SPEC.bin_s
        if k % 50 == 0:
            items.append(TrialEvent(edge, START))
        if k % 50 == 10:
            items.append(TrialEvent(edge + 0.0049, GO))
        if k % 50 == 40:
            items.append(TrialEvent(edge + 0.002, END, k % 100 == 40))
        items.append(Bin(first_seq + k, t0 + (k + 1) * SPEC.bin_s, counts[k]))
    return items


def bins_of(items: list[Bin | TrialEvent]) -> list[Bin]:
    return [i for i in items if isinstance(i, Bin)]


def events_of(items: list[Bin | TrialEvent]) -> list[TrialEvent]:
    return [i for i in items if isinstance(i, TrialEvent)]


def assert_same(found: list[Bin | TrialEvent], sent: list[Bin | TrialEvent], *, exact: bool) -> None:
    """Nothing lost, doubled or changed; stamps to the bit, or to the wire format's nanosecond."""
    tolerance = 0.0 if exact else 1e-9
    a, b = bins_of(found), bins_of(sent)
    assert [x.seq for x in a] == [x.seq for x in b]
    assert np.array([x.counts for x in a]).tobytes() == np.array([x.counts for x in b]).tobytes()
    assert all(x.counts.dtype == np.float32 for x in a)
    np.testing.assert_allclose([x.t for x in a], [x.t for x in b], rtol=0, atol=tolerance)
    ea, eb = events_of(found), events_of(sent)
    assert [(e.name, e.value) for e in ea] == [(e.name, e.value) for e in eb]
    np.testing.assert_allclose([e.t for e in ea], [e.t for e in eb], rtol=0, atol=tolerance)


def assert_ordered(items: list[Bin | TrialEvent]) -> None:
    """Every event stands before the bin that holds it and after the one before that."""
    last = -np.inf
    for k, item in enumerate(items):
        if isinstance(item, Bin):
            last = item.t
            continue
        following = next((b.t for b in items[k:] if isinstance(b, Bin)), np.inf)
        assert last <= item.t + 2 * TIME_TOLERANCE_S
        assert item.t < following


def collect(source: Source, bins: int, events: int) -> list[Bin | TrialEvent]:
    """Read until that much has come (or patience ends)."""
    items: list[Bin | TrialEvent] = []
    stop = time.monotonic() + PATIENCE_S
    while (len(bins_of(items)) < bins or len(events_of(items)) < events) and time.monotonic() < stop:
        items += source.read(0.2)
    return items


@contextlib.contextmanager
def opened(kind: str, spec: StreamSpec = SPEC) -> Iterator[tuple[RigOutlet, Source, StreamSpec]]:
    """A rig and a source in this process, connected."""
    source_config, sink_config = configs(kind)
    outlet, _ = make_rig(kind, source_config, sink_config)
    source = make_source(source_config)
    try:
        outlet.open(spec)
        found = source.open(PATIENCE_S)
        outlet.wait_for_decoder(PATIENCE_S)
        yield outlet, source, found
    finally:
        source.close()
        outlet.close()


def endless_rig(pipe: Connection, source: SourceConfig, sink: SinkConfig) -> None:
    """Process: sends bins until it is killed."""
    outlet, _ = make_rig(source.kind, source, sink)
    outlet.open(SPEC)
    pipe.send("ready")
    seq = 0
    while True:
        outlet.push(Bin(seq, 100.0 + 0.01 * seq, np.ones(len(SPEC.channels), np.float32)))
        seq += 1
        time.sleep(0.002)


def ordered_rig(pipe: Connection, source: SourceConfig, sink: SinkConfig) -> None:
    """Process: opens, closes and sends as it is told, until the pipe ends."""
    outlet, _ = make_rig(source.kind, source, sink)
    with contextlib.suppress(EOFError):
        while True:
            order, *args = pipe.recv()
            getattr(outlet, order)(*args)
            pipe.send("done")


class OrderedRig:
    """A rig in a process of its own, as every rig is: liblsl crashes at times where reader and withdrawn stream share one."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self, order: str, *args: object) -> None:
        self._pipe.send((order, *args))
        assert self._pipe.poll(2 * PATIENCE_S), order
        assert self._pipe.recv() == "done"


def echo_decoder(pipe: Connection, source_config: SourceConfig, sink_config: SinkConfig, bins: int, events: int) -> None:
    """Process: answers every bin with its own counts, then reports all that it read."""
    source, sink = make_source(source_config), make_sink(sink_config)
    sink.open(SPEC.channels, ("1",) * len(SPEC.channels), 1 / SPEC.bin_s)
    source.open(PATIENCE_S)
    items: list[Bin | TrialEvent] = []
    stop = time.monotonic() + PATIENCE_S
    while (len(bins_of(items)) < bins or len(events_of(items)) < events) and time.monotonic() < stop:
        for item in source.read(0.2):
            items.append(item)
            if isinstance(item, Bin):
                sink.write(Decoded(item.seq, item.t, item.counts.astype(np.float64), 3, Flags.IN_TRIAL | Flags.GAP))
    pipe.send([(i.seq, i.t, i.counts) if isinstance(i, Bin) else (i.t, i.name, i.value) for i in items])
    pipe.recv()  # LSL drops what a listener has not read when an outlet goes
    source.close()
    sink.close()


@contextlib.contextmanager
def spawned(target: object, *args: object) -> Iterator[tuple[Connection, int]]:
    """Run ``target(pipe, *args)`` in a fresh interpreter; gives our end of the pipe and the process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours, process.pid
    finally:
        ours.close()
        process.join(2)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        process.close()
