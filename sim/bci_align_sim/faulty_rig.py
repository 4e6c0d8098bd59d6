"""A rig with faults, a process of its own: ``python -m bci_align_sim.faulty_rig --over zmq --session day.h5``.

It plays a recorded day over and over, in real time, and takes one JSON object a line on standard input:
``{"do": "fault", "kind": "drop", "in": 5, "bins": 3}`` (a :class:`~bci_align_sim.faults.Fault`, counted from the next bin),
``{"do": "open"}`` where it was started with ``--hold``, ``{"do": "stop"}``; it ends when that input does. On standard output
it says, one JSON object a line and each with ``at`` in seconds of ``time.monotonic``: ``holding``, ``open``, ``connected``,
``bin`` (``seq``, ``t``, ``kinds``, for every bin as it is sent), ``garbage``, ``fault`` (as taken in) and ``stopped``.
It can be killed and stopped with real signals: what it said until then is true.
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
    p.add_argument("--channels", type=int, default=0, metavar="N", help="send only the first N channels")
    p.add_argument("--rename", type=int, default=-1, metavar="I", help="give channel I another label")
    p.add_argument("--bin-s", type=float, default=0.0, help="send bins of this width in seconds instead of the session's")
    p.add_argument("--connect-s", type=float, default=30.0, help="seconds to wait for the decoder; 0 sends to nobody")
    p.add_argument("--seed", type=int, default=0, help="of random faults")
    p.add_argument("--hold", action="store_true", help="get ready, and wait for the order to open")
    return p.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Play as ``args`` (of :func:`parse`) say until told to stop."""
    session = load(args.session)
    if args.bin_s:
        session = Session(session.counts, args.bin_s, session.channels, session.trials, name=session.name)
    labels = list(session.channels[: args.channels or None])
    if args.rename >= 0:
        labels[args.rename] = f"another {labels[args.rename]}"
    source = SourceConfig(kind=args.over, stream=args.source_id, markers=args.markers_id, address=args.address)
    outlet = _outlet(args.over, source, len(labels))
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), name="orders", daemon=True).start()
    plan = [Fault(**_listed(json.loads(text))) for text in args.fault]
    if args.hold:
        say("holding")
        if not _obeyed(orders.get(), "open"):
            return
    try:
        outlet.open(StreamSpec(tuple(labels), session.bin_s, "a faulty rig", uuid.uuid4().hex))
        say("open")
        if args.connect_s:
            outlet.wait_for_decoder(args.connect_s)
            say("connected")
        _play(outlet, session, len(labels), Injector(plan, session.bin_s, args.seed), orders, clock(args.over))
        say("stopped")
    finally:
        outlet.close()


def repeat(session: Session, channels: int, t0: float = 0.0) -> Iterator[Timed]:
    """``session``'s first ``channels``, over and over, on one count; events before their bins. Stamps begin at ``t0`` seconds."""
    events = session_events(session)
    length = session.bins * session.bin_s
    for lap in count():
        left = list(events)
        for k, counts in enumerate(session.counts):
            due = (lap * session.bins + k + 1) * session.bin_s
            while left and bin_of(left[0].t, session.bin_s) <= k:
                event = left.pop(0)
                yield Timed(lap * length + event.t, TrialEvent(t0 + lap * length + event.t, event.name, event.value))
            yield Timed(due, Bin(lap * session.bins + k, t0 + due, counts[:channels].astype(np.float32)))


def _play(
    outlet: RawOutlet,
    session: Session,
    channels: int,
    injector: Injector,
    orders: queue.SimpleQueue[dict[str, Any]],
    t0: float,
) -> None:
    pacer = Pacer(1.0)
    for base in repeat(session, channels, t0):
        while not orders.empty():
            if not _obeyed(order := orders.get(), "fault"):
                return
            fault = _fault(order, injector.next_bin)
            injector.plan.append(fault)
            say("fault", kind=fault.kind, first=fault.at, bins=fault.bins)
        for timed in injector.step(base):
            pacer.until(timed.at_s)
            if isinstance(timed.item, Garbage):
                outlet.push_raw(timed.item.number)
                say("garbage", kinds=timed.kinds)
                continue
            outlet.push(timed.item)
            if isinstance(timed.item, Bin):
                say("bin", seq=timed.item.seq, t=timed.item.t, kinds=timed.kinds)


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


def _obeyed(order: dict[str, Any], expected: str) -> bool:
    """Whether to go on: ``expected`` is what was waited for, ``stop`` ends, and anything else is an error."""
    if order.get("do") not in (expected, "stop"):
        raise StreamError(f"order on standard input: expected {expected!r} or 'stop', found {order.get('do')!r}")
    return order["do"] == expected


def _fault(order: dict[str, Any], next_bin: int) -> Fault:
    fields = {k: v for k, v in order.items() if k not in ("do", "in")}
    return Fault(**_listed(fields | {"at": next_bin + order.get("in", 0)}))


def _listed(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"channels": tuple(fields.get("channels", ()))}


if __name__ == "__main__":
    raise SystemExit(main())
