"""An hour in front of a participant: 180,000 bins of 20 ms, 50 swaps, alignment running, and what became of each.

Real: a rig process (SCHED_FIFO where granted, paced on a fixed grid) with a real LSL outlet or ZeroMQ socket that plays a
simulated subject's drifted day over and over, trial by trial; the whole live system (decoder, standby, aligner, recorder, their
shared memory, recording, audit log); ERDiff alignment to the trials just collected, the gate's judgement, the new generation on
the disk, its shadow on live bins, promotion between two trials, probation, commit.

Not real: the bundle is untrained (its size is that of a trained one, its output means nothing), so what the gate says is kept and
overruled; a refinement takes 20 steps instead of 60; between two candidates the aligner aligns to the source day's trials, again
and again, for nothing but the load.

Every bin's number, generation and time go into a chain of hashes on either side: as the rig sent them, with the generations that
the live system reported, and as they came back. Late is a sample that the rig hears more than a bin's width after its push; a
do-nothing loop at the same priority on every core says which of that was the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle
from bci_align.cli.common import plain, table
from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError
from bci_align.runtime import audit
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.recording import Recording
from bci_align.runtime.tape import Op
from benchmarks import latency_rig as rig
from benchmarks.common import finish, machine, say
from benchmarks.latency_bundle import untrained
from benchmarks.latency_control import Control
from benchmarks.latency_live import READY_S, config_of
from benchmarks.latency_process import Helper, rss_mb
from benchmarks.soak_methods import methods
from benchmarks.soak_report import Found, Memory, Told

BIN_S = 0.02
SWAPS_PER_HOUR = 50
STEPS = 20
"""Of a refinement."""
COLLECT_S, TAIL_S = 20.0, 25.0
"""Stream until the first trials are there; after the last candidate is due, for shadow, a trial's end and probation."""
EXTRA_MINUTES = 4.0
"""Stream beyond the length asked for, at most, until all swaps are there: an alignment at nice 19 may have to wait long."""
LOOK_S = 10.0
"""Time between two looks at the memory."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=60.0, help="length of the stream (default: 60)")
    p.add_argument("--swaps", type=int, help=f"swaps to see (default: {SWAPS_PER_HOUR} an hour, one at least)")
    p.add_argument("--channels", type=int, default=96, help="channels of the simulated array (default: 96)")
    p.add_argument("--over", choices=("lsl", "zmq"), default="lsl", help="transport, both ways (default: lsl)")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the whole report there, too (JSON)")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    args = p.parse_args()
    if not args.minutes >= 0.9:
        p.error(f"--minutes: expected at least 0.9, for a swap takes its time, found {args.minutes:g}")
    if args.out and not args.out.parent.is_dir():
        p.error(f"--out: expected a file in a folder that exists, found {args.out}")
    return args


def config(bundle: Bundle, over: str, folder: Path) -> LiveConfig:
    """The live system's settings: its defaults, and alignments as often as they come."""
    align = {"steps": STEPS, "refine_from": 5}
    more = {"calibration_trials": 5, "recalibrations": 10**6, "align": align, "gate": {"min_trials": 5}}
    return config_of(bundle, over, folder / "live", True, **more)


