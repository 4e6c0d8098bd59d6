"""What the decoder lived through, for whoever reads along: a ring of fixed-size records in shared memory.

One writer, any number of readers. The writer never waits, for nobody: it overwrites the oldest record. A reader that falls
behind by more than the capacity is told how many records it has missed. Every record begins with its number and ends with a
seal (a checksum over number and content), so that a record overwritten while it is being read is never taken for a good one,
whatever order the machine's memory shows the writes in.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.streams.contract import END, GO, START, Bin, TrialEvent

_BIN, _EVENT = 1, 2
_NAMES = (START, GO, END)
_HEADER = 64
"""Bytes before the first record: the number of records written so far, on a cache line of its own."""


class Ring:
    """The writer's side, and the memory that :class:`RingReader` reads.

    ``buffer`` must hold :meth:`nbytes` of zeroed bytes; ``channels`` is C of every bin; ``capacity`` in records.
    """

    def __init__(self, buffer: Any, channels: int, capacity: int) -> None:
        self._dtype = _dtype(channels)
        size = self._dtype.itemsize
        self.capacity = capacity
        self._head: NDArray[np.int64] = np.frombuffer(buffer, np.int64, 1)
        self._slots: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8, capacity * size, _HEADER).reshape(capacity, size)
        self._next = np.zeros(1, self._dtype)  # the writer fills a record here and copies it over whole
        self._bytes: NDArray[np.uint8] = self._next.view(np.uint8)

    @staticmethod
    def nbytes(channels: int, capacity: int) -> int:
        """Bytes of memory that a ring takes."""
        return _HEADER + _dtype(channels).itemsize * capacity

    @property
    def head(self) -> int:
        """How many records were written so far; also the number of the next one."""
        return int(self._head[0])

    def put(self, item: Bin | TrialEvent) -> None:
        """Write one record; never blocks. Call from one thread of one process only."""
        record = self._next[0]
        number = self.head
        record["number"], record["t"] = number, item.t
        if isinstance(item, Bin):
            record["kind"], record["seq"], record["counts"] = _BIN, item.seq, item.counts
        else:
            record["kind"], record["seq"] = _EVENT, _NAMES.index(item.name)
            record["value"] = np.nan if item.value is None else float(item.value)
        record["seal"] = zlib.crc32(self._bytes[:-8].data)
        self._slots[number % self.capacity] = self._bytes
        self._head[0] = number + 1

    def copy(self, number: int) -> Any:
        """A copy of record ``number``, or None while it is not (or no longer, or not yet wholly) there."""
        row = self._slots[number % self.capacity].copy()
        record = row.view(self._dtype)[0]
        if int(record["number"]) != number or int(record["seal"]) != zlib.crc32(row[:-8].data):
            return None
        return record

    def release(self) -> None:
        """Let go of the memory, without which a shared segment cannot be closed."""
        del self._head, self._slots


class RingReader:
    """One reader of a ring, from its first record on."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.cursor = 0
        """Number of the next record to read."""

    def read(self, most: int = 256) -> tuple[int, list[Bin | TrialEvent]]:
        """Up to ``most`` items in order, and how many records were missed just before the first of them."""
        missed = 0
        if self._ring.head - self.cursor > self._ring.capacity:
            # Not to the very oldest record: the writer is about to overwrite that one.
            to = self._ring.head - self._ring.capacity + self._ring.capacity // 8
            missed, self.cursor = to - self.cursor, to
        items: list[Bin | TrialEvent] = []
        for number in range(self.cursor, min(self._ring.head, self.cursor + most)):
            record = self._ring.copy(number)
            if record is None:  # overtaken, or not visible yet: the next read will tell which
                break
            items.append(_item(record))
            self.cursor = number + 1
        return missed, items


def _item(record: Any) -> Bin | TrialEvent:
    if int(record["kind"]) == _BIN:
        return Bin(int(record["seq"]), float(record["t"]), record["counts"].copy())
    name, value = _NAMES[int(record["seq"])], float(record["value"])
    if np.isnan(value):
        return TrialEvent(float(record["t"]), name)
    return TrialEvent(float(record["t"]), name, bool(value) if name == END else value)


def _dtype(channels: int) -> np.dtype[Any]:
    """One record; aligned, so that number and seal are written whole and the seal is its last eight bytes."""
    fields: list[tuple[Any, ...]] = [
        ("number", np.int64),
        ("kind", np.int64),
        ("seq", np.int64),  # of a bin; of an event: which one
        ("t", np.float64),
        ("value", np.float64),
        ("counts", np.float32, (channels,)),
        ("seal", np.int64),
    ]
    return np.dtype(fields, align=True)
