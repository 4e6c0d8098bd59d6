"""Connections that are lost, over real streams and sockets, with rigs in processes that are killed, stopped and started anew."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from bci_align.config import SourceConfig
from bci_align.errors import ClockError, MismatchError, StreamError
from bci_align.streams import reconnect
from bci_align.streams.contract import Bin, Link, StreamSpec, TrialEvent
from bci_align.streams.reconnect import RESTART_BINS, Reconnecting
from bci_align.streams.registry import make_rig, make_source

from .rigs import KINDS, PATIENCE_S, SPEC, OrderedRig, configs, endless_rig, ordered_rig, spawned

Items = list[Bin | TrialEvent | Link]
both = pytest.mark.parametrize("kind", KINDS)


def check(spec: StreamSpec) -> None:
    """What a bundle asks of a stream."""
    if len(spec.channels) != len(SPEC.channels):
        raise MismatchError(f"stream {spec.name!r}: expected {len(SPEC.channels)} channels, found {len(spec.channels)}")


@contextmanager
def reconnecting(config: SourceConfig) -> Iterator[Reconnecting]:
    source = Reconnecting(lambda: make_source(config), check, 10.0)
    try:
        yield source
    finally:
        source.close()


def until(source: Reconnecting, enough: Callable[[Items], bool]) -> Items:
    """Read, as the decoder does, until that has come (or patience ends)."""
    items: Items = []
    stop = time.monotonic() + PATIENCE_S
    while not enough(items) and time.monotonic() < stop:
        items += source.read(0.005)
    assert enough(items), items
    return items


def links(items: Items) -> list[Link]:
    return [i for i in items if isinstance(i, Link)]


def states(items: Items) -> list[str]:
    return [i.state for i in links(items)]


def bins(n: int) -> Callable[[Items], bool]:
    return lambda items: sum(isinstance(i, Bin) for i in items) >= n


def told(state: str) -> Callable[[Items], bool]:
    return lambda items: state in states(items)


@both
def test_a_killed_rig_that_is_started_anew(kind: str) -> None:
    source_config, sink_config = configs(kind)
    with reconnecting(source_config) as source:
        with spawned(endless_rig, source_config, sink_config) as (pipe, pid):
            assert pipe.poll(PATIENCE_S)
            spec = source.open(PATIENCE_S)
            until(source, bins(20))
            os.kill(pid, signal.SIGKILL)
            items = until(source, told("lost"))
            assert states(items) == ["lost"]
            assert (source_config.stream if kind == "lsl" else source_config.address) in links(items)[0].sentence
            assert source.read(0.01) == []
        with spawned(endless_rig, source_config, sink_config) as (pipe, _):
            assert pipe.poll(PATIENCE_S)
            items = until(source, bins(20))
            assert links(items) == [Link("back", f"stream {spec.name!r} is back, from a sender that was started anew", True)]
            assert items[0] == links(items)[0]
            seqs = [i.seq for i in items if isinstance(i, Bin)]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


@both
def test_a_rig_that_stops_without_a_word_is_lost_and_comes_back_as_it_was(kind: str) -> None:
    """As when its machine hangs or its cable is pulled: no connection is closed, and none of its bins comes."""
    source_config, sink_config = configs(kind)
    with reconnecting(source_config) as source, spawned(endless_rig, source_config, sink_config) as (pipe, pid):
        assert pipe.poll(PATIENCE_S)
        source.open(PATIENCE_S)
        until(source, bins(20))
        os.kill(pid, signal.SIGSTOP)
        try:
            assert states(until(source, told("lost"))) == ["lost"]
        finally:
            os.kill(pid, signal.SIGCONT)
        items = until(source, lambda items: told("back")(items) and bins(20)(items))
        assert [(link.state, link.restarted) for link in links(items)] == [("back", False)]


@both
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (replace(SPEC, channels=SPEC.channels[:3]), "stream 'test rig': expected 4 channels, found 3"),
        (replace(SPEC, channels=("a1", "a2", "b1", "a3")), "channel 2: expected label 'a3', found 'b1'"),
        (replace(SPEC, bin_s=0.02), "expected bins of 10 ms, found 20 ms"),
    ],
    ids=["count", "labels", "width"],
)
def test_another_stream_under_the_same_name_is_told_once_and_the_right_one_taken(
    kind: str, spec: StreamSpec, sentence: str
) -> None:
    """On LSL, what liblsl's own recovery answers with silence."""
    config, sink_config = configs(kind)
    with reconnecting(config) as source, spawned(ordered_rig, config, sink_config) as (pipe, _):
        rig = OrderedRig(pipe)
        rig("open", SPEC)
        source.open(PATIENCE_S)
        rig("close")
        items = until(source, told("lost"))
        rig("open", spec)
        items += until(source, told("mismatch"))
        tries = time.monotonic() + 5 * reconnect.AGAIN_S
        while time.monotonic() < tries:
            items += source.read(0.01)
        assert states(items) == ["lost", "mismatch"]
        assert sentence in links(items)[1].sentence
        rig("close")
        rig("open", SPEC)
        items = until(source, told("back"))
        assert [(link.state, link.restarted) for link in links(items)] == [("back", True)]
        rig("wait_for_decoder", PATIENCE_S)
        rig("push", Bin(0, 1.0, np.ones(4, np.float32)))
        until(source, bins(1))


