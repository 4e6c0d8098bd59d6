"""The simulated rig, a process of its own: ``python -m bci_align_sim.rig --over lsl --simulate dayK --speed 1``.

It announces counts and trial events, waits for a decoder, streams, and ends with one JSON line on standard output that says
what was sent and heard. Open loop it plays a recorded or simulated day; closed loop its subject steers a cursor by what the
decoder answers. Faults print one sentence and leave with the error's exit code.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import BciAlignError
from bci_align.session.types import Session
from bci_align.streams.contract import RigInlet, RigOutlet, StreamSpec
from bci_align_sim.closed_loop import ClosedLoop
from bci_align_sim.day import simulate_days, simulate_tunings
from bci_align_sim.drift import Drift
from bci_align_sim.rig_loop import Listener, Pacer, Sent, play_closed_loop, play_session
from bci_align_sim.task import channel_labels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rig with command line ``argv``; the exit code."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, _on_term)
    try:
        report = run(args)
    except BciAlignError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    source, sink = SourceConfig(), SinkConfig()
    p = argparse.ArgumentParser(
        prog="python -m bci_align_sim.rig", description="A simulated rig that streams over LSL or ZeroMQ."
    )
    p.add_argument("--over", choices=("lsl", "zmq"), default="lsl", help="transport (default: lsl)")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--session", type=Path, metavar="FILE", help="play this recorded day")
    what.add_argument(
        "--simulate", choices=("day0", "dayK"), nargs="?", const="day0", help="play a simulated day (default: day0)"
    )
    p.add_argument("--seed", type=int, default=0, help="of the simulated subject and its days")
    p.add_argument("--drift", type=float, metavar="X", help="level of dayK's drift, 0 to 1 (default: the demonstration's)")
    p.add_argument("--trials", type=int, default=120, help="simulated trials (default: 120)")
    p.add_argument("--bin-s", type=float, default=0.02, help="width of simulated bins in seconds (default: 0.02)")
    p.add_argument("--closed-loop", action="store_true", help="with --simulate: steer a cursor by the decoded velocity")
    p.add_argument("--lockstep", action="store_true", help="with --closed-loop: wait for the answer to every bin")
    p.add_argument("--listen", action="store_true", help="hear the decoder in open loop too, and report how much came")
    p.add_argument("--heard", type=Path, metavar="FILE", help="as --listen, and write the decoded samples there (.npz)")
    p.add_argument("--speed", type=float, default=1.0, help="stream seconds per second; inf does not wait (default: 1)")
    p.add_argument("--source-id", default=source.stream, help="LSL source_id or ZeroMQ topic of the counts")
    p.add_argument("--markers-id", default=source.markers, help="LSL source_id or ZeroMQ topic of the events")
    p.add_argument("--address", default=source.address, help="ZeroMQ: where to bind counts and events")
    p.add_argument("--velocity-id", default=sink.stream, help="LSL source_id or ZeroMQ topic of the decoded velocity")
    p.add_argument("--velocity-address", default=sink.address, help="ZeroMQ: where the decoder has bound its output")
    p.add_argument("--connect-s", type=float, default=30.0, help="seconds to wait for the decoder (default: 30)")
    p.add_argument(
        "--linger-s", type=float, default=2.0, help="longest stay after the last bin, until it is answered (default: 2)"
    )
    args = p.parse_args(argv)
    if not args.speed > 0:
        p.error(f"--speed: expected a positive number, found {args.speed:g}")
    if args.heard and not args.heard.parent.is_dir():
        p.error(f"--heard: expected a file in a folder that exists, found {args.heard}")
    if args.seed < 0:
        p.error(f"--seed: expected 0 or a positive number, found {args.seed}")
    if args.trials < 1:
        p.error(f"--trials: expected at least 1, found {args.trials}")
    if not (math.isfinite(args.bin_s) and args.bin_s > 0):
        p.error(f"--bin-s: expected a positive number of seconds, found {args.bin_s:g}")
    if args.drift is not None and not 0 <= args.drift <= 1:
        p.error(f"--drift: expected a level from 0 to 1, found {args.drift:g}")
    if args.closed_loop and not args.simulate:
        p.error("--closed-loop: expected --simulate with it, since a recorded subject cannot react")
    if math.isinf(args.speed) and args.closed_loop and not args.lockstep:
        p.error("--speed inf: expected --lockstep with --closed-loop, or no decoder could keep up")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Stream as ``args`` (of :func:`parse`) say; what was sent and heard."""
    # The transports are imported only here: a session alone should need neither of their libraries.
    from bci_align.streams.registry import make_rig

    content = _content(args)
    if isinstance(content, Session):
        spec = StreamSpec(content.channels, content.bin_s, content.name, uuid.uuid4().hex)
    else:
        labels = channel_labels(content.subject.tuning.channels)
        spec = StreamSpec(labels, content.bin_s, args.simulate, uuid.uuid4().hex)
    source = SourceConfig(kind=args.over, stream=args.source_id, markers=args.markers_id, address=args.address)
    sink = SinkConfig(kind=args.over, stream=args.velocity_id, address=args.velocity_address)
    outlet, inlet = make_rig(args.over, source, sink)
    try:
        outlet.open(spec)
        outlet.wait_for_decoder(args.connect_s)
        return _stream(args, content, outlet, inlet)
    finally:
        outlet.close()


