"""The calls on a decode loop, read back from the records of a tape or a recording."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bci_align.bundle.artefact import digest
from bci_align.bundle.store import Bundle
from bci_align.config import ChecksConfig, LiveConfig, PromotionConfig, SafetyConfig
from bci_align.errors import RuntimeFault
from bci_align.models.read_in import ReadIn
from bci_align.runtime.reports import dumps
from bci_align.runtime.sealed import sealed
from bci_align.runtime.tape import DATA, DECODED, NAMES, RAISED, Op, pack_read_in
from bci_align.streams.contract import Bin, Decoded, Flags, Link, TrialEvent

_WRONG = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError, struct.error)
"""What a record raises that is whole and yet no call of ours."""


@dataclass(frozen=True)
class Begin:
    """A decoder's first words: what its loop was made of.

    ``bundle`` is the directory and ``identity`` the hash of its manifest; ``step`` is :func:`step_identity`, the same for all
    generations that differ in nothing but the read-in, which is here itself.
    """

    bundle: str
    identity: str
    step: str
    generation: int
    bin_s: float
    checks: ChecksConfig
    safety: SafetyConfig
    promotion: PromotionConfig
    read_in: ReadIn

    @classmethod
    def of(cls, bundle: Bundle, config: LiveConfig) -> Begin:
        """What a loop that decodes with ``bundle`` as ``config`` says is made of."""
        m = bundle.manifest
        parts = (config.checks, config.safety, config.promotion)
        return cls(
            str(bundle.path), bundle.identity, step_identity(bundle), m.generation, m.bin_s, *parts, read_in=bundle.read_in
        )

    def pack(self) -> bytes:
        """As bytes, for the tape."""
        texts = {k: getattr(self, k) for k in ("bundle", "identity", "step", "generation", "bin_s")}
        configs = {k: getattr(self, k).model_dump(mode="json") for k in ("checks", "safety", "promotion")}
        head = dumps(texts | configs)
        return struct.pack("<q", len(head)) + head + pack_read_in(self.read_in)

    @classmethod
    def unpack(cls, data: bytes, channels: int) -> Begin:
        """Read what :meth:`pack` wrote for C ``channels``."""
        (size,) = struct.unpack_from("<q", data)
        head = json.loads(data[8 : 8 + size])
        head["checks"] = ChecksConfig.model_validate(head["checks"])
        head["safety"] = SafetyConfig.model_validate(head["safety"])
        head["promotion"] = PromotionConfig.model_validate(head["promotion"])
        return cls(**head, read_in=_read_in(data[8 + size :], channels))


def step_identity(bundle: Bundle) -> str:
    """SHA-256 over all that a decode step of ``bundle`` depends on, but for the read-in."""
    m = bundle.manifest
    files = {k: m.files[k] for k in ("core.onnx", "decoder.safetensors")}
    numbers = {"scale": m.scale, "clamp": m.clamp, "bin_s": m.bin_s, "hidden": m.hidden, "decoder": m.decoder}
    return digest(json.dumps(files | numbers, sort_keys=True).encode())


@dataclass(frozen=True)
class Call:
    """One call and what came of it.

    ``argument`` is a :class:`Bin`, :class:`TrialEvent`, :class:`Link`, :class:`Begin`, a number (IDLE, MALFORMED: how many; TICK:
    now), an offer ``(read-in, generation)``, a list of reports (NEWS) or None. ``gave`` is the decoded sample, if there was one.
    """

    number: int
    op: Op
    argument: Any
    gave: Decoded | None = None
    raised: bool = False


@dataclass(frozen=True)
class Hole:
    """A stretch that is not there: ``records`` from number ``first`` on were missed or are damaged."""

    first: int
    records: int
    why: Literal["missed", "damaged"]


def parse(rows: Iterable[NDArray[np.uint8]], dtype: np.dtype[Any], first: int = 0) -> Iterator[Call | Hole]:
    """Calls in order from the bytes of records of ``dtype``, of which ``first`` is the first number expected.

    A :class:`Hole` stands where numbers jump or a seal is wrong. A call over several records that ends too early is left out:
    its writer died over it, or a hole follows.
    """
    parser, damaged = _Parser(dtype), 0
    for row in rows:
        number = sealed(row)
        if number is None or number < first:  # the next good record tells what is missing
            damaged += 1
            continue
        if number != first:
            parser.forget()
            yield Hole(first, number - first, "damaged" if damaged else "missed")
        first, damaged = number + 1, 0
        try:
            call = parser.feed(number, row)
        except _WRONG as e:
            raise RuntimeFault(f"record {number}: expected a call on the decode loop, found something else ({e})") from None
        if call is not None:
            yield call
    if damaged:
        yield Hole(first, damaged, "damaged")


class _Parser:
    """Puts calls together that went over several records."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._channels: int = dtype["counts"].shape[0]
        self._room = dtype.itemsize - DATA - 8
        self.forget()

    def forget(self) -> None:
        """Leave out the call under way."""
        self._parts: list[bytes] = []
        self._began, self._op, self._size = 0, Op.PART, 0
        self._odd: Bin | None = None

    def feed(self, number: int, row: NDArray[np.uint8]) -> Call | None:
        """Take in a record; gives the call that it completes."""
        record = row.view(self._dtype)[0]
        op = Op(int(record["op"]))
        if op < Op.PART:
            call = _call(number, op, record, self._odd)
            self.forget()
            return call
        if op > Op.PART:
            self.forget()
            self._began, self._op, self._size = number, op, int(record["what"])
        elif self._op == Op.PART or int(record["seq"]) != len(self._parts):
            self.forget()
            return None
        self._parts.append(row[DATA:-8].tobytes())
        if len(self._parts) * self._room < self._size:
            return None
        argument = _long(self._op, b"".join(self._parts)[: self._size], self._channels)
        began, op = self._began, self._op
        self.forget()
        if op == Op.ODD:
            self._odd = argument
            return None
        return Call(began, op, argument)


