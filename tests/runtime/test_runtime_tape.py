"""The tape: every call on a loop and what came of it, to the bit, for a reader that may be slow or late."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bci_align.config import ChecksConfig, PromotionConfig, SafetyConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime.calls import Begin, Call, Hole, parse
from bci_align.runtime.sealed import SealedReader
from bci_align.runtime.tape import Op, Tape, TapedLoop, record_dtype
from bci_align.streams.contract import END, GO, START, Bin, Decoded, Flags, Link, TrialEvent

from .fakes import read_in

pytestmark = pytest.mark.computes

C, K = 5, 2
BEGIN = Begin("/b", "1" * 64, "2" * 64, 3, 0.02, ChecksConfig(), SafetyConfig(), PromotionConfig(), read_in(1))


class Loop:
    """Gives something for every call, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.busy = False
        self.reports: list[dict[str, Any]] = []
        self.gaps = 17

    def on_bin(self, item: Bin) -> Decoded | None:
        self.calls.append(("on_bin", item))
        if item.seq < 0:
            raise ZeroDivisionError
        if item.seq % 7 == 3:
            return None
        return Decoded(item.seq, item.t, np.array([0.1 * item.seq, -0.0]), 4, Flags.GAP | Flags.MALFORMED)

    def on_event(self, event: TrialEvent) -> bool:
        return event.name != GO

    def on_link(self, link: Link) -> None:
        self.calls.append(("on_link", link))

    def tick(self, now: float) -> Decoded | None:
        return Decoded(1, now, np.array([1 / 3, math.pi]), 4, Flags.STALE) if now > 10 else None

    def offer(self, read_in: Any, generation: int) -> None: ...
    def idle(self, steps: int) -> bool:
        return self.busy

    def malformed(self, n: int) -> None: ...
    def freeze(self) -> None: ...
    def resume(self) -> None: ...
    def restarted(self) -> None: ...
    def promote(self) -> bool:
        return True

    def rollback(self) -> bool:
        return False

    def news(self) -> list[dict[str, Any]]:
        news, self.reports = self.reports, []
        return news


def make(capacity: int = 1000) -> tuple[Tape, Loop, TapedLoop]:
    tape = Tape(bytearray(Tape.nbytes(C, K, capacity)), C, K, capacity)
    loop = Loop()
    return tape, loop, TapedLoop(loop, tape, BEGIN.pack())


def read(tape: Tape, first: int = 0) -> list[Call | Hole]:
    missed, rows = SealedReader(tape, first).take(10**6)
    assert not missed
    return list(parse(rows, tape.dtype, first))


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, NaN included."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return type(a) is type(b) and bool(a == b)