def soak(minutes: float, swaps: int, channels: int, over: str, folder: Path) -> Found:
    """Run it, to the end or to the first fault that ends decoding; that is told, and what was heard until then judged."""
    bundle = untrained(folder / "bundle", channels, BIN_S)
    settings = config(bundle, over, folder)
    bins = round(60 * minutes / BIN_S)
    every_s = (60 * minutes - COLLECT_S - TAIL_S) / (swaps + max(1, swaps // 20))  # a few to spare: a shadow may refuse one
    most = bins + round(60 * EXTRA_MINUTES / BIN_S)
    plan = rig.Plan(settings.source, settings.sink, channels, BIN_S, most, str(folder / "rig.npz"))
    control = Control(True, folder)
    told, memory, error, stale = Told(), Memory(), None, 0
    status: dict[str, Any] = {}
    try:
        with Helper("rig", rig.run, plan) as player:
            player.wait("open", READY_S)
            with LiveSystem(settings, methods(every_s)) as live:
                live.wait_ready(READY_S)
                control.wait_ready()
                while not (said := player.hear(0.0)) or "connected" not in said:
                    told.hear(live.poll(0.1), time.monotonic())
                player.tell()
                try:
                    status, stale = _watch(live, player, told, memory, (bins, swaps))
                except BciAlignError as e:
                    error = str(e)
                    say(f"ended early: {e}")
                    player.tell()
                    stale = int(player.wait("done", 30.0)["stale"])
                lateness = control.stop()
                told.hear(live.stop(), time.monotonic())
            player.tell()
    finally:
        control.end()
    ready = next((r["scheduler"] for r in told.of("ready") if r["from"] == "decoder"), "")
    heard = rig.Heard.load(plan.out)
    if np.isfinite(heard.pushed[0]):
        lateness = lateness.between(heard.pushed[0], float(np.nanmax(heard.pushed)))
    found = Found(heard, told, lateness, memory, status, BIN_S, swaps, ready, stale, error=error)
    found.recorded, found.audit = recorded(Path(settings.out)), audited(Path(settings.out))
    return found


def _watch(live: LiveSystem, player: Helper, told: Told, memory: Memory, wanted: tuple[int, int]) -> tuple[dict[str, Any], int]:
    """Hear both until the rig is done, which it is told to be when bins and swaps are as many as ``wanted``.

    Gives the live system's last status, and how many samples answered no bin.
    """
    began, minute, look, sent, ending = time.monotonic(), 0, 0.0, {"sent": 0, "heard": 0, "stale": 0}, False
    while True:
        told.hear(live.poll(0.25), time.monotonic())
        while (said := player.hear(0.0)) is not None:
            if "done" in said:
                return live.status(), int(said["stale"])
            sent = said
        if not ending and sent["sent"] >= wanted[0] and told.kinds["swapped"] >= wanted[1]:
            ending = True
            player.tell()
        now = time.monotonic() - began
        if now >= look:
            look += LOOK_S
            memory.add(now, _memory(live))
        if now >= 60 * (minute + 1):
            minute += 1
            status = live.status()
            latest = {k: f"{v[-1]:.0f}" for k, v in memory.mb.items()}
            trip = status["latency"]["total"]
            say(
                f"minute {minute}: {sent['sent']} of {wanted[0]} sent, {sent['heard']} heard, {told.kinds['swapped']} swaps, "
                f"{told.kinds['dropped']} dropped, late in the decoder {status['late']}, "
                f"receive to publish p99.9 {1e3 * trip['p99.9']:.2f} ms, memory MB {latest}"
            )


def _memory(live: LiveSystem) -> dict[str, float]:
    """Megabytes of every process of the live system; one that has just gone is left out."""
    pids = {who: p["pid"] for who, p in live.status()["processes"].items()} | {"live": os.getpid()}
    found = {}
    for who, pid in pids.items():
        try:
            found[who] = rss_mb(pid)
        except (OSError, TypeError):
            continue
    return found


def recorded(out: Path) -> int | None:
    """Bins in the run's recording, None if there is none or more than one."""
    files = sorted(out.glob("recording-*.h5"))
    if len(files) != 1:
        return None
    with Recording(files[0]) as r:
        return sum(int(row.view(r.dtype)["op"][0]) == Op.BIN for row in r.rows())


def audited(out: Path) -> str:
    """What the audit log says of itself."""
    try:
        audit.verify(out)
    except BciAlignError as e:
        return str(e)
    return "verified"


def text(f: dict[str, Any]) -> str:
    """The report for people."""
    quantiles = ("p50", "p99", "p99.9", "max")
    stages = {f"decoder: {k}": {q: 1e3 * v[q] for q in quantiles} for k, v in f["stages"].items()}
    times = {"round trip, push to heard": f["round_trip_ms"]} | stages
    times |= {"rig behind its grid": f["rig_late_ms"], "control loop": f["control_ms"]}
    rows: list[tuple[str, ...]] = [("ms", *quantiles)]
    rows += [(name, *(f"{q[k]:.3f}" for k in quantiles)) for name, q in times.items()]
    memory: list[tuple[str, ...]] = [("resident MB", "first", "most", "last", "grown after 5 minutes")]
    grown = f["memory_growth_mb"] or {}
    memory += [(name, *map(str, v), f"{grown[name]:+.2f}" if name in grown else "-") for name, v in f["memory_mb"].items()]
    swaps = f["swap_round_trip_ms"]
    worst = f"; the slowest swap bin's round trip {max(swaps):.3f} ms" if swaps else ""
    lines = [
        f"{f['machine']}; decoder: {f['scheduler']}",
        f"{f['bins']} bins of {1e3 * BIN_S:g} ms, {len(f['swaps'])} swaps at bins {f['swaps']}{worst}",
        f"the aligner was at work {100 * f['aligning_share']:.0f} % of the time; faults flagged: {f['faults'] or 'none'}",
        f"chain over (seq, generation, t), sent:  {f['chain_sent']}",
        f"chain over (seq, generation, t), heard: {f['chain_heard']}",
        f"gaps: {f['gaps'] or 'none'}",
    ]
    lines += [f"dropped: {r}" for r in f["dropped"]] + [f"rolled back: {r}" for r in f["rolled_back"]]
    lines += [f"the rig lost the decoder's output {f['losses']} times"] if f["losses"] else []
    lines += [f"died: {r}" for r in f["died"]] + ([f"ended early: {f['error']}"] if f["error"] else [])
    return "\n".join([*lines, "", table(rows), "", table(memory)])


def main() -> int:
    """Run the soak."""
    args = arguments()
    swaps = args.swaps if args.swaps is not None else max(1, int(SWAPS_PER_HOUR * args.minutes / 60))
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args.minutes, swaps, args.channels, args.over, Path(folder))
        figures = {"machine": machine(), "minutes": args.minutes, "over": args.over} | found.figures()
        rows = found.rows(figures, round(60 * args.minutes / BIN_S))
    if not args.json:
        print(text(figures))
    if args.out:
        acceptance = [{"name": r.name, "value": r.value, "goal": r.goal, "met": r.met} for r in rows]
        args.out.write_text(json.dumps(plain(figures | {"acceptance": acceptance}), indent=1) + "\n", encoding="utf-8")
    return finish(figures, rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
