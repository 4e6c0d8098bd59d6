"""The decoder process: loads, stands by until it is its turn, connects, decodes, and where it cannot, says zero.

The first one decodes at once and any fault of its ends the run with a sentence, because somebody is there to read it. A later
one takes the place of one that died: it finds no stream and waits for it with zero output, finds no bundle that loads and stays
at zero output.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bci_align.bundle.pipeline import Pipeline
from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError, BundleError, MismatchError
from bci_align.runtime import committed, process
from bci_align.runtime.calls import Begin
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.decoding import Decoding, Zeros
from bci_align.runtime.reports import Pipe, Writer, fault
from bci_align.runtime.shared import Cell, Layout, Phase, Shared
from bci_align.runtime.tape import TapedLoop
from bci_align.streams.contract import Bin, Flags, Sink, StreamSpec
from bci_align.streams.reconnect import Reconnecting
from bci_align.streams.registry import make_sink, make_source

_WAIT_S = 0.005
_LAST_WORDS_S = 1.0

_RETRY_S = 2.0
"""Longest search for a stream before it is begun anew, while a later decoder waits for one."""

_FIRST_STEPS = 20
"""Steps before the first bin: libraries take their time the first time round."""


@dataclass(frozen=True)
class Post:
    """The place of one decoder process.

    ``ticket`` (1, 2, ...) is its turn to decode, ``beat`` which cell is its heartbeat. ``names``, ``units`` and ``bin_s`` are
    the run's outputs, for a process that cannot ask a bundle.
    """

    ticket: int
    beat: Cell
    names: tuple[str, ...]
    units: tuple[str, ...]
    bin_s: float

    @property
    def first(self) -> bool:
        """Whether it is the one that the run begins with."""
        return self.ticket == 1


def main(layout: Layout, config: LiveConfig, pipe: Pipe, post: Post) -> None:
    """Run the process; everything that ends it is reported to the parent as one sentence."""
    process.ignore_interrupts()
    writer = Writer(pipe)
    try:
        shared = Shared.attach(layout)
        try:
            _Decoder(shared, config, writer, post).run()
        finally:
            shared.close()
    except Exception as e:  # whatever it is, the parent must hear of it
        writer.send(fault(e))
    finally:
        writer.finish(_LAST_WORDS_S)


class _Decoder:
    """One process's way from the bundle to the last bin."""

    def __init__(self, shared: Shared, config: LiveConfig, writer: Writer, post: Post) -> None:
        self._shared, self._config, self._writer, self._post = shared, config, writer, post
        self._parent = process.ParentWatch()
        self._commits = -1
        self._bundle: Bundle | None = None
        self._pipeline: Pipeline | None = None
        self._broken = ""
        self._sink: Sink | None = None

    def run(self) -> None:
        """Load, wait for the turn, decode."""
        self._load()
        if not self._stand_by():
            return
        # Before any LSL or ZeroMQ object, whose threads inherit it, and not before: loading is no work for a real-time process.
        s = self._config.supervisor
        conditions = process.real_time(s.real_time, s.decoder_core)
        self._sink = make_sink(self._config.sink)
        try:
            if self._bundle is None or self._pipeline is None:
                self._fail_closed(self._sink)
            else:
                self._decode(self._bundle, self._pipeline, self._sink, conditions)
        finally:
            self._sink.close()

    def _load(self) -> None:
        """Load and warm up what was committed last; a later decoder keeps the sentence of what is wrong with it."""
        self._commits = self._shared.get(Cell.COMMITS)
        try:
            bundle = committed.load(Path(self._config.out), Path(self._config.bundle))
            if self._pipeline is None:
                self._pipeline = bundle.pipeline()
                self._rehearse(bundle, self._pipeline)
            self._bundle, self._broken = bundle, ""
        except BundleError as e:
            if self._post.first:
                raise
            self._bundle, self._broken = None, str(e)

    def _rehearse(self, bundle: Bundle, pipeline: Pipeline) -> None:
        loop = self._loop(bundle, pipeline)
        for seq in range(_FIRST_STEPS):
            loop.on_bin(Bin(seq, seq * bundle.manifest.bin_s, bundle.read_in.mean, seq * bundle.manifest.bin_s))

    def _loop(self, bundle: Bundle, pipeline: Pipeline) -> DecodeLoop:
        m, c = bundle.manifest, self._config
        return DecodeLoop(
            pipeline,
            bundle.read_in,
            m.generation,
            m.bin_s,
            scale=pipeline.scale,
            checks=c.checks,
            safety=c.safety,
            promotion=c.promotion,
        )

    def _stand_by(self) -> bool:
        """Wait until it is our turn, with the committed generation in hand; false when told to stop."""
        told = False
        while self._shared.get(Cell.ACTIVE) != self._post.ticket:
            if not self._go_on():
                return False
            if self._shared.get(Cell.COMMITS) != self._commits:
                self._load()
                told = False
            if not told:
                told = True
                self._writer.send({"report": "standing_by", "broken": self._broken})
            self._writer.push()
            time.sleep(_WAIT_S)
        if self._shared.get(Cell.COMMITS) != self._commits:
            self._load()
        return True

    def _go_on(self) -> bool:
        """Give a sign of life; whether nobody has told us to end."""
        self._shared.beat(self._post.beat)
        return not (self._shared.get(Cell.STOP) or self._parent.gone())

    def _decode(self, bundle: Bundle, pipeline: Pipeline, sink: Sink, conditions: str) -> None:
        shared, c, m = self._shared, self._config, bundle.manifest
        source = Reconnecting(lambda: make_source(c.source), lambda spec: check_stream(spec, bundle), c.source.connect_timeout_s)
        try:
            if self._post.first:
                spec: StreamSpec | None = source.open(c.source.connect_timeout_s)
                sink.open(m.outputs, m.units, 1.0 / m.bin_s)
            else:
                sink.open(m.outputs, m.units, 1.0 / m.bin_s)
                spec = self._wait_for(source, sink, m.generation)
            if spec is None:
                return
            self._take_over(m.generation)
            self._writer.send(
                {
                    "report": "ready",
                    "stream": spec.name,
                    "channels": len(spec.channels),
                    "bin_s": spec.bin_s,
                    "generation": m.generation,
                    "scheduler": conditions,
                }
            )
            loop = TapedLoop(self._loop(bundle, pipeline), shared.tape, Begin.of(bundle, c).pack())
            if not self._post.first:
                loop.restarted()
            gc.collect()
            gc.freeze()  # what is here now stays: no collection need look at it again
            decoding = Decoding(shared, self._post.beat, self._post.ticket, loop, source, sink, self._writer, m.bin_s, c.stale_s)
            why = decoding.run()
            self._writer.send({"report": "ended", "why": why} | decoding.counts())
        finally:
            source.close()

    def _take_over(self, generation: int) -> None:
        """Go on where the decoder before was killed: a candidate that it had taken and not committed is lost with it."""
        shared = self._shared
        shared.mailbox.fetched = shared.get(Cell.FETCHED)
        lost = shared.mailbox.generation
        taken = 0 < shared.mailbox.fetched == shared.mailbox.posted
        if taken and lost not in (generation, shared.get(Cell.DISCARDED)) and not self._post.first:
            shared.set(Cell.DISCARDED, lost)
            reason = "the decoder was started anew before it was committed"
            self._writer.send({"report": "dropped", "generation": lost, "reason": reason})
        shared.set(Cell.GENERATION, generation)
        shared.set(Cell.COMMITTED, generation)

    def _wait_for(self, source: Reconnecting, sink: Sink, generation: int) -> StreamSpec | None:
        """Connect, with zero output until that has come to something; None when told to stop."""
        flags = Flags.RESTARTED | Flags.LOST
        zeros = Zeros(sink, len(self._post.names), self._post.bin_s, self._shared.get(Cell.LAST_SEQ) - 1, generation, flags)
        self._shared.set(Cell.PHASE, Phase.LOST)
        told = False
        while True:
            opening = _Opening(source)
            opening.start()
            while opening.is_alive():
                if not self._go_on():
                    opening.join()
                    return None
                zeros.due(time.monotonic())
                opening.join(_WAIT_S)
            if opening.spec is not None:
                return opening.spec
            if not isinstance(opening.error, BciAlignError):
                raise opening.error or AssertionError("a search that ended with nothing")
            if not told:
                told = True
                state = "mismatch" if isinstance(opening.error, MismatchError) else "lost"
                self._writer.send({"report": "link", "state": state, "sentence": str(opening.error), "restarted": False})

    def _fail_closed(self, sink: Sink) -> None:
        """Zero output until somebody ends the run and mends the bundle: nothing else may stand in for it."""
        post, shared = self._post, self._shared
        sink.open(post.names, post.units, 1.0 / post.bin_s)
        seq, generation = shared.get(Cell.LAST_SEQ) - 1, shared.get(Cell.GENERATION)
        zeros = Zeros(sink, len(post.names), post.bin_s, seq, generation, Flags.FAILED)
        shared.set(Cell.PHASE, Phase.FAILED)
        self._writer.send({"report": "failed_closed", "sentence": self._broken})
        while self._go_on() and shared.get(Cell.ACTIVE) == post.ticket:
            zeros.due(time.monotonic())
            shared.set(Cell.TAKEN, shared.get(Cell.ORDERS))
            self._writer.push()
            time.sleep(_WAIT_S)
        counts = {c.name.lower(): shared.get(c) for c in (Cell.BINS, Cell.GAPS, Cell.BAD)}
        self._writer.send(
            {"report": "ended", "why": f"stopped; the output was zero, for {self._broken}"}
            | counts
            | {"malformed_events": shared.get(Cell.MALFORMED)}
        )


