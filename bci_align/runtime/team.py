"""The processes of one run: who has which seat, who takes over from whom, and what all of them have to say."""

from __future__ import annotations

import time
from collections.abc import Callable

from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError
from bci_align.runtime import aligner_process, decoder_process, recorder_process
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.child import Child
from bci_align.runtime.decoder_process import Post
from bci_align.runtime.decoding import Zeros
from bci_align.runtime.reports import Report
from bci_align.runtime.shared import Cell, Shared
from bci_align.runtime.supervise import Seat
from bci_align.streams.contract import Flags
from bci_align.streams.registry import make_sink

START_S = 60.0
"""What a process gets to become ready, beside the wait for the stream: on a busy machine most of it is the import of torch."""

_GRACE_S = {"decoder": 3.0, "standby": 0.5, "aligner": 1.0, "recorder": 3.0}
"""Seconds that a process gets to end when told to; sending what a transport has queued can take the decoder one or two."""

_TAKE_OVER = 4.0
"""A standby that takes over has everything in hand: it gets so many times the heartbeat's limit to connect."""

_DISK = 10.0
"""A disk may take seconds over a flush: the recorder's limit, in those of the decoder."""

_ZERO_S = 1.0
"""How long zero velocity is published when nobody decodes any more: what comes to see it needs time to connect."""


class DecoderChild(Child):
    """A decoder, decoding or standing by, and the ``post`` that it was given."""

    def __init__(self, who: str, shared: Shared, config: LiveConfig, post: Post) -> None:
        super().__init__(who, decoder_process.main, (shared.layout, config), (post,))
        self.post = post


