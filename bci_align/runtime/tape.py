"""Every call on the decode loop and what came of it, on a ring in shared memory that the recorder reads.

It is enough to decode again to the same bytes: the loop has no clock and no chance of its own, so its calls with their
arguments are all that a replay needs. One record holds one call and its outcome. What is longer than a record (a read-in, a
sentence, the first words) goes over several: the first holds how many bytes there are, and :attr:`Op.PART` the rest. Left out
are calls that cannot have changed anything: ``tick`` that gave nothing after a bin whose arrival is known, ``idle`` with
nobody to step, ``news`` without news.
"""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bci_align.runtime.reports import Report, dumps
from bci_align.runtime.sealed import SealedRing
from bci_align.streams.contract import END, GO, START, Bin, Decoded, Link, TrialEvent

if TYPE_CHECKING:  # the recorder reads tapes, and must not wait for torch
    from bci_align.models.read_in import ReadIn

NAMES = (START, GO, END)

_RECORDS = 2**14
_BYTES = 16 * 2**20
"""A tape is this long or this large, whichever is less: 16384 records are 5 minutes of 20 ms bins, and at 1024 channels 16 MB
are a minute and more; the recorder looks every few hundredths of a second."""

_FIELDS = struct.Struct("=qqqqqqqdddd")
_AT = 8
"""Where the fields begin: behind the record's number."""
DATA = 32
"""Where the bytes of a longer record begin: behind number, op, what and seq."""


class Op(IntEnum):
    """What a record holds; from :attr:`BEGIN` on it goes over several records."""

    BIN = 1
    EVENT = 2
    TICK = 3
    IDLE = 4
    FREEZE = 5
    RESUME = 6
    PROMOTE = 7
    ROLLBACK = 8
    MALFORMED = 9
    RESTARTED = 10
    PART = 11
    BEGIN = 12
    """The first words of a decoder: see :class:`~bci_align.runtime.calls.Begin`."""
    OFFER = 13
    LINK = 14
    NEWS = 15
    """What the loop's ``news`` gave: the decisions, as JSON."""
    ODD = 16
    """A bin whose counts are not what the tape has room for."""


NOTHING, DECODED, RAISED = 0, 1, 2
"""What came of a call (field ``gave``)."""


def record_dtype(channels: int, outputs: int) -> np.dtype[Any]:
    """One record of C ``channels`` and K ``outputs``, without padding, so that every byte of it is under the seal.

    ``number``, ``op``, ``what`` (of an event: 0 no value, 1 a truth value, 2 a number; of MALFORMED and IDLE: how many; of a
    longer record: bytes), ``seq`` (of an event: which name), ``gave``; ``seq_in``, ``generation``, ``flags``, ``t_out`` and
    ``values`` (K,) of the decoded sample; ``t``, ``arrived`` (of TICK: now) and ``value``; ``counts`` (C,); ``seal``.
    """
    integers = ("number", "op", "what", "seq", "gave", "seq_in", "generation", "flags")
    fields: list[tuple[Any, ...]] = [(name, np.int64) for name in integers]
    fields += [(name, np.float64) for name in ("t", "arrived", "value", "t_out")]
    fields += [("values", np.float64, (outputs,)), ("counts", np.float32, (channels,))]
    if channels % 2:
        fields.append(("even", np.float32))
    return np.dtype([*fields, ("seal", np.int64)])