class _Opening(threading.Thread):
    """One search for the stream, beside the zero output."""

    def __init__(self, source: Reconnecting) -> None:
        super().__init__(name="bci-align opening", daemon=True)
        self._source = source
        self.spec: StreamSpec | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Search; what came of it is in :attr:`spec` or :attr:`error`."""
        try:
            self.spec = self._source.open(_RETRY_S)
        except Exception as e:
            self.error = e


def check_stream(spec: StreamSpec, bundle: Bundle) -> None:
    """Refuse a stream that the bundle was not trained for; :class:`MismatchError` names both and the first difference."""
    m = bundle.manifest
    both = f"stream {spec.name!r} and bundle {str(bundle.path)!r} do not belong together"
    if len(spec.channels) != len(m.channels):
        raise MismatchError(f"{both}: expected {len(m.channels)} channels, found {len(spec.channels)}")
    for i, (expected, found) in enumerate(zip(m.channels, spec.channels, strict=True)):
        if expected != found:
            raise MismatchError(f"{both}: channel {i}: expected label {expected!r}, found {found!r}")
    if not math.isclose(spec.bin_s, m.bin_s, rel_tol=1e-6):
        raise MismatchError(f"{both}: expected bins of {m.bin_s * 1e3:g} ms, found {spec.bin_s * 1e3:g} ms")