def counts(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_every_call_comes_back_to_the_bit() -> None:
    tape, loop, taped = make()
    odd_nan = np.frombuffer(struct.pack("<5I", 0x7FC00001, 0xFFC12345, 0x80000000, 1, 0x7F800000), np.float32)
    bins = [
        Bin(0, 0.02, counts(0, 1, 2, 3, 4), 5.5),
        Bin(2**62, -1e300, odd_nan, math.nan),
        Bin(3, math.inf, counts(0, 0, 0, 0, 0), 1.0),  # gives nothing
    ]
    events = [
        TrialEvent(1.5, START), TrialEvent(1.5, GO, 0.25), TrialEvent(2.0, END, True), TrialEvent(2.0, END, False),
        TrialEvent(math.nan, GO, math.nan),
    ]  # fmt: skip
    for item in bins:
        taped.on_bin(item)
    assert [taped.on_event(e) for e in events] == [True, False, True, True, False]
    links = [Link("lost", "gone µ" * 40), Link("back", "", restarted=True)]
    for link in links:
        taped.on_link(link)
    assert taped.tick(11.0) is not None
    taped.offer(read_in(2), 9)
    loop.busy = True
    taped.idle(4)
    taped.malformed(3)
    assert (taped.promote(), taped.rollback()) == (True, False)
    for name in ("freeze", "resume", "restarted"):
        getattr(taped, name)()
    loop.reports = [{"report": "committed", "generation": np.int64(9), "to": 1 / 3}]
    assert len(taped.news()) == 1
    found = read(tape)
    assert all(isinstance(f, Call) for f in found)
    calls = [f for f in found if isinstance(f, Call)]
    assert same(calls[0].argument, BEGIN)
    assert all(same(a, b.argument) for a, b in zip([*bins, *events, *links, 11.0], calls[1:], strict=False))
    gave = [loop.on_bin(b) for b in bins]
    assert all(same(a, b.gave) for a, b in zip([None, *gave, *[None] * 7, loop.tick(11.0)], calls, strict=False))
    rest = calls[12:]
    assert [c.op for c in rest] == [
        Op.OFFER, Op.IDLE, Op.MALFORMED, Op.PROMOTE, Op.ROLLBACK, Op.FREEZE, Op.RESUME, Op.RESTARTED, Op.NEWS
    ]  # fmt: skip
    assert same(rest[0].argument[0], read_in(2)) and rest[0].argument[1] == 9
    assert [rest[1].argument, rest[2].argument] == [4, 3]
    assert rest[-1].argument == [{"report": "committed", "generation": 9, "to": 1 / 3}]
    assert taped.gaps == 17


def test_calls_that_change_nothing_are_left_out() -> None:
    tape, _, taped = make()
    before = tape.head
    taped.on_bin(Bin(0, 0.0, counts(1, 1, 1, 1, 1), 1.0))
    taped.idle(4)
    taped.tick(1.0)
    taped.news()
    assert tape.head == before + 1
    taped.on_bin(Bin(1, 0.0, counts(1, 1, 1, 1, 1)))  # of unknown arrival: a loop may take the first tick for it
    taped.tick(1.0)
    assert tape.head == before + 3


def test_counts_that_do_not_fit_are_kept_all_the_same() -> None:
    tape, _, taped = make()
    items = [
        Bin(0, 0.5, counts(1, 2, 3), 2.0),
        Bin(1, 0.5, np.arange(5.0), 2.0),
        Bin(2, 0.5, np.zeros((5, 1), np.float32), 2.0),
        Bin(4, 0.5, np.zeros(0, np.float32), 2.0),
    ]
    for item in items:
        taped.on_bin(item)
    found = [c for c in read(tape) if isinstance(c, Call) and c.op == Op.BIN]
    assert len(found) == 4
    assert all(same(a, c.argument) and c.gave is not None for a, c in zip(items, found, strict=True))


def test_a_bin_that_the_loop_cannot_bear_is_on_the_tape() -> None:
    tape, _, taped = make()
    with pytest.raises(ZeroDivisionError):
        taped.on_bin(Bin(-1, 0.0, counts(1, 2, 3, 4, 5)))
    last = read(tape)[-1]
    assert isinstance(last, Call) and last.raised and last.gave is None
    assert last.argument.counts.tolist() == [1, 2, 3, 4, 5]


def test_another_decoder_goes_on_after_one_that_was_killed_over_a_long_record() -> None:
    tape, _, _ = make()
    half = BEGIN.pack()
    tape.long(Op.OFFER, half)
    tape._head[0] -= 3  # as if it had been killed before the last three
    second = TapedLoop(Loop(), tape, replace(BEGIN, generation=5).pack())
    second.on_bin(Bin(0, 0.0, counts(1, 2, 3, 4, 5)))
    found = [c for c in read(tape) if isinstance(c, Call)]
    assert [c.op for c in found] == [Op.BEGIN, Op.BEGIN, Op.BIN]
    assert found[1].argument.generation == 5


def test_a_reader_that_was_overtaken_knows_it_and_what_is_damaged_is_told() -> None:
    tape, _, taped = make(256)
    reader = SealedReader(tape)
    for seq in range(1000):
        taped.on_bin(Bin(seq, 0.0, counts(1, 2, 3, 4, 5)))
    missed, rows = reader.take(10**6)
    assert missed > 700
    assert missed + len(rows) == tape.head
    first, *calls = parse(rows, tape.dtype)
    assert first == Hole(0, missed, "missed")
    assert [c.argument.seq for c in calls if isinstance(c, Call)] == list(range(1000 - len(rows), 1000))
    rows[10] = rows[10].copy()
    rows[10][120] ^= 1
    found = list(parse(rows, tape.dtype, missed))
    assert found[10] == Hole(missed + 10, 1, "damaged")
    rows[10], rows[11] = rows[11], rows[10]
    assert [f for f in parse(rows, tape.dtype, missed) if isinstance(f, Hole)] == [Hole(missed + 10, 1, "missed")]
    assert list(parse([rows[11]], tape.dtype, 7)) == [Hole(7, 1, "damaged")]


@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (2, 3), (97, 2), (1024, 2)])
def test_every_byte_of_a_record_is_under_the_seal(channels: int, outputs: int) -> None:
    dtype = record_dtype(channels, outputs)
    assert dtype.itemsize % 8 == 0
    assert sum(np.dtype(d).itemsize for d, *_ in dtype.fields.values()) == dtype.itemsize  # type: ignore[union-attr]
    assert 1000 < Tape.room_for(channels, outputs) <= 2**14


DEEP = b"[" * 100_000
HEADS = [b"", b"[]", b"{}", b"null", b'["lost"]', b'{"news": 3}', b'{"seq": 1, "dtype": "O", "shape": [9]}', DEEP]


@given(
    op=st.integers(-2, 20),
    what=st.integers(-(2**63), 2**63 - 1) | st.just(0),
    seq=st.integers(-2, 5),
    flags=st.integers(-(2**63), 2**63 - 1),
    long=st.sampled_from(HEADS)
    | st.binary(max_size=300)
    | st.sampled_from(HEADS[:-1]).map(lambda h: bytes([len(h)]) + bytes(23) + h),
    kind=st.sampled_from([Op.BEGIN, Op.OFFER, Op.LINK, Op.NEWS, Op.ODD]),
)
@settings(max_examples=200, deadline=None)
def test_a_record_that_is_no_call_is_one_sentence(op: int, what: int, seq: int, flags: int, long: bytes, kind: Op) -> None:
    """Whoever wrote the file: a good seal is no reason to believe what is under it."""
    tape = Tape(bytearray(Tape.nbytes(C, K, 3000)), C, K, 3000)
    tape.long(kind, long)
    record = tape.record
    record["op"], record["what"], record["seq"], record["flags"], record["gave"] = op, what, seq, flags, 1
    tape.commit()
    with contextlib.suppress(RuntimeFault):
        for call in parse(SealedReader(tape).take(10**6)[1], tape.dtype):
            assert isinstance(call, Call)
