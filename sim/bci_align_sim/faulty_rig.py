"""A rig with faults, a process of its own: ``python -m bci_align_sim.faulty_rig --over zmq --session day.h5``.

It plays a recorded day over and over, in real time, and takes one JSON object a line on standard input:
``{"do": "fault", "kind": "drop", "in": 5, "bins": 3}`` (a :class:`~bci_align_sim.faults.Fault`, counted from the next bin),
``{"do": "close"}`` (the streams go), ``{"do": "open", "channels": 20}`` (they come anew, perhaps in another shape),
``{"do": "stop"}``; it ends when that input does. On standard output it says, one JSON object a line and each with ``at`` in
seconds of ``time.monotonic``: ``holding``, ``open``, ``connected``, ``bin`` (``seq``, ``t``, ``kinds``, for every bin as it is
sent), ``garbage``, ``fault`` (as taken in), ``closed``. It can be killed and stopped with real signals: what it said until then
is true.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bci_align.config import SourceConfig
from bci_align.errors import BciAlignError, StreamError
from bci_align.session.io import load
from bci_align.session.types import Session, bin_of
from bci_align.streams.contract import Bin, RigOutlet, StreamSpec, TrialEvent
from bci_align_sim.faults import LSL_GARBAGE, Fault, Garbage, Injector, Timed, zmq_garbage
from bci_align_sim.rig import clock
from bci_align_sim.rig_loop import Pacer, session_events


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rig with command line ``argv``; the exit code."""
    args = parse(argv)
    try:
        run(args)
    except BciAlignError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    except (KeyboardInterrupt, BrokenPipeError):  # nobody listens any more
        return 130
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    source = SourceConfig()
    p = argparse.ArgumentParser(prog="python -m bci_align_sim.faulty_rig", description="A rig that goes wrong as it is told.")
    p.add_argument("--over", choices=("lsl", "zmq"), default="lsl", help="transport (default: lsl)")
    p.add_argument("--session", type=Path, required=True, metavar="FILE", help="recorded day to play over and over")
    p.add_argument("--source-id", default=source.stream, help="LSL source_id or ZeroMQ topic of the counts")
    p.add_argument("--markers-id", default=source.markers, help="LSL source_id or ZeroMQ topic of the events")
    p.add_argument("--address", default=source.address, help="ZeroMQ: where to bind counts and events")
    p.add_argument("--fault", action="append", default=[], metavar="JSON", help='{"kind": ..., "at": ...}; may be repeated')
    p.add_argument("--connect-s", type=float, default=30.0, help="seconds to wait for the decoder; 0 sends to nobody")
    p.add_argument("--seed", type=int, default=0, help="of random faults")
    p.add_argument("--hold", action="store_true", help="get ready, and wait for the order to open")
    return p.parse_args(argv)


@dataclass(frozen=True)
class Shape:
    """What the streams look like, where it is not as the session has it: the order ``open`` may say so.

    Only the first ``channels``; another label for channel ``rename``; bins of ``bin_s`` seconds.
    """

    channels: int | None = None
    rename: int | None = None
    bin_s: float | None = None

    def of(self, session: Session) -> Session:
        """``session`` in this shape."""
        labels = list(session.channels[: self.channels])
        if self.rename is not None:
            labels[self.rename] = f"another {labels[self.rename]}"
        counts = session.counts[:, : self.channels]
        return Session(counts, self.bin_s or session.bin_s, tuple(labels), session.trials, name=session.name)


def run(args: argparse.Namespace) -> None:
    """Play as ``args`` (of :func:`parse`) say until told to stop."""
    session = load(args.session)
    source = SourceConfig(kind=args.over, stream=args.source_id, markers=args.markers_id, address=args.address)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), name="orders", daemon=True).start()
    plan = [Fault(**_listed(json.loads(text))) for text in args.fault]
    hold, shape = args.hold, Shape()
    while True:
        if hold:
            say("holding")
            order = _obeyed(orders.get(), "open")
            if order is None:
                return
            shape = Shape(**order)
        played = shape.of(session)
        outlet = _outlet(args.over, source, len(played.channels))
        try:
            outlet.open(StreamSpec(played.channels, played.bin_s, "a faulty rig", uuid.uuid4().hex))
            say("open")
            if args.connect_s:
                outlet.wait_for_decoder(args.connect_s)
                say("connected")
            hold = _play(outlet, played, Injector(plan, played.bin_s, args.seed), orders, clock(args.over))
        finally:
            outlet.close()
        say("closed")
        if not hold:
            return
        plan = []


