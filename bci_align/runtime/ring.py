"""What the decoder lived through, for whoever reads along: a ring of bins and events in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from bci_align.runtime.sealed import SealedReader, SealedRing
from bci_align.streams.contract import END, GO, START, Bin, TrialEvent

_BIN, _EVENT = 1, 2
_NAMES = (START, GO, END)


class Ring(SealedRing):
    """The writer's side, and the memory that :class:`RingReader` reads.

    ``buffer`` must hold :meth:`nbytes` of zeroed bytes; ``channels`` is C of every bin; ``capacity`` in records.
    """

    def __init__(self, buffer: Any, channels: int, capacity: int) -> None:
        super().__init__(buffer, _dtype(channels), capacity)

    @staticmethod
    def nbytes(channels: int, capacity: int) -> int:
        """Bytes of memory that a ring takes."""
        return SealedRing.size(_dtype(channels), capacity)

    def put(self, item: Bin | TrialEvent) -> None:
        """Write one record; never blocks. Call from one thread of one process only."""
        record = self.record
        record["t"] = item.t
        if isinstance(item, Bin):
            record["kind"], record["seq"], record["counts"] = _BIN, item.seq, item.counts
        else:
            record["kind"], record["seq"] = _EVENT, _NAMES.index(item.name)
            record["value"] = np.nan if item.value is None else float(item.value)
        self.commit()


class RingReader(SealedReader):
    """One reader of a ring, from its first record on."""

    def __init__(self, ring: Ring) -> None:
        super().__init__(ring)

    def read(self, most: int = 256) -> tuple[int, list[Bin | TrialEvent]]:
        """Up to ``most`` items in order, and how many records were missed just before the first of them."""
        missed, rows = self.take(most)
        return missed, [_item(row.view(self._ring.dtype)[0]) for row in rows]


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