class Team:
    """Starts, hears, replaces and ends the processes.

    ``say`` takes a report of the team's own. ``fault`` is the last word when the run is over because nobody decodes.
    """

    def __init__(
        self, config: LiveConfig, shared: Shared, bundle: Bundle, methods: Methods | None, say: Callable[[Report], None]
    ) -> None:
        self._config, self._shared, self._bundle, self._say = config, shared, bundle, say
        self.fault: Report | None = None
        self._tickets = 0
        self._proven = False
        s, args = config.supervisor, (shared.layout, config)
        start_s = START_S + config.source.connect_timeout_s
        self.decoder = Seat(
            "decoder", lambda: self._new_decoder("decoder"), lambda: self._beat_of(self.decoder), s, s.heartbeat_s, start_s
        )
        self.standby = Seat(
            "standby", lambda: self._new_decoder("standby"), lambda: self._beat_of(self.standby), s, s.heartbeat_s, start_s
        )
        self.aligner = Seat(
            "aligner",
            lambda: Child("aligner", aligner_process.main, args, (methods,)),
            lambda: shared.get(Cell.BEAT_ALIGNER),
            s,
            s.aligner_heartbeat_s,
            start_s,
        )
        self.recorder = Seat(
            "recorder",
            lambda: Child("recorder", recorder_process.main, args),
            lambda: shared.get(Cell.BEAT_RECORDER),
            s,
            _DISK * s.heartbeat_s,
            start_s,
        )
        self.seats = (self.decoder, self.standby, self.aligner, self.recorder)
        self._standing_by = False

    def start(self) -> None:
        """Start the decoder and what the configuration wants beside it; the standby comes once the decoder is ready."""
        self.decoder.start()
        if self._config.record.enabled:
            self.recorder.start()
        if self._config.recalibrations:
            self.aligner.start()

    @property
    def standing_by(self) -> bool:
        """Whether a second decoder is loaded and waits."""
        return self._standing_by and self.standby.pid is not None

    def children(self) -> list[Child]:
        """Every process that has not been given up, the decoder first."""
        return [seat.child for seat in self.seats if seat.child is not None]

    def hear(self) -> list[Report]:
        """Reports that have arrived; a process that has ended is replaced, or the run's :attr:`fault` says why not.

        The decoder is asked first and its words come last: so a swap never stands before the verdict that led to it, which was
        sent before the decoder could know of it.
        """
        heard = [(seat, seat.child, seat.child.read()) for seat in self.seats if seat.child is not None and not seat.child.done]
        reports: list[Report] = []
        for seat, child, said in reversed(heard):
            for report in said:
                self._note(seat, report)
                if report["report"] != "fault":
                    reports.append(report)
            if child.done:
                self._ended(seat, child)
        return reports

    def look(self, now: float) -> None:
        """Kill who is hung, start who is due unless the run is to stop; ``now`` in seconds, monotonic."""
        for seat in self.seats:
            child = seat.child
            settled = child is not None and (child.ready or (seat is self.standby and self._standing_by))
            if (why := seat.look(now, settled)) is not None:
                seat.reason = why
            wanted = not self._shared.get(Cell.STOP) and (seat is not self.standby or self._decoding())
            if wanted and seat.due(now):
                seat.start()

    def drain(self) -> list[Report]:
        """Last reports of processes that have been told to end."""
        reports: list[Report] = []
        for seat in self.seats:
            if seat.child is not None:
                last = [r for r in seat.child.drain(_GRACE_S[seat.who]) if r["report"] != "fault"]
                reports = last + reports if seat is not self.decoder else reports + last
        return reports

    def end(self) -> None:
        """See to it that no process is left."""
        for child in self.children():
            child.end(0.0)
            child.close()
        for seat in self.seats:
            seat.child = None

    def restarts(self) -> dict[str, int]:
        """How many times each process was replaced."""
        return {seat.who: max(seat.starts - 1, 0) for seat in self.seats}

    def _decoding(self) -> bool:
        return self.decoder.child is not None and self.decoder.child.ready and not self.decoder.child.done

    def _new_decoder(self, who: str) -> Child:
        self._tickets += 1
        m = self._bundle.manifest
        taken = [c.post.beat for c in self.children() if isinstance(c, DecoderChild)]
        beat = Cell.BEAT_B if Cell.BEAT_A in taken else Cell.BEAT_A
        if who == "decoder":
            self._shared.set(Cell.ACTIVE, self._tickets)
        else:
            self._standing_by = False
        return DecoderChild(who, self._shared, self._config, Post(self._tickets, beat, m.outputs, m.units, m.bin_s))

    def _beat_of(self, seat: Seat) -> int:
        assert isinstance(seat.child, DecoderChild)
        return self._shared.get(seat.child.post.beat)

    def _note(self, seat: Seat, report: Report) -> None:
        """Take in what concerns the team itself."""
        kind = report["report"]
        if kind == "standing_by":
            self._standing_by = True
        elif kind == "ready" and seat is self.decoder:
            self._proven = True
            if self._config.supervisor.standby and self.standby.starts == 0:
                self.standby.later(time.monotonic())
        elif kind == "failed_closed":
            assert seat.child is not None
            seat.child.ready = True  # as ready as it can be: from here on its heartbeat counts

    def _ended(self, seat: Seat, child: Child) -> None:
        """What the end of a process means, unless it was asked for."""
        kind = child.last["report"]
        if self._shared.get(Cell.STOP) or kind in ("ended", "finished"):
            return
        now = time.monotonic()
        reason = seat.reason or f"its process ended without a word, exit code {child.exitcode}"
        if kind == "fault":
            reason = f"{child.last['error']}: {child.last['message']}"
        seat.reason = ""
        if seat is self.decoder and not self._proven:
            self.fault = child.last if kind == "fault" else _fault(f"the decoder died: {reason}")
            return
        child.close()
        seat.child = None
        wait = seat.lost(reason, now)
        if seat is self.decoder and wait is not None and self.standby.pid is not None:
            self._hand_over(now + wait)  # before anything is written down: a rig waits
        self._say({"report": "died", "who": seat.who, "reason": reason, "again_s": wait})
        if seat is self.decoder and wait is None:
            self._publish_zero()
            self.fault = _fault(f"{seat.down}; zero velocity was published")

    def _hand_over(self, next_standby: float) -> None:
        """Let the one that stands by decode; another takes its place, once there is time for that."""
        successor = self.standby.give()
        assert isinstance(successor, DecoderChild)
        successor.who = "decoder"
        self._shared.set(Cell.ACTIVE, successor.post.ticket)
        limit_s = _TAKE_OVER * self._config.supervisor.heartbeat_s
        self.decoder.take(successor, limit_s if self._standing_by else None)
        self._standing_by = False
        self.standby.later(next_standby)

    def _publish_zero(self) -> None:
        """Nobody decodes any more: say zero, so that a rig that listens does not go on with the last velocity."""
        m, s = self._bundle.manifest, self._shared
        sink = make_sink(self._config.sink)
        try:
            sink.open(m.outputs, m.units, 1.0 / m.bin_s)
            zeros = Zeros(sink, len(m.outputs), m.bin_s, s.get(Cell.LAST_SEQ) - 1, s.get(Cell.GENERATION), Flags.FAILED)
            until = time.monotonic() + _ZERO_S
            while (now := time.monotonic()) < until:
                zeros.due(now)
                time.sleep(m.bin_s / 4)
        except BciAlignError as e:
            self._say({"report": "log_failed", "reason": f"zero velocity could not be published: {e}"})
        finally:
            sink.close()


def _fault(message: str) -> Report:
    return {"from": "live", "report": "fault", "error": "RuntimeFault", "message": message}
