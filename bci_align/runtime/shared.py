"""The one piece of shared memory of a live system: a board of counters, faults and latencies, ring, mailbox and tape.

Plain memory instead of ``multiprocessing``'s locks, queues and events on purpose: a process that is killed while it holds one of
those blocks the others for ever, and no death in here may stop the decoder.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import RuntimeFault
from bci_align.runtime.latency import Latency
from bci_align.runtime.mailbox import Mailbox
from bci_align.runtime.ring import Ring
from bci_align.runtime.tape import Tape

PREFIX = "bci_align_"
"""Begins the name of every segment of ours, followed by its creator's process number: ``ls /dev/shm`` tells a leftover."""

ALL_HANDLED = 2**62
"""Value of :attr:`Cell.HANDLED` from an aligner that will not align again."""

_RECORDS = 2**14
_RING_BYTES = 32 * 2**20
"""A ring is this long or this large, whichever is less: 16384 records are 160 s of 10 ms bins, longer than an alignment
takes; 32 MB leave room in the 64 MB of shared memory that a container gets."""


FAULTS = 32
"""Rows of fault counters: one per bit of :class:`~bci_align.streams.contract.Flags`."""


class Cell(IntEnum):
    """Counters on the board; each has ONE writer. "Decoder" is the one that decodes; its successor goes on from what it finds."""

    STOP = 0
    """Parent: not 0 asks all processes to end."""
    BINS = 1
    """Decoder: bins decoded."""
    LAST_SEQ = 2
    """Decoder: 1 + sequence number of the last bin that was decoded, written out and put in the ring."""
    MARKS = 3
    """Decoder: trial starts and ends taken in."""
    GAPS = 4
    """Decoder: bins that never arrived."""
    BAD = 5
    """Decoder: bins whose counts were not usable."""
    SETTLED = 6
    """Decoder: version of the mailbox's last read-in that is warm, swapped in or dropped."""
    HANDLED = 7
    """Aligner: records of the ring that are dealt with, any alignment they led to included."""
    TRIALS = 8
    """Aligner: usable calibration trials found so far."""
    HELD = 9
    """Aligner: those of them that wait for the next alignment."""
    ENDS = 10
    """Decoder: trial ends taken in."""
    SUCCESSES = 11
    """Decoder: trial ends that said success."""
    MALFORMED = 12
    """Decoder: markers that could not be understood."""
    FAILED = 13
    """Aligner: trials left out by this reason, as are the following; see :class:`~bci_align.runtime.trial_buffer.TrialBuffer`."""
    ABANDONED = 14
    GAP = 15
    NO_START = 16
    TOO_LONG = 17
    ACTIVE = 18
    """Parent: ticket of the decoder process that is to decode; one that finds another's here ends."""
    BEAT_A = 19
    """Decoder or standby, whichever has it: ``time.monotonic_ns()`` of its last sign of life, as are the following."""
    BEAT_B = 20
    """The other one of them."""
    BEAT_ALIGNER = 21
    BEAT_RECORDER = 22
    FETCHED = 23
    """Decoder: version of the mailbox's last read-in that it has taken."""
    GENERATION = 24
    """Decoder: generation that decodes."""
    COMMITTED = 25
    """Decoder: generation that it would go back to."""
    DISCARDED = 26
    """Decoder: last generation that it dropped or took back; 0: none so far."""
    PHASE = 27
    """Decoder: how it is, a :class:`Phase`."""
    LATE = 28
    """Decoder: bins published more than a bin's width after they had arrived."""
    UNSENT = 29
    """Decoder: reports that were left out, because the parent did not read them."""
    MALFORMED_BINS = 30
    """Decoder: messages that should have been bins and could not be understood."""
    FREEZE = 31
    """Parent: not 0 asks for zero output until further notice."""
    PROMOTE = 32
    """Parent: how many times it was ordered to promote the candidate now."""
    ROLLBACK = 33
    """Parent: how many times it was ordered to go back to the generation before."""
    ORDERS = 34
    """Parent: orders to the decoder so far; written after what it orders."""
    TAKEN = 35
    """Decoder: :attr:`ORDERS` as of the last look; what had been ordered by then is done."""
    ALIGN = 36
    """Parent: how many times it was ordered to align now."""
    ALIGN_TAKEN = 37
    """Aligner: how many of these it has seen to."""
    COMMITS = 38
    """Parent: how many times the committed generation was written down."""
    COLLECT_FROM = 39
    """Aligner: record of the ring with which the collecting began."""
    ALIGNED = 40
    """Aligner: alignments that came to a verdict, those that were ordered apart."""
    ALIGNING = 41
    """Aligner: 1 while it aligns or judges."""
    DRIFT = 42
    """Aligner: label-free drift score of the last trials in millionths; 0: none yet."""


class Phase(IntEnum):
    """How the decoder is (:attr:`Cell.PHASE`)."""

    STARTING = 0
    DECODING = 1
    LOST = 2
    """The stream is gone and is being looked for."""
    MISMATCH = 3
    """The stream that came is not the bundle's: zero output."""
    FAILED = 4
    """Its bundle does not load: zero output until it is stopped."""


LEFT_OUT = {
    "failed": Cell.FAILED,
    "abandoned": Cell.ABANDONED,
    "gap": Cell.GAP,
    "no start": Cell.NO_START,
    "too long": Cell.TOO_LONG,
}
"""Cell of every reason that the trial buffer knows."""