def _stream(args: argparse.Namespace, content: Session | ClosedLoop, outlet: RigOutlet, inlet: RigInlet) -> dict[str, Any]:
    """Send everything to the decoder that is connected, and stay until it has answered."""
    listener = Listener(inlet) if args.listen or args.heard or args.closed_loop else None
    try:
        if listener:
            listener.start(args.connect_s)
        pacer, t0 = Pacer(args.speed), clock(args.over)
        if isinstance(content, Session):
            sent = play_session(content, outlet, pacer, t0)
        else:
            assert listener is not None
            sent = play_closed_loop(content, args.trials, outlet, listener, pacer, t0, args.lockstep)
        # Leaving at once would take with it what the decoder has not read yet.
        if listener:
            listener.wait_for(sent.bins - 1, args.linger_s)
            if args.heard:
                listener.save(args.heard)
        else:
            time.sleep(args.linger_s)
        return _report(sent, listener, content)
    finally:
        if listener:
            listener.close()


def _content(args: argparse.Namespace) -> Session | ClosedLoop:
    """The day to play, or the subject at work."""
    if args.session:
        from bci_align.session.io import load

        return load(args.session)
    drift = None if args.drift is None else Drift.level(args.drift)
    day = ("day0", "dayK").index(args.simulate)
    if args.closed_loop:
        return ClosedLoop(simulate_tunings(args.seed, drift)[day], args.seed, args.bin_s)
    return simulate_days(args.seed, (args.trials, args.trials), drift, args.bin_s)[day]


def _report(sent: Sent, listener: Listener | None, content: Session | ClosedLoop) -> dict[str, Any]:
    """The JSON line: lateness in milliseconds; None for what could not be measured."""
    late = sorted(sent.late_s) or [0.0]
    report: dict[str, Any] = {
        "bins": sent.bins,
        "events": sent.events,
        "late_ms": {"p50": 1e3 * late[len(late) // 2], "max": 1e3 * late[-1]},
    }
    if listener:
        answered = {d.seq_in for d in listener.samples}
        report["heard"] = {"samples": len(listener.samples), "bins": len(answered), "losses": listener.losses}
    if isinstance(content, ClosedLoop):
        figures = asdict(content.performance())
        report["closed_loop"] = {k: None if math.isnan(v) else v for k, v in figures.items()}
    return report


def clock(over: str) -> float:
    """Seconds on the clock that stamps this transport's samples."""
    if over == "lsl":
        import pylsl

        return float(pylsl.local_clock())
    return time.monotonic()


def _on_term(signum: int, frame: object) -> NoReturn:
    """Leave through the ``finally`` blocks, so that the streams are withdrawn."""
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    raise SystemExit(main())