class Tape(SealedRing):
    """The writer's side. ``buffer`` must hold :meth:`nbytes` of zeroed bytes; ``capacity`` in records."""

    def __init__(self, buffer: Any, channels: int, outputs: int, capacity: int) -> None:
        super().__init__(buffer, record_dtype(channels, outputs), capacity)
        self._values: NDArray[np.float64] = self.record["values"]
        self._counts: NDArray[np.float32] = self.record["counts"]
        self._room = self.dtype.itemsize - DATA - 8

    @staticmethod
    def room_for(channels: int, outputs: int) -> int:
        """The capacity that a live system gives its tape, records."""
        return min(_RECORDS, _BYTES // record_dtype(channels, outputs).itemsize)

    @staticmethod
    def nbytes(channels: int, outputs: int, capacity: int) -> int:
        """Bytes of memory that a tape takes."""
        return SealedRing.size(record_dtype(channels, outputs), capacity)

    def call(
        self,
        op: Op,
        gave: Decoded | None,
        *,
        what: int = 0,
        seq: int = 0,
        t: float = 0.0,
        arrived: float = 0.0,
        value: float = 0.0,
        counts: NDArray[np.float32] | None = None,
        raised: bool = False,
    ) -> None:
        """Write one call and what it gave; never blocks."""
        if gave is None:
            fields = (op, what, seq, RAISED if raised else NOTHING, 0, 0, 0, t, arrived, value, 0.0)
            self._values[:] = 0.0
        else:
            fields = (op, what, seq, DECODED, gave.seq_in, gave.generation, int(gave.flags), t, arrived, value, gave.t)
            self._values[:] = gave.values
        self._counts[:] = 0.0 if counts is None else counts
        _FIELDS.pack_into(self._bytes.data, _AT, *fields)
        self.commit()

    def long(self, op: Op, data: bytes) -> None:
        """Write ``data`` over as many records as it takes."""
        parts = max(-(-len(data) // self._room), 1)
        rows = np.zeros((parts, self.dtype.itemsize), np.uint8)
        records = rows.view(self.dtype)
        records["op"], records["what"], records["seq"] = Op.PART, len(data), np.arange(parts)[:, None]
        records["op"][0] = op
        padded = np.zeros(parts * self._room, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows[:, DATA:-8] = padded.reshape(parts, self._room)
        self.commit_all(rows)

    def fits(self, counts: NDArray[Any]) -> bool:
        """Whether ``counts`` go into a record as they are."""
        return counts.dtype == np.float32 and counts.shape == self._counts.shape


class TapedLoop:
    """A decode loop whose calls are written to a tape; attributes it does not know are the loop's own.

    ``begin`` are the decoder's first words, which say what the loop was made of: :meth:`bci_align.runtime.calls.Begin.pack`.
    """

    def __init__(self, loop: Any, tape: Tape, begin: bytes) -> None:
        self._loop, self._tape = loop, tape
        self._timeless = False
        tape.long(Op.BEGIN, begin)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def on_bin(self, item: Bin) -> Decoded | None:
        """Decode one bin."""
        gave: Decoded | None = None
        raised = True
        try:
            gave = self._loop.on_bin(item)
            raised = False
        finally:  # a bin that the loop cannot bear is the one that must be found on the tape
            self._timeless = not math.isfinite(item.arrived)  # then the loop goes by the next tick
            if self._tape.fits(item.counts):
                self._tape.call(Op.BIN, gave, seq=item.seq, t=item.t, arrived=item.arrived, counts=item.counts, raised=raised)
            else:
                self._tape.long(Op.ODD, _odd(item))
                self._tape.call(Op.BIN, gave, what=1, raised=raised)
        return gave

    def on_event(self, event: TrialEvent) -> bool:
        """Take in a trial event."""
        mark: bool = self._loop.on_event(event)
        what = 0 if event.value is None else 1 if isinstance(event.value, bool) else 2
        value = 0.0 if event.value is None else float(event.value)
        self._tape.call(Op.EVENT, None, what=what, seq=NAMES.index(event.name), t=event.t, value=value)
        return mark

    def on_link(self, link: Link) -> None:
        """Take in news of the connection."""
        self._loop.on_link(link)
        self._tape.long(Op.LINK, json.dumps([link.state, link.sentence, link.restarted]).encode())

    def tick(self, now: float) -> Decoded | None:
        """Tell the loop the time when no bin has come."""
        gave: Decoded | None = self._loop.tick(now)
        if gave is not None or self._timeless:
            self._tape.call(Op.TICK, gave, arrived=now)
        return gave

    def offer(self, read_in: ReadIn, generation: int) -> None:
        """Offer a candidate."""
        self._loop.offer(read_in, generation)
        self._tape.long(Op.OFFER, struct.pack("<q", generation) + pack_read_in(read_in))

    def idle(self, steps: int) -> bool:
        """Let the loop work on its candidate."""
        busy: bool = self._loop.idle(steps)
        if busy:
            self._tape.call(Op.IDLE, None, what=steps)
        return busy

    def malformed(self, n: int) -> None:
        """Tell the loop of messages that could not be understood."""
        self._loop.malformed(n)
        self._tape.call(Op.MALFORMED, None, what=n)

    def freeze(self) -> Any:
        """Freeze the output."""
        return self._plain(Op.FREEZE)

    def resume(self) -> Any:
        """Let the output move again."""
        return self._plain(Op.RESUME)

    def promote(self) -> Any:
        """Order the promotion of a candidate."""
        return self._plain(Op.PROMOTE)

    def rollback(self) -> Any:
        """Order the earlier generation back."""
        return self._plain(Op.ROLLBACK)

    def restarted(self) -> Any:
        """Tell the loop that the decoder was started anew."""
        return self._plain(Op.RESTARTED)

    def news(self) -> list[Report]:
        """What the loop has to report."""
        news: list[Report] = self._loop.news()
        if news:
            self._tape.long(Op.NEWS, dumps({"news": news}))
        return news

    def _plain(self, op: Op) -> Any:
        result = getattr(self._loop, op.name.lower())()
        self._tape.call(op, None)
        return result


def pack_read_in(read_in: ReadIn) -> bytes:
    """``mean`` (C,), ``gain`` (C,), ``weight`` (C, H) and ``bias`` (H,) as little-endian float32."""
    parts = (read_in.mean, read_in.gain, read_in.weight, read_in.bias)
    return b"".join(np.ascontiguousarray(p, "<f4").tobytes() for p in parts)


def _odd(item: Bin) -> bytes:
    head = json.dumps({"seq": item.seq, "dtype": item.counts.dtype.str, "shape": list(item.counts.shape)}).encode()
    return struct.pack("<qdd", len(head), item.t, item.arrived) + head + item.counts.tobytes()
