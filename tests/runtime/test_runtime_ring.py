"""Ring and mailbox: order, wrap-around, lost records, torn reads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from bci_align.runtime.mailbox import Mailbox
from bci_align.runtime.ring import Ring, RingReader
from bci_align.streams.contract import END, GO, START, Bin, TrialEvent

from .fakes import read_in

pytestmark = pytest.mark.computes

CHANNELS = 5  # odd: the record needs padding


def new_ring(capacity: int = 16, channels: int = CHANNELS) -> Ring:
    return Ring(bytearray(Ring.nbytes(channels, capacity)), channels, capacity)


def a_bin(seq: int, channels: int = CHANNELS) -> Bin:
    return Bin(seq, 0.5 * seq, np.full(channels, seq, np.float32))


def seqs(items: list[Bin | TrialEvent]) -> list[int]:
    return [i.seq for i in items if isinstance(i, Bin)]


def test_every_kind_of_item_comes_back_as_it_was() -> None:
    ring = new_ring()
    events = [TrialEvent(1.0, START), TrialEvent(1.5, GO, 2.5), TrialEvent(2.0, END, True), TrialEvent(3.0, END, False)]
    for item in (*events, a_bin(2**40)):
        ring.put(item)
    missed, items = RingReader(ring).read()
    assert missed == 0
    assert items[:4] == events
    assert [type(i.value) for i in items[:4] if isinstance(i, TrialEvent)] == [type(None), float, bool, bool]
    last = items[4]
    assert isinstance(last, Bin)
    assert (last.seq, last.t) == (2**40, 2.0**39)
    assert last.counts.dtype == np.float32
    assert (last.counts == np.float32(2**40)).all()


@pytest.mark.parametrize("channels", [1, 2, 5, 96])
def test_wraps_around_without_loss_for_a_reader_that_keeps_up(channels: int) -> None:
    ring, got = new_ring(16, channels), []
    readers = [RingReader(ring), RingReader(ring)]
    for seq in range(200):
        ring.put(a_bin(seq, channels))
        if seq % 7 == 0:
            missed, items = readers[0].read()
            assert missed == 0
            got += seqs(items)
    got += seqs(readers[0].read()[1])
    assert got == list(range(200))
    missed, items = readers[1].read()  # one reader's pace is no other's
    assert missed > 0
    assert seqs(items)[-1] == 199


def test_a_reader_left_behind_is_told_how_many_records_it_missed() -> None:
    ring = new_ring(16)
    reader = RingReader(ring)
    for seq in range(5):
        ring.put(a_bin(seq))
    assert seqs(reader.read()[1]) == [0, 1, 2, 3, 4]
    for seq in range(5, 5 + 17):
        ring.put(a_bin(seq))
    missed, items = reader.read()
    assert seqs(items) == list(range(5 + missed, 22))
    assert missed == 3  # one overwritten, and two so as not to be overtaken at once
    assert reader.read() == (0, [])


def test_exactly_the_capacity_behind_is_not_too_late() -> None:
    ring = new_ring(16)
    for seq in range(16):
        ring.put(a_bin(seq))
    missed, items = RingReader(ring).read()
    assert (missed, seqs(items)) == (0, list(range(16)))


def test_reads_are_bounded() -> None:
    ring = new_ring(64)
    for seq in range(40):
        ring.put(a_bin(seq))
    reader = RingReader(ring)
    assert [len(reader.read(15)[1]) for _ in range(4)] == [15, 15, 10, 0]


@pytest.mark.parametrize("offset", [0, 8, 24, 45, -1])
def test_a_record_torn_anywhere_is_not_taken(offset: int) -> None:
    buffer = bytearray(Ring.nbytes(CHANNELS, 4))
    ring = Ring(buffer, CHANNELS, 4)
    for seq in range(3):
        ring.put(a_bin(seq))
    size = (len(buffer) - 64) // 4
    at = 64 + size + (offset if offset >= 0 else size - 8)
    buffer[at] ^= 0xFF
    reader = RingReader(ring)
    assert seqs(reader.read()[1]) == [0]
    assert reader.read() == (0, [])  # neither skipped nor believed
    buffer[at] ^= 0xFF
    assert seqs(reader.read()[1]) == [1, 2]


def test_a_writer_at_full_speed_never_makes_a_reader_believe_garbage() -> None:
    ring = new_ring(64)
    stop = threading.Event()

    def write() -> None:
        seq = 0
        while not stop.is_set():
            ring.put(a_bin(seq))
            seq += 1

    writer = threading.Thread(target=write)
    writer.start()
    reader, expected, read, lost = RingReader(ring), 0, 0, 0
    try:
        while read < 1000:
            missed, items = reader.read()
            lost += missed
            expected += missed
            for item in items:
                assert isinstance(item, Bin)
                assert item.seq == expected
                assert (item.counts == item.seq).all()
                expected += 1
                read += 1
    finally:
        stop.set()
        writer.join()
    assert lost + read == expected


def test_mailbox_gives_each_read_in_once_and_the_newest_first() -> None:
    box = Mailbox(bytearray(Mailbox.nbytes(5, 3)), 5, 3)
    assert box.poll() is None
    box.post(read_in(1), 1)
    found = box.poll()
    assert found is not None
    assert found[1] == 1
    for name in ("mean", "gain", "weight", "bias"):
        assert np.array_equal(getattr(found[0], name), getattr(read_in(1), name))
    assert box.poll() is None
    box.post(read_in(2), 2)
    box.post(read_in(3), 3)
    found = box.poll()
    assert found is not None
    assert found[1] == 3
    assert box.fetched == box.posted == 3
    assert box.poll() is None


def test_mailbox_does_not_take_what_is_half_written() -> None:
    buffer = bytearray(Mailbox.nbytes(5, 3))
    box = Mailbox(buffer, 5, 3)
    box.post(read_in(1), 1)
    buffer[60] ^= 1
    assert box.poll() is None
    buffer[60] ^= 1
    assert box.poll() is not None


def test_mailbox_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="expected 5 channels and 3 units"):
        Mailbox(bytearray(Mailbox.nbytes(5, 3)), 5, 3).post(read_in(1, channels=4), 1)
