"""The contract every transport keeps: bins and trial events in, decoded velocity out.

A *source* is what the decoder process reads, a *sink* is what it writes. The *rig side* is the mirror: what a rig (or the
replay command, or the simulator) uses to publish counts and events and to hear the decoded velocity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class Flags(IntFlag):
    """Bits of the ``flags`` field of every decoded sample; 0 means nothing to report.

    Faults of a bin that gives no sample of its own (a duplicate, a bin out of order, a message that could not be read) are in
    the flags of the next sample.
    """

    NONE = 0
    GAP = 1
    """One or more bins before this one never arrived."""
    BAD_COUNTS = 2
    """The counts were not used as they came (NON_FINITE, NEGATIVE or IMPLAUSIBLE says why), or the network gave nothing finite
    for them: then the output is zero and the state stays as it was."""
    CLAMPED = 4
    """The decoded output was beyond the source day's range, or beyond the limits of speed or acceleration, and was cut."""
    SWAPPED = 8
    """First bin decoded by a new generation."""
    IN_TRIAL = 16
    """A trial was running."""
    DUPLICATE = 32
    """A bin came twice; the second one was left out."""
    OUT_OF_ORDER = 64
    """A bin came after a later one and was left out."""
    TIME_JUMP = 128
    """Time stamps moved otherwise than the bins' numbers say."""
    NON_FINITE = 256
    """Counts that are NaN or infinite."""
    NEGATIVE = 512
    """Counts below zero."""
    IMPLAUSIBLE = 1024
    """Counts beyond any neuron's rate, on one channel, or on many at once."""
    SILENT = 2048
    """Channels that spoke on the source day say nothing."""
    SATURATED = 4096
    """Channels sit at one count above zero."""
    LATE = 8192
    """The bin arrived late."""
    STALE = 2**14
    """No bin has come in time: a sample without a bin of its own. ``seq_in`` is the last bin's; the output holds, decays or is
    zero."""
    LOST = 2**15
    """The stream is gone and is being looked for."""
    MISMATCH = 2**16
    """A stream came back that is not the one the bundle was trained for: zero until the right one does."""
    FROZEN = 2**17
    """The operator has frozen the output: zero."""
    BLENDING = 2**18
    """The output is on its way from the old to the new generation."""
    ROLLED_BACK = 2**19
    """First bin decoded by the earlier generation again."""
    RESTARTED = 2**20
    """First bin after the decoder, or the sender, was started anew: the encoder's state is new."""
    FAILED = 2**21
    """The decoder cannot decode (a bundle that does not load, ...): zero until somebody has mended it."""
    MALFORMED = 2**22
    """A message on the stream could not be understood and was left out."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of spike counts.

    ``seq`` counts up by one per bin from the start of the stream; ``t`` is the END of the bin in seconds on the
    sender's clock; ``counts`` (C,) float32; ``arrived`` when we had it, in seconds of ``time.monotonic`` (NaN: not known).
    """

    seq: int
    t: float
    counts: NDArray[np.float32]
    arrived: float = math.nan


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """A task event: ``t`` seconds on the sender's clock, ``name`` one of the canonical names below, ``value`` its payload."""

    t: float
    name: str
    value: float | bool | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """News of the connection, between the bins: ``state`` and one ``sentence`` for people.

    ``restarted``: the sender that is back is not the one that went (another uid), so its bins count anew.
    """

    state: Literal["lost", "back", "mismatch"]
    sentence: str
    restarted: bool = False


START, GO, END = "start", "go", "end"
"""Canonical event names. ``END`` carries ``value`` True/False for the trial's success."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a counts stream says of itself when it opens."""

    channels: tuple[str, ...]
    bin_s: float
    name: str
    uid: str
    """Identity of this very outlet or socket session; another value after a reconnect means a restarted sender."""
    format: str = ""
    """How counts are coded on the wire (``float32``, ``int16``, ...); empty where the transport does not say."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded sample: the output for the input bin ``seq_in``, stamped with that bin's time ``t``.

    ``values`` (K,) float64 in the units of the source day's kinematics; ``generation`` the encoder that made it.
    """

    seq_in: int
    t: float
    values: NDArray[np.float64]
    generation: int
    flags: Flags = Flags.NONE


class Source(Protocol):
    """Where the decoder's bins come from. Use: ``open``, ``read`` until done, ``close`` (always).

    One source is one connection: what was lost is opened anew with another one
    (:class:`~bci_align.streams.reconnect.Reconnecting`).
    """

    @property
    def malformed_bins(self) -> int:
        """Bins and other messages of the counts stream that could not be understood and were left out."""
        ...

    @property
    def malformed_events(self) -> int:
        """The same for trial events."""
        ...

    @property
    def last_malformed(self) -> str:
        """One sentence on the last bin that was left out; empty as long as none was."""
        ...

    def open(self, timeout_s: float) -> StreamSpec:
        """Find the stream and connect; :class:`~bci_align.errors.StreamError` after ``timeout_s`` seconds without it.

        :class:`~bci_align.errors.WrongStream`, which is one too, for a stream that is there and cannot be used.
        """
        ...

    def read(self, timeout_s: float) -> list[Bin | TrialEvent]:
        """Everything that has arrived, waiting at most ``timeout_s`` for the first item; empty when nothing came.

        Bins as they came, stamped with their reception: a gap, a repeated or an earlier ``seq`` is the reader's to name. An event
        whose time lies inside or before a bin of the same list stands before that bin where the transport delivered it in
        time. Raises :class:`~bci_align.errors.StreamError` when the stream is lost, after all that had come was given, and
        :class:`~bci_align.errors.ClockError` for events that are not on the bins' clock.
        """
        ...

    def close(self) -> None:
        """Release every handle; harmless when called twice."""
        ...


class Sink(Protocol):
    """Where decoded samples go."""

    def open(self, names: tuple[str, ...], units: tuple[str, ...], rate_hz: float) -> None:
        """Start publishing samples of ``names`` (in ``units``) at a nominal ``rate_hz``."""
        ...

    def write(self, sample: Decoded) -> None:
        """Publish one sample; never blocks on a slow or absent listener, and never fails for one.

        A ``seq_in`` may come again: a stale sample repeats the last bin's.
        """
        ...

    def close(self) -> None:
        """Release every handle; harmless when called twice."""
        ...


class RigOutlet(Protocol):
    """The rig's side of a source: publishes counts and trial events."""

    def open(self, spec: StreamSpec) -> None:
        """Start publishing."""
        ...

    def wait_for_decoder(self, timeout_s: float) -> None:
        """Block until a source is connected to counts AND events, so that no first bin is lost; StreamError after the time."""
        ...

    def push(self, item: Bin | TrialEvent) -> None:
        """Publish one bin or event."""
        ...

    def close(self) -> None:
        """Stop publishing; harmless when called twice."""
        ...


class RigInlet(Protocol):
    """The rig's side of a sink: hears the decoded samples."""

    def open(self, timeout_s: float) -> tuple[str, ...]:
        """Find the decoder's output and connect; gives the output names."""
        ...

    def read(self, timeout_s: float) -> list[Decoded]:
        """Everything that has arrived, waiting at most ``timeout_s`` for the first sample."""
        ...

    def close(self) -> None:
        """Release every handle; harmless when called twice."""
        ...
