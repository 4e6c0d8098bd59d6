"""Faults of a rig as a declarative plan: a stream of bins and events goes in, what a faulty rig sends instead comes out.

Everything here is a pure step over items, so that a plan can be tested without a transport, a clock or a process; the process
that sends what comes out is :mod:`bci_align_sim.faulty_rig`. Restarts, SIGKILL and SIGSTOP are done to that process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bci_align.streams.contract import Bin, TrialEvent

Kind = Literal[
    "drop", "delay", "duplicate", "reorder", "silence", "renumber", "clock_step", "fast",
    "non_finite", "negative", "absurd", "dead", "saturated", "flood", "malformed",
]  # fmt: skip
"""Timing of the stream: ``drop`` (bins never sent; their numbers are missing), ``delay`` (a stalled connection: bins go out
together with the first bin after the fault), ``duplicate`` (each bin twice), ``reorder`` (the fault's bins in reverse order),
``silence`` (neither bins nor events), ``renumber`` (from the first bin on the count starts at 0 again), ``clock_step`` (stamps
move by ``value`` seconds), ``fast`` (``value`` bins in the time of one). Counts, on ``channels``: ``non_finite`` (NaN and both
infinities in turn), ``negative``, ``absurd`` (``value`` spikes), ``dead`` (0), ``saturated`` (``value`` in every bin), ``flood``
(``value`` spikes more, give or take). ``malformed``: messages that nobody can read, before every bin of the fault."""

KINDS: tuple[Kind, ...] = get_args(Kind)

VALUES: dict[str, float] = {"clock_step": 5.0, "fast": 10.0, "absurd": 1e7, "saturated": 9.0, "flood": 400.0}
"""What ``value`` is where none is given."""

_NOT_NUMBERS = np.array([np.nan, np.inf, -np.inf], np.float32)


@dataclass(frozen=True)
class Fault:
    """One fault: ``kind``, in bins ``at`` to ``at + bins - 1`` (``bins`` 0: from then on for ever).

    ``channels`` are positions, none means all of them; ``value`` as :data:`Kind` says. :class:`ValueError` for nonsense.
    """

    kind: Kind
    at: int
    bins: int = 1
    channels: tuple[int, ...] = ()
    value: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault: expected one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.at < 0 or self.bins < 0:
            raise ValueError(f"fault {self.kind}: expected at and bins of at least 0, found {self.at} and {self.bins}")
        if not self.bins and self.kind in ("delay", "reorder"):
            raise ValueError(f"fault {self.kind}: expected an end, found bins 0: its bins would never be sent")
        if self.kind == "fast" and self.size <= 1:
            raise ValueError(f"fault fast: expected a value above 1, found {self.size:g}")

    @property
    def size(self) -> float:
        """``value``, or the kind's own."""
        return VALUES.get(self.kind, math.nan) if self.value is None else self.value

    def covers(self, k: int) -> bool:
        """Whether bin ``k`` of the stream, as it would have been, is in the fault."""
        return self.at <= k and (not self.bins or k < self.at + self.bins)


@dataclass(frozen=True)
class Garbage:
    """A message that nobody can read: the ``number``-th of the transport's collection."""

    number: int


@dataclass(frozen=True)
class Timed:
    """One ``item`` to send at ``at_s`` seconds of the stream, and the ``kinds`` of fault that are upon it."""

    at_s: float
    item: Bin | TrialEvent | Garbage
    kinds: tuple[Kind, ...] = ()


@dataclass
class Injector:
    """A plan at work on a stream with bins of ``bin_s`` seconds; faults may be added until their first bin.

    Bins of what goes in are numbered without gaps; the plan counts by these numbers, whatever is sent. An event belongs to the
    bin after it.
    """

    plan: list[Fault]
    bin_s: float
    seed: int = 0
    next_bin: int = 0
    """The first bin that has not come yet."""
    _held: list[Timed] = field(default_factory=list)
    _ahead: float = 0.0
    _garbage: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def step(self, timed: Timed) -> list[Timed]:
        """What is sent when ``timed`` was to be sent, in order."""
        item = timed.item
        assert not isinstance(item, Garbage)  # none goes in
        k = item.seq if isinstance(item, Bin) else self.next_bin
        active = [f for f in self.plan if f.covers(k)]
        kinds = tuple(dict.fromkeys(f.kind for f in active))
        out: list[Timed] = []
        if isinstance(item, Bin):
            self.next_bin = k + 1
            self._ahead += sum(self.bin_s * (1 - 1 / f.size) for f in active if f.kind == "fast")
        at_s = timed.at_s - self._ahead
        held = bool({"delay", "reorder"} & set(kinds))
        if not held:
            out += self._release(at_s)
        if "silence" in kinds:
            return out
        if isinstance(item, Bin):
            if "malformed" in kinds:
                out.append(Timed(at_s, Garbage(self._garbage), kinds))
                self._garbage += 1
            if "drop" in kinds:
                return out
            item = self._spoil(item, active)
        step = sum(f.size for f in active if f.kind == "clock_step")
        changed = Timed(at_s, replace(item, t=item.t + step), kinds)
        if held:
            self._hold(changed, active)
            return out
        out.append(changed)
        if "duplicate" in kinds and isinstance(item, Bin):
            out.append(changed)
        return out

    def rest(self) -> list[Timed]:
        """What is still held back when the stream ends."""
        return self._release(max((t.at_s for t in self._held), default=0.0))

    def _hold(self, timed: Timed, active: Sequence[Fault]) -> None:
        """Keep back; of a reordered fault the newest first, and events, which have no number, where they are."""
        if any(f.kind == "reorder" for f in active) and isinstance(timed.item, Bin):
            self._held.insert(0, timed)
        else:
            self._held.append(timed)

    def _release(self, at_s: float) -> list[Timed]:
        out = [replace(t, at_s=at_s) for t in self._held]
        self._held.clear()
        return out

    def _spoil(self, item: Bin, active: Sequence[Fault]) -> Bin:
        """The bin with its counts and number as the faults make them."""
        counts, seq = item.counts, item.seq
        for f in active:
            if f.kind == "renumber":
                seq = item.seq - f.at
            elif f.kind in _SPOILED:
                where = list(f.channels) or slice(None)
                counts = counts.copy()
                counts[where] = self._spoiled(f, counts[where], item.seq)
        return replace(item, seq=seq, counts=counts)

    def _spoiled(self, fault: Fault, counts: NDArray[np.float32], k: int) -> NDArray[np.float32]:
        match fault.kind:
            case "non_finite":
                return np.full_like(counts, _NOT_NUMBERS[k % len(_NOT_NUMBERS)])
            case "negative":
                return -1 - counts
            case "dead":
                return np.zeros_like(counts)
            case "flood":
                return counts + self._rng.poisson(fault.size, counts.shape).astype(np.float32)
            case _:  # absurd, saturated
                return np.full_like(counts, fault.size)


_SPOILED = ("non_finite", "negative", "absurd", "dead", "saturated", "flood")


def inject(stream: Iterable[Timed], plan: Sequence[Fault], bin_s: float, seed: int = 0) -> Iterator[Timed]:
    """``stream`` as a rig with the faults of ``plan`` sends it; see :class:`Injector`."""
    injector = Injector(list(plan), bin_s, seed)
    for timed in stream:
        yield from injector.step(timed)
    yield from injector.rest()


def zmq_garbage(counts: str, markers: str, channels: int) -> list[list[bytes]]:
    """Messages for topics ``counts`` and ``markers`` that break the wire format, each in another way."""
    c, m = counts.encode(), markers.encode()
    head = '{"v":1,"seq":1,"t_ns":1,"clock":"sender","dtype":"float32","shape":[%d],"bin_ms":20}'
    good, data = (head % channels).encode(), bytes(4 * channels)
    return [
        [c],  # no header at all
        [c, good],  # no buffer
        [c, b"\xff\xfe not JSON", data],
        [c, good.replace(b'"v":1', b'"v":99'), data],
        [c, good.replace(b"float32", b"object"), data],
        [c, good, data[:-1]],  # short of a byte
        [c, (head % 2_500_000_000).encode(), data],  # 10 GB are declared
        [c, (head % (channels + 1)).encode(), bytes(4 * (channels + 1))],  # another array's bin
        [c, good.replace(b'"seq":1', b'"seq":-1'), data],
        [c, b"[" * 60_000, data],  # deeper than a parser's stack
        [c, b" " * 70_000 + good, data],  # a header that is too long
        [c, good, data, data],  # a frame too many
        [m, b'{"v":1,"event":'],  # cut short
        [m, b'{"v":1,"t_ns":1,"clock":"sender","event":"end_time","trial_success":"maybe"}'],
        [m, b"\x00" * 1000],
        [(counts + ".spec").encode(), b"{}"],
    ]


LSL_GARBAGE: tuple[str | float, ...] = (
    '{"event": ',  # cut short
    '{"event": 7}',
    "{" * 60_000,
    '{"event": "end_time", "trial_success": "maybe"}',
    0.5,  # a number is a bin with this in its 'seq' channel
    math.nan,
)
"""The same for LSL, which carries nothing but samples of the announced shape: text is a marker."""