@both
def test_reads_return_in_time_while_nobody_is_there(kind: str) -> None:
    """Not a measurement: each read ends because its time is over, not because the attempt to connect is."""
    config, sink_config = configs(kind)
    with reconnecting(config) as source, spawned(ordered_rig, config, sink_config) as (pipe, _):
        rig = OrderedRig(pipe)
        rig("open", SPEC)
        source.open(PATIENCE_S)
        rig("close")
        until(source, told("lost"))
        reads, stop = 0, time.monotonic() + 1.0
        while time.monotonic() < stop:
            assert source.read(0.01) == []
            reads += 1
        assert reads > 20
        assert source.read(0.0) == []
    assert not [t for t in threading.enumerate() if t.name == "stream search"]
    with pytest.raises(StreamError, match="closed"):
        source.read(0.0)


@both
def test_the_first_opening_fails_as_before(kind: str) -> None:
    config, sink_config = configs(kind)
    with reconnecting(config) as source:
        with pytest.raises(StreamError, match=r"within 0\.3 s"):
            source.open(0.3)
        outlet, _ = make_rig(kind, config, sink_config)
        outlet.open(replace(SPEC, channels=("a1",)))
        try:
            with pytest.raises(MismatchError, match="expected 4 channels, found 1"):
                source.open(PATIENCE_S)
        finally:
            outlet.close()


class Scripted:
    """A source that does what it is told; for what no real stream does at the right moment."""

    malformed_bins, malformed_events, last_malformed = 0, 0, ""

    def __init__(self, *script: list[Bin | TrialEvent] | Exception, spec: StreamSpec | Exception = SPEC) -> None:
        self._script, self._spec = list(script), spec
        self.closed = 0

    def open(self, timeout_s: float) -> StreamSpec:
        if isinstance(self._spec, Exception):
            raise self._spec
        return self._spec

    def read(self, timeout_s: float) -> list[Bin | TrialEvent]:
        step = self._script.pop(0) if self._script else []
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1


def bin_at(seq: int) -> Bin:
    return Bin(seq, 0.01 * seq, np.zeros(4, np.float32))


def scripted(*sources: Scripted) -> Reconnecting:
    queue = list(sources)
    made = Reconnecting(lambda: queue.pop(0) if queue else Scripted(spec=StreamError("nobody")), check, 1.0)
    made.open(1.0)
    return made


def test_every_differing_mismatch_is_told_once() -> None:
    wrong = [Scripted(spec=replace(SPEC, channels=("x",) * n)) for n in (3, 3, 2, 3)]
    format_changed = Scripted(spec=replace(SPEC, format="int16"))
    source = scripted(Scripted(StreamError("gone")), *wrong, format_changed, Scripted([bin_at(5)]))
    items = until(source, bins(1))
    assert states(items) == ["lost", *["mismatch"] * 4, "back"]
    assert [link.sentence[-7:] for link in links(items)[1:4]] == ["found 3", "found 2", "found 3"]
    assert links(items)[4].sentence.endswith("expected counts as any type, found int16")
    assert all(s.closed for s in (*wrong, format_changed))
    source.close()


def test_what_was_left_out_counts_over_all_connections() -> None:
    first, second = Scripted(StreamError("gone")), Scripted([bin_at(0)])
    first.malformed_bins, first.malformed_events, first.last_malformed = 3, 2, "a bin of yesterday"
    source = scripted(first, second)
    until(source, bins(1))
    assert (source.malformed_bins, source.malformed_events, source.last_malformed) == (3, 2, "a bin of yesterday")
    second.malformed_bins, second.last_malformed = 1, "a bin of today"
    assert (source.malformed_bins, source.malformed_events, source.last_malformed) == (4, 2, "a bin of today")
    source.close()
    assert (source.malformed_bins, source.malformed_events) == (4, 2)


def test_two_clocks_are_no_loss() -> None:
    source = scripted(Scripted(ClockError("two clocks")))
    with pytest.raises(ClockError, match="two clocks"):
        source.read(0.0)
    source.close()


def test_a_fault_of_the_search_is_not_swallowed() -> None:
    broken = Scripted(spec=ZeroDivisionError("defect"))
    source = scripted(Scripted(StreamError("gone")), broken)
    assert states(source.read(0.0)) == ["lost"]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="defect"):
            source.read(PATIENCE_S)
    assert broken.closed == 1
    source.close()


def test_a_stream_that_was_found_and_not_fetched_is_closed() -> None:
    found = Scripted([bin_at(0)])
    source = scripted(Scripted(StreamError("gone")), found)
    assert states(source.read(0.0)) == ["lost"]
    assert source._search is not None
    source._search.join(PATIENCE_S)
    source.close()
    assert found.closed == 1


@pytest.mark.parametrize("newest", [10**6, 500], ids=["a number of garbage", "a count that restarts"])
def test_a_sender_that_counts_anew_within_its_connection(newest: int) -> None:
    anew = [bin_at(k) for k in range(100, 150)]
    source = scripted(Scripted([bin_at(99), bin_at(newest)], anew[:5], anew[5:]))
    items = until(source, bins(52))
    at = items.index(anew[RESTART_BINS - 1])
    assert isinstance(items[at - 1], Link) and items[at - 1].restarted
    assert f"after number {newest} it has come to {100 + RESTART_BINS - 1}" in items[at - 1].sentence
    assert len(links(items)) == 1
    source.close()


def test_bins_that_are_out_of_order_or_come_twice_are_no_new_count() -> None:
    stream = [k for b in range(0, 600, 10) for k in (*range(b, b + 10), *range(b, b + 10))]  # every ten bins twice
    stream += [600 + (k ^ 1) for k in range(100)]  # neighbours change places
    stream += [699] * 100  # a count that is stuck
    source = scripted(Scripted([bin_at(k) for k in stream]))
    items = until(source, bins(len(stream)))
    assert links(items) == []
    source.close()