@dataclass(frozen=True)
class Layout:
    """All that a process needs to attach: the segment's ``name`` and the sizes of what is in it."""

    name: str
    channels: int
    hidden: int
    capacity: int
    outputs: int = 2


class Shared:
    """All of it over one segment; :meth:`create` in the parent, :meth:`attach` in its processes.

    ``faults`` (FAULTS,) int64 are faulty bins per bit of the flags, ``episodes`` (FAULTS,) int64 how often each one began; the
    decoder writes both, and ``latency``.
    """

    def __init__(self, segment: SharedMemory, layout: Layout, owner: bool) -> None:
        self._segment, self._owner = segment, owner
        self.layout = layout
        buffer = segment.buf
        assert buffer is not None
        at_faults, at_latency, at_ring, at_mailbox, at_tape, _ = _offsets(layout)
        self.board: NDArray[np.int64] = np.frombuffer(buffer, np.int64, len(Cell))
        both: NDArray[np.int64] = np.frombuffer(buffer, np.int64, 2 * FAULTS, at_faults)
        self.faults, self.episodes = both[:FAULTS], both[FAULTS:]
        self.latency = Latency(buffer[at_latency:])
        self.ring = Ring(buffer[at_ring:], layout.channels, layout.capacity)
        self.mailbox = Mailbox(buffer[at_mailbox:], layout.channels, layout.hidden)
        self.tape = Tape(buffer[at_tape:], layout.channels, layout.outputs, Tape.room_for(layout.channels, layout.outputs))

    @staticmethod
    def capacity(channels: int) -> int:
        """The capacity that a live system gives its ring, records."""
        return min(_RECORDS, _RING_BYTES // Ring.nbytes(channels, 1))

    @classmethod
    def nbytes(cls, channels: int, hidden: int, outputs: int = 2) -> int:
        """Bytes of the segment of a live system."""
        return _offsets(Layout("", channels, hidden, cls.capacity(channels), outputs))[-1]

    @classmethod
    def create(cls, channels: int, hidden: int, capacity: int | None = None, outputs: int = 2) -> Shared:
        """Make a segment, all zeros, that :meth:`close` removes."""
        name = f"{PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
        layout = Layout(name, channels, hidden, cls.capacity(channels) if capacity is None else capacity, outputs)
        segment = SharedMemory(layout.name, create=True, size=_offsets(layout)[-1])
        try:
            _reserve(segment)
        except OSError as e:
            segment.close()
            segment.unlink()
            raise RuntimeFault(
                f"shared memory: expected {segment.size} bytes of it to be free, found fewer ({e.strerror})"
            ) from None
        return cls(segment, layout, owner=True)

    @classmethod
    def attach(cls, layout: Layout) -> Shared:
        """Open the segment that another process created; closing it here leaves it to that process.

        Every page is touched once, so that no bin waits for one to be mapped, and memory does not seem to grow while it is.
        """
        segment = _attach(layout.name)
        assert segment.buf is not None
        np.frombuffer(segment.buf, np.uint8)[:: mmap.PAGESIZE].max()
        return cls(segment, layout, owner=False)

    def get(self, cell: Cell) -> int:
        """Read a counter."""
        return int(self.board[cell])

    def set(self, cell: Cell, value: int) -> None:
        """Write a counter; only its one writer may."""
        self.board[cell] = value

    def beat(self, cell: Cell) -> None:
        """Give a sign of life."""
        self.board[cell] = time.monotonic_ns()

    def close(self) -> None:
        """Detach, and remove the segment if this process made it; harmless when called twice."""
        if not hasattr(self, "board"):
            return
        del self.board, self.faults, self.episodes
        self.latency.release()
        self.ring.release()
        self.mailbox.release()
        self.tape.release()
        try:
            self._segment.close()
        finally:
            if self._owner:
                self._segment.unlink()


def _offsets(layout: Layout) -> list[int]:
    """Where fault counters, latencies, ring, mailbox and tape begin, and the size of it all, bytes; multiples of a cache line."""
    sizes = (
        8 * len(Cell),
        8 * 2 * FAULTS,
        Latency.nbytes(),
        Ring.nbytes(layout.channels, layout.capacity),
        Mailbox.nbytes(layout.channels, layout.hidden),
        Tape.nbytes(layout.channels, layout.outputs, Tape.room_for(layout.channels, layout.outputs)),
    )
    ends, end = [], 0
    for size in sizes:
        end += -(-size // 64) * 64
        ends.append(end)
    return ends


def _reserve(segment: SharedMemory) -> None:
    """Take the memory now: on a full ``/dev/shm`` the first touch of a page would kill the decoder in the middle of a session."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(segment._fd, 0, segment.size)  # type: ignore[attr-defined]


def _attach(name: str) -> SharedMemory:
    """Open a segment without becoming responsible for it.

    Before Python 3.13 the resource tracker takes every process that attaches for an owner: it would remove the segment under
    the others' feet, or warn of a leak when the owner was quicker.
    """
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    register = resource_tracker.register
    resource_tracker.register = _do_not_register
    try:
        return SharedMemory(name)
    finally:
        resource_tracker.register = register


def _do_not_register(name: Any, rtype: Any) -> None:
    """Stand in for the tracker's register while attaching."""