def repeat(session: Session, t0: float = 0.0) -> Iterator[Timed]:
    """``session`` over and over on one count, events before their bins. Stamps begin at ``t0`` seconds."""
    events = session_events(session)
    length = session.bins * session.bin_s
    for lap in count():
        left = list(events)
        for k, counts in enumerate(session.counts):
            due = (lap * session.bins + k + 1) * session.bin_s
            while left and bin_of(left[0].t, session.bin_s) <= k:
                event = left.pop(0)
                yield Timed(lap * length + event.t, TrialEvent(t0 + lap * length + event.t, event.name, event.value))
            yield Timed(due, Bin(lap * session.bins + k, t0 + due, counts.astype(np.float32)))


def _play(outlet: RawOutlet, session: Session, injector: Injector, orders: queue.SimpleQueue[dict[str, Any]], t0: float) -> bool:
    """Send until told otherwise; whether the rig goes on afterwards."""
    pacer = Pacer(1.0)
    for base in repeat(session, t0):
        while not orders.empty():
            fields = _obeyed(orders.get(), "fault", "close")
            if not fields:
                return fields is not None
            fault = _fault(fields, injector.next_bin)
            injector.plan.append(fault)
            say("fault", kind=fault.kind, first=fault.at, bins=fault.bins)
        for timed in injector.step(base):
            pacer.until(timed.at_s)
            at = time.monotonic()  # before the item goes out: no answer can be older
            if isinstance(timed.item, Garbage):
                outlet.push_raw(timed.item.number)
                say("garbage", at=at, kinds=timed.kinds)
                continue
            outlet.push(timed.item)
            if isinstance(timed.item, Bin):
                say("bin", at=at, seq=timed.item.seq, t=timed.item.t, kinds=timed.kinds)
    raise AssertionError("a day that repeats has no end")


class RawOutlet(RigOutlet, Protocol):
    """A rig's outlet that can also send what no rig should."""

    def push_raw(self, number: int) -> None:
        """Send the ``number``-th message of the transport's garbage; it begins again after the last."""
        ...


def _outlet(over: str, config: SourceConfig, channels: int) -> RawOutlet:
    # The transports are imported only where they are used: one should not need the other's library.
    if over == "lsl":
        from bci_align.streams.lsl_rig import LslRigOutlet

        class Lsl(LslRigOutlet):
            def push_raw(self, number: int) -> None:
                bad = LSL_GARBAGE[number % len(LSL_GARBAGE)]
                if isinstance(bad, str):
                    self._markers.push_sample([bad])
                else:
                    self._counts.push_sample([0.0] * channels + [bad])

        return Lsl(config)
    from bci_align.streams.zmq import ZmqRigOutlet

    garbage = zmq_garbage(config.stream, config.markers, channels)

    class Zmq(ZmqRigOutlet):
        def push_raw(self, number: int) -> None:
            assert self._socket is not None
            self._socket.send(garbage[number % len(garbage)])

    return Zmq(config)


def say(what: str, **more: object) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps({"say": what, "at": time.monotonic()} | more) + "\n")
    sys.stdout.flush()


def _listen(orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Take in orders; the end of the input is the order to stop."""
    for line in sys.stdin:
        try:
            orders.put(json.loads(line))
        except ValueError:
            orders.put({"do": line.strip()})
    orders.put({"do": "stop"})


def _obeyed(order: dict[str, Any], *known: str) -> dict[str, Any] | None:
    """The fields of an order that is ``known``, None for ``stop``; :class:`StreamError` for any other."""
    fields = dict(order)
    do = fields.pop("do", None)
    if do == "stop":
        return None
    if do not in known:
        raise StreamError(f"order on standard input: expected {', '.join(known)} or stop, found {do!r}")
    return fields


def _fault(fields: dict[str, Any], next_bin: int) -> Fault:
    return Fault(**_listed(fields | {"at": next_bin + fields.get("in", 0)}))


def _listed(fields: dict[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in fields.items() if k != "in"}
    return fields | {"channels": tuple(fields.get("channels", ()))}


if __name__ == "__main__":
    raise SystemExit(main())
