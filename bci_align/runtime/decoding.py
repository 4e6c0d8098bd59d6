"""The hot loop: everything between a bin's arrival and the next one, in an order in which nothing can make a bin wait."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np

from bci_align.runtime import process
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.reports import Writer
from bci_align.runtime.shared import Cell, Phase, Shared
from bci_align.runtime.tape import TapedLoop
from bci_align.runtime.vigil import Vigil
from bci_align.streams.contract import END, Bin, Decoded, Flags, Link, Sink, TrialEvent
from bci_align.streams.reconnect import Reconnecting

_CATCH_UP = 4
"""Bins that a candidate is stepped by between two looks at the source: so many steps is the most a live bin waits for it."""

_TIDY_S = 1.0
"""Time between two collections of what has become garbage since the last; each takes some 50 us, between two bins."""

_COUNTED = (Cell.BINS, Cell.MARKS, Cell.ENDS, Cell.SUCCESSES, Cell.GAPS, Cell.BAD, Cell.MALFORMED, Cell.MALFORMED_BINS, Cell.LATE)
"""Counters that go on from what the decoder before has left."""

_PHASES = {"lost": Phase.LOST, "mismatch": Phase.MISMATCH, "back": Phase.DECODING}


class Decoding:
    """Reads, decodes, publishes and tells, until told to stop.

    Parameters
    ----------
    shared, beat, ticket
        The shared memory, which cell of it is this process's heartbeat, and its turn to decode.
    loop, source, sink
        What decodes; open, both of them.
    writer
        Where the reports go.
    bin_s, stale_s
        Bin width; seconds without a bin after which it ends (0: never).
    """

    def __init__(
        self,
        shared: Shared,
        beat: Cell,
        ticket: int,
        loop: DecodeLoop | TapedLoop,
        source: Reconnecting,
        sink: Sink,
        writer: Writer,
        bin_s: float,
        stale_s: float,
    ) -> None:
        self._shared, self._beat, self._ticket = shared, beat, ticket
        self._loop, self._source, self._sink, self._writer = loop, source, sink, writer
        self._bin_s, self._stale_s = bin_s, stale_s
        self._counts = {cell: shared.get(cell) for cell in _COUNTED}
        self._before = dict(self._counts)
        self._faults, self._episodes = shared.faults.copy(), shared.episodes.copy()
        self._malformed = 0
        self._expected = shared.get(Cell.LAST_SEQ)
        # Orders of before are the business of the decoder of before, but what is frozen stays frozen.
        self._orders = self._promotes = self._rollbacks = -1
        self._frozen = False
        self._last = time.monotonic()
        self._vigil = Vigil(bin_s)
        self._tidy_at = 0.0

    def run(self) -> str:
        """Decode; why it ended."""
        shared, source, loop, vigil = self._shared, self._source, self._loop, self._vigil
        parent = process.ParentWatch()
        self._take_orders()
        shared.set(Cell.PHASE, Phase.DECODING)
        gc.disable()
        while not shared.get(Cell.STOP):
            shared.beat(self._beat)
            bins = 0
            for item in source.read(0.0 if loop.warming else vigil.patience(time.monotonic() - self._last)):
                if isinstance(item, Bin):
                    self._take_orders()
                    self._bin(item)
                    bins += 1
                else:
                    self._event(item)
            now = time.monotonic()
            if not bins and (sample := loop.tick(now)) is not None:
                self._sink.write(sample)
            self._take_orders()
            self._look_into_mailbox()
            loop.idle(_CATCH_UP)
            self._tell()
            self._tidy(now, bool(bins))
            if not bins and vigil.rehearse(now - self._last):
                loop.keep_warm()
            if self._stale_s and now - self._last > self._stale_s:
                return f"no bin has come for {self._stale_s:g} s"
            if shared.get(Cell.ACTIVE) != self._ticket:
                return "another decoder has taken over"
            if parent.gone():
                return "the parent process is gone"
        return "stopped"

    def counts(self) -> dict[str, int]:
        """What was counted, for the last report."""
        get = self._shared.get
        malformed = get(Cell.MALFORMED)
        return {"bins": get(Cell.BINS), "gaps": get(Cell.GAPS), "bad": get(Cell.BAD), "malformed_events": malformed}

    def _bin(self, item: Bin) -> None:
        shared, loop = self._shared, self._loop
        started = time.monotonic()
        decoded = loop.on_bin(item)
        if decoded is None:  # a bin that was there before, or that comes too late
            return
        stepped = time.monotonic()
        self._sink.write(decoded)
        done = time.monotonic()
        self._last = started
        self._vigil.bin()
        self._measure(item.arrived, started, stepped, done)
        self._count(Cell.BINS, 1)
        if self._expected:  # nobody decoded meanwhile; a sender that counts anew leaves nothing to tell
            self._before[Cell.GAPS] += max(item.seq - self._expected, 0)
            self._expected = 0
        self._news()  # before the ring: an aligner that reads this bin must know what it led to
        if not decoded.flags & Flags.BAD_COUNTS:  # else left out: a trial with a bin missing is not calibrated on
            shared.ring.put(item)
        loop.idle(_CATCH_UP)
        shared.set(Cell.GENERATION, decoded.generation)
        shared.set(Cell.LAST_SEQ, item.seq + 1)

    def _event(self, item: TrialEvent | Link) -> None:
        if isinstance(item, Link):
            self._loop.on_link(item)
            self._shared.set(Cell.PHASE, _PHASES[item.state])
            if item.state == "back":  # what is lost or wrong the loop tells of, as a fault
                self._writer.send({"report": "link", "state": "back", "sentence": item.sentence, "restarted": item.restarted})
            return
        self._count(Cell.MARKS, self._loop.on_event(item))
        self._count(Cell.ENDS, item.name == END)
        self._count(Cell.SUCCESSES, item.name == END and bool(item.value))
        self._shared.ring.put(item)

    def _take_orders(self) -> None:
        """Do what has been ordered since the last look; one comparison if that is nothing."""
        shared = self._shared
        orders = shared.get(Cell.ORDERS)
        if orders == self._orders:
            return
        first, self._orders = self._orders < 0, orders
        frozen = bool(shared.get(Cell.FREEZE))
        if frozen != self._frozen:
            self._frozen = frozen
            (self._loop.freeze if frozen else self._loop.resume)()
        promotes, rollbacks = shared.get(Cell.PROMOTE), shared.get(Cell.ROLLBACK)
        if promotes != self._promotes and not first:
            self._loop.promote()
        if rollbacks != self._rollbacks and not first:
            self._loop.rollback()
        self._promotes, self._rollbacks = promotes, rollbacks
        shared.set(Cell.TAKEN, orders)

    def _look_into_mailbox(self) -> None:
        mailbox = self._shared.mailbox
        posted = mailbox.poll()
        if posted is not None:
            self._shared.set(Cell.FETCHED, mailbox.fetched)
            self._loop.offer(*posted)

    def _tell(self) -> None:
        """Bring the board up to date and send what there is to say."""
        shared, loop, source = self._shared, self._loop, self._source
        malformed = source.malformed_bins + source.malformed_events
        if malformed > self._malformed:
            loop.malformed(malformed - self._malformed)
            self._malformed = malformed
        shared.set(Cell.MALFORMED, self._before[Cell.MALFORMED] + source.malformed_events)
        shared.set(Cell.MALFORMED_BINS, self._before[Cell.MALFORMED_BINS] + source.malformed_bins)
        shared.set(Cell.GAPS, self._before[Cell.GAPS] + loop.gaps)
        shared.set(Cell.BAD, self._before[Cell.BAD] + loop.bad)
        np.add(self._faults, loop.faults, out=shared.faults)
        np.add(self._episodes, loop.episodes, out=shared.episodes)
        self._news()
        self._writer.push()
        shared.set(Cell.UNSENT, self._writer.unsent)
        if not loop.warming:
            shared.set(Cell.SETTLED, shared.mailbox.fetched)

    def _news(self) -> None:
        for report in self._loop.news():
            kind, generation = report["report"], report.get("generation")
            if kind == "committed":
                self._shared.set(Cell.COMMITTED, _number(generation))
            elif kind in ("dropped", "rolled_back"):
                self._shared.set(Cell.DISCARDED, _number(generation))
            self._writer.send(report)

    def _measure(self, arrived: float, started: float, stepped: float, done: float) -> None:
        add = self._shared.latency.add
        add(0, started - arrived)
        add(1, stepped - started)
        add(2, done - stepped)
        add(3, done - arrived)
        if done - arrived > self._bin_s:
            self._count(Cell.LATE, 1)

    def _count(self, cell: Cell, more: int) -> None:
        if more:
            self._counts[cell] += more
            self._shared.set(cell, self._counts[cell])

    def _tidy(self, now: float, busy: bool) -> None:
        """Collect young garbage now and then, where no bin waits: by itself Python would do so in the middle of one."""
        if now < self._tidy_at or (busy and now < self._tidy_at + _TIDY_S):
            return
        self._tidy_at = now + _TIDY_S
        gc.collect(1)


class Zeros:
    """Zero output at bin rate, while there is nothing to decode: what a rig sees of a decoder that cannot decode.

    ``seq`` is the number of the last bin that was decoded, ``generation`` the one that decodes or would.
    """

    def __init__(self, sink: Sink, outputs: int, bin_s: float, seq: int, generation: int, flags: Flags) -> None:
        self._sink, self._values, self._bin_s = sink, np.zeros(outputs), bin_s
        self._seq, self._generation, self._flags = seq, generation, flags
        self._next = 0.0

    def due(self, now: float) -> None:
        """Publish a sample if one is due at ``now`` (``time.monotonic``)."""
        if now >= self._next:
            self._next = max(self._next + self._bin_s, now + self._bin_s / 2)
            self._sink.write(Decoded(self._seq, now, self._values, self._generation, self._flags))


def _number(value: Any) -> int:
    return int(value)
