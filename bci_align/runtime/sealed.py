"""Rings of fixed-size records in shared memory: one writer that never waits, any number of readers.

The writer overwrites the oldest record. A reader that falls behind by more than the capacity is told how many records it has
missed. Every record begins with its number and ends with a seal (a checksum over number and content), so that a record
overwritten while it is being read is never taken for a good one, whatever order the machine's memory shows the writes in.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = 64
"""Bytes before the first record: the number of records written so far, on a cache line of its own."""


class SealedRing:
    """Memory of ``capacity`` records of ``dtype``, whose first field is int64 ``number`` and whose last eight bytes are ``seal``.

    ``buffer`` must hold :meth:`size` of zeroed bytes. The writer fills :attr:`record` and calls :meth:`commit`, from one
    thread of one process only.
    """

    def __init__(self, buffer: Any, dtype: np.dtype[Any], capacity: int) -> None:
        self.dtype, self.capacity = dtype, capacity
        self._head: NDArray[np.int64] = np.frombuffer(buffer, np.int64, 1)
        self._slots: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8, capacity * dtype.itemsize, _HEADER)
        self._slots = self._slots.reshape(capacity, dtype.itemsize)
        whole = np.zeros(1, dtype)  # the writer fills a record here and copies it over whole
        self._bytes: NDArray[np.uint8] = whole.view(np.uint8)
        self._content = self._bytes[:-8].data
        self._words: NDArray[np.int64] = whole.view(np.int64)
        self.record: Any = whole[0]
        """The record that the writer is about to commit."""

    @staticmethod
    def size(dtype: np.dtype[Any], capacity: int) -> int:
        """Bytes of memory that a ring takes."""
        return _HEADER + dtype.itemsize * capacity

    @property
    def head(self) -> int:
        """How many records were written so far; also the number of the next one."""
        return int(self._head[0])

    def commit(self) -> None:
        """Number, seal and publish :attr:`record`; never blocks."""
        number = self.head
        self._words[0] = number
        self._words[-1] = zlib.crc32(self._content)
        self._slots[number % self.capacity] = self._bytes
        self._head[0] = number + 1

    def commit_all(self, rows: NDArray[np.uint8]) -> None:
        """Number, seal and publish records given as their bytes (n, itemsize), at less cost than one by one."""
        words, number = rows.view(np.int64), self.head
        words[:, 0] = np.arange(number, number + len(rows))
        words[:, -1] = [zlib.crc32(row[:-8].data) for row in rows]
        done = 0
        while done < len(rows):
            at = (number + done) % self.capacity
            some = rows[done : done + self.capacity - at]
            self._slots[at : at + len(some)] = some
            done += len(some)
        self._head[0] = number + len(rows)

    def copy(self, number: int) -> NDArray[np.uint8] | None:
        """The bytes of record ``number``, or None while it is not (or no longer, or not yet wholly) there."""
        row = self._slots[number % self.capacity].copy()
        return row if sealed(row) == number else None

    def release(self) -> None:
        """Let go of the memory, without which a shared segment cannot be closed."""
        del self._head, self._slots


class SealedReader:
    """One reader of a ring, from record ``cursor`` on."""

    def __init__(self, ring: SealedRing, cursor: int = 0) -> None:
        self._ring = ring
        self.cursor = cursor
        """Number of the next record to read."""

    def take(self, most: int) -> tuple[int, list[NDArray[np.uint8]]]:
        """Bytes of up to ``most`` records in order, and how many were missed just before the first of them."""
        missed = 0
        if self._ring.head - self.cursor > self._ring.capacity:
            # Not to the very oldest record: the writer is about to overwrite that one.
            to = self._ring.head - self._ring.capacity + self._ring.capacity // 8
            missed, self.cursor = to - self.cursor, to
        rows: list[NDArray[np.uint8]] = []
        for number in range(self.cursor, min(self._ring.head, self.cursor + most)):
            row = self._ring.copy(number)
            if row is None:  # overtaken, or not visible yet: the next read will tell which
                break
            rows.append(row)
            self.cursor = number + 1
        return missed, rows


def sealed(row: NDArray[np.uint8]) -> int | None:
    """The number of a record whose seal is right, given its bytes; else None."""
    words = row.view(np.int64)
    return int(words[0]) if int(words[-1]) == zlib.crc32(row[:-8].data) else None