def _call(number: int, op: Op, r: Any, odd: Bin | None) -> Call:
    """A call out of one record."""
    gave = None
    if int(r["gave"]) == DECODED:
        flags = Flags(int(r["flags"]))
        gave = Decoded(int(r["seq_in"]), float(r["t_out"]), r["values"].copy(), int(r["generation"]), flags)
    t, arrived, what = float(r["t"]), float(r["arrived"]), int(r["what"])
    argument: Any = None
    if op == Op.BIN:
        argument = odd if what else Bin(int(r["seq"]), t, r["counts"].copy(), arrived)
    elif op == Op.EVENT:
        value = float(r["value"])
        argument = TrialEvent(t, NAMES[int(r["seq"])], None if what == 0 else bool(value) if what == 1 else value)
    elif op == Op.TICK:
        argument = arrived
    elif op in (Op.IDLE, Op.MALFORMED):
        argument = what
    return Call(number, op, argument, gave, int(r["gave"]) == RAISED)


def _long(op: Op, data: bytes, channels: int) -> Any:
    """The argument of a call that went over several records."""
    if op == Op.BEGIN:
        return Begin.unpack(data, channels)
    if op == Op.OFFER:
        return _read_in(data[8:], channels), int(struct.unpack_from("<q", data)[0])
    if op == Op.LINK:
        return Link(*json.loads(data))
    if op == Op.NEWS:
        return json.loads(data)["news"]
    size, t, arrived = struct.unpack_from("<qdd", data)
    head = json.loads(data[24 : 24 + size])
    kind = np.dtype(head["dtype"])
    if kind.hasobject:
        raise ValueError("counts of objects")
    counts = np.frombuffer(data, kind, math.prod(head["shape"]), 24 + size).reshape(head["shape"])
    return Bin(head["seq"], t, counts.copy(), arrived)


def _read_in(data: bytes, channels: int) -> ReadIn:
    """Read what :func:`~bci_align.runtime.tape.pack_read_in` wrote for C ``channels``."""
    flat = np.frombuffer(data, "<f4").astype(np.float32)
    c = channels
    hidden = (len(flat) - 2 * c) // (c + 1)
    if len(flat) != 2 * c + c * hidden + hidden:
        raise ValueError(f"{len(flat)} numbers are no read-in of {c} channels")
    mean, gain, weight, bias = np.split(flat, np.cumsum([c, c, c * hidden]))
    return ReadIn(mean.copy(), gain.copy(), weight.reshape(c, hidden).copy(), bias.copy())
