"""Latency, side by side in one run: the bare ONNX Runtime step, our decode step, and a bin's way through the live system.

* bare: ``session.run`` of the bundle's core graph with prepared feeds; ours: ``DecodeLoop.on_bin`` (checks, read-in, core,
  decoder, safety), turn about on the same bins, woken every 4 ms, with a real alignment running beside them or not;
* receive to publish: from the bin's arrival in the decoder's process until the sink has it (the live system's own histograms, 3 %
  wide), over LSL and ZeroMQ; round trip: from the rig's push until the rig has heard the decoded sample;
* late: round trip beyond one bin; "machine's": of these, what a do-nothing loop on the same core was late by as well;
* a swap's cost: what the first bin of a new generation takes beyond the median of the 20 bins around it;
* control: a loop at the decoder's priority on every core that does nothing: how late the machine wakes anybody.

96, 256 and 1024 channels, SCHED_FIFO and the default scheduler, bins of 20 ms.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle
from bci_align.cli.common import table
from bci_align.errors import BciAlignError
from bci_align.runtime import machine as facts
from benchmarks import latency_live, latency_steps
from benchmarks.common import Row, arguments, finish, machine, say
from benchmarks.latency_bundle import untrained
from benchmarks.latency_live import Condition, Found
from benchmarks.latency_process import Helper, aligning, quantiles_ms
from benchmarks.latency_steps import Steps

BIN_S = 0.02
CHANNELS = (96, 256, 1024)
BINS = {"steps": 1000, "live": 750, "asked": 6000}
QUICK = {"steps": 300, "live": 150, "asked": 150}
"""Bins of one condition; of those that acceptance asks for."""
MOST_RATIO, MOST_MS, MOST_SWAP_MS, MOST_GROWTH = 1.5, {"p50": 0.5, "p99": 1.0, "p99.9": 2.0}, 0.1, 1.0
QUANTILES = ("p50", "p99", "p99.9", "max")

StepsKey = tuple[int, bool, bool]


def asked(channels: int, real_time: bool, running: bool) -> bool:
    """Whether acceptance asks for this condition."""
    return (channels, real_time, running) == (CHANNELS[0], True, True)


def all_steps(
    bundles: dict[int, Bundle], bins: dict[str, int], schedulers: Sequence[bool], folder: Path
) -> dict[StepsKey, Steps]:
    """Both steps in every condition (channels, real time, alignment running)."""
    found = {}
    for (channels, bundle), running in product(bundles.items(), (False, True)):
        with ExitStack() as stack:
            if running:
                beside = stack.enter_context(Helper("alignment", aligning, str(bundle.path)))
                beside.wait("ready", 120.0)
            for real_time in schedulers:
                n = bins["asked" if asked(channels, real_time, running) else "steps"]
                out = str(folder / "steps.npz")
                plan = latency_steps.Plan(str(bundle.path), channels, BIN_S, n, real_time, out)
                s = found[channels, real_time, running] = latency_steps.measure(plan)
                say(steps_line(channels, real_time, running, s))
    return found


def all_live(
    bundles: dict[int, Bundle], bins: dict[str, int], schedulers: Sequence[bool], folder: Path
) -> tuple[list[Found], list[str]]:
    """A live run in every condition, those with and without an alignment in one; and what those said that failed."""
    found: list[Found] = []
    failed = []
    for kind, (channels, bundle), real_time in product(("lsl", "zmq"), bundles.items(), schedulers):
        both = [
            Condition(kind, channels, BIN_S, bins["asked" if asked(channels, real_time, a) else "live"], real_time, a)
            for a in (False, True)
        ]
        try:
            new = latency_live.in_turn(both, bundle, folder)
        except BciAlignError as e:  # the others are worth having
            failed.append(f"{kind}, {channels} channels, {words(real_time, False)[0]}: {e}")
            say(f"failed: {failed[-1]}")
            continue
        found += new
        for f in new:
            say(live_line(f))
    return found, failed


def named(channels: int, real_time: bool, running: bool) -> str:
    """A condition in words."""
    return f"{channels} channels, {'FIFO' if real_time else 'default'}, alignment {'running' if running else 'idle'}"


def in_words(q: dict[str, float]) -> str:
    """Quantiles in milliseconds in a line."""
    return ", ".join(f"{k} {q[k]:.3f}" for k in QUANTILES)


def steps_line(channels: int, real_time: bool, running: bool, s: Steps) -> str:
    """All that the tables say of a condition, for a run that never gets to them."""
    swaps, late = s.of_swaps()[0], int((s.ours > BIN_S).sum())
    cost = f"{len(swaps)} swaps, median {1e3 * np.median(swaps):.3f} ms" if len(swaps) else "no swap"
    return (
        f"steps, {named(channels, real_time, running)}: bare {in_words(quantiles_ms(s.bare))} ms; "
        f"ours {in_words(quantiles_ms(s.ours))} ms; ours / bare {ratio(s):.2f}; {late} late; {cost}"
    )


def live_line(f: Found) -> str:
    """The same of a live run."""
    c, (late, shared), control = f.condition, f.late(), f.control.summary()
    publish, trip = in_words(f.stage_ms("total")), in_words(f.trip_ms())
    return (
        f"{c.kind}, {named(c.channels, c.real_time, c.aligning)}, {c.bins} bins: receive to publish {publish} ms; "
        f"round trip {trip} ms; {late} late ({shared} the machine's), {f.lost()} lost; "
        f"control p99.9 {control['p99.9']:.3f}, max {control['max']:.3f} ms"
    )


def ratio(s: Steps) -> float:
    """Our median over the bare step's."""
    return float(np.median(s.ours) / np.median(s.bare))


def growth(steps: dict[StepsKey, Steps], real_time: bool) -> float:
    """Exponent of our median step over channels, alignment running; NaN with one number of channels."""
    sizes = sorted({k[0] for k in steps})
    if len(sizes) < 2:
        return float("nan")
    medians = [float(np.median(steps[c, real_time, True].ours)) for c in sizes]
    return float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])


def cells(q: dict[str, float]) -> tuple[str, ...]:
    """Quantiles in milliseconds as cells."""
    return tuple(f"{q[k]:.3f}" for k in QUANTILES)


def words(real_time: bool, running: bool) -> tuple[str, str]:
    """Scheduler and alignment as cells."""
    return "FIFO" if real_time else "default", "running" if running else "idle"


def steps_table(steps: dict[StepsKey, Steps]) -> str:
    """Bare and ours in milliseconds."""
    rows: list[tuple[str, ...]] = [
        ("step, ms: channels", "scheduler", "alignment", *(f"bare {q}" for q in QUANTILES), *(f"ours {q}" for q in QUANTILES),
         "ours / bare", "late")
    ]  # fmt: skip
    for (channels, real_time, running), s in steps.items():
        both = (*cells(quantiles_ms(s.bare)), *cells(quantiles_ms(s.ours)))
        rows.append((str(channels), *words(real_time, running), *both, f"{ratio(s):.2f}", str(int((s.ours > BIN_S).sum()))))
    return table(rows)


def swaps_table(steps: dict[StepsKey, Steps]) -> str:
    """What a swap costs in milliseconds, beside bins without one."""
    rows: list[tuple[str, ...]] = [
        ("swap, ms: channels", "scheduler", "alignment", "swaps", "median", "max", "other bins p50", "p99", "p99.9", "max")
    ]
    for (channels, real_time, running), s in steps.items():
        swaps, others = s.of_swaps()
        cost = (f"{1e3 * v:.3f}" for v in (np.median(swaps), swaps.max())) if len(swaps) else ("-", "-")
        rows.append((str(channels), *words(real_time, running), str(len(swaps)), *cost, *cells(quantiles_ms(others))))
    return table(rows)


def live_table(live: Sequence[Found]) -> str:
    """Receive to publish, round trip and the control in milliseconds."""
    heads = [f"{what} {q}" for what in ("publish", "trip") for q in QUANTILES]
    rows: list[tuple[str, ...]] = [
        (
            "live, ms: over",
            "channels",
            "scheduler",
            "alignment",
            "bins",
            *heads,
            "late",
            "machine's",
            "lost",
            "control p99.9",
            "max",
        )
    ]
    for f in live:
        c, trip, control = f.condition, f.trip_ms(), f.control.summary()
        times = (*cells(f.stage_ms("total")), *cells(trip))
        counts = (str(f.late()[0]), str(f.late()[1]), str(f.lost()), f"{control['p99.9']:.3f}", f"{control['max']:.3f}")
        rows.append((c.kind, str(c.channels), *words(c.real_time, c.aligning), str(c.bins), *times, *counts))
    return table(rows)


def accept(steps: dict[StepsKey, Steps], live: Sequence[Found]) -> list[Row]:
    """Acceptance: 96 channels, alignment running, FIFO; without FIFO nothing is met."""
    channels = CHANNELS[0]
    if not any([*(real_time for _, real_time, _ in steps), *(f.condition.real_time for f in live)]):
        return [Row("SCHED_FIFO", "not granted", "granted: no tail is promised without it", False)]
    rows = of_steps(steps, steps[channels, True, True]) if steps else []
    for f in live:
        c = f.condition
        if not asked(c.channels, c.real_time, c.aligning):
            continue
        times, (late, shared) = f.stage_ms("total"), f.late()
        for q, most in MOST_MS.items():
            rows.append(Row(f"{c.kind}: receive to publish {q}, ms", times[q], f"<= {most:g}", times[q] <= most))
        rows.append(Row(f"{c.kind}: bins lost", str(f.lost()), "0", f.lost() == 0))
        rows.append(Row(f"{c.kind}: bins late, the machine's apart ({shared})", str(late - shared), "0", late == shared))
    return rows


def of_steps(steps: dict[StepsKey, Steps], s: Steps) -> list[Row]:
    """Acceptance of the steps; ``s`` are those in the condition that is asked for."""
    swaps, others = s.of_swaps()
    cost = 1e3 * float(np.median(swaps)) if len(swaps) else float("nan")
    worst = (
        f"{len(swaps)} swaps, worst {1e3 * swaps.max():.3f}; p99 of other bins {1e3 * np.percentile(others, 99):.3f}"
        if len(swaps)
        else "none"
    )
    rows = [
        Row("our step p50 / bare", ratio(s), f"<= {MOST_RATIO:g}", ratio(s) <= MOST_RATIO),
        Row(f"swap, extra ms of its bin, median ({worst})", cost, f"<= {MOST_SWAP_MS:g}", cost <= MOST_SWAP_MS),
    ]
    exponent = growth(steps, True)
    if exponent == exponent:
        rows.append(Row("growth of our step with channels, exponent", exponent, f"<= {MOST_GROWTH:g}", exponent <= MOST_GROWTH))
    return rows


def as_json(steps: dict[StepsKey, Steps], live: Sequence[Found]) -> dict[str, Any]:
    """Everything that the tables show."""
    keys = ("channels", "real_time", "aligning")
    return {
        "steps": [
            dict(zip(keys, k, strict=True))
            | {
                "bare_ms": quantiles_ms(s.bare),
                "ours_ms": quantiles_ms(s.ours),
                "ratio": ratio(s),
                "woken_ms": quantiles_ms(s.woken),
            }
            | {"swap_ms": (1e3 * s.of_swaps()[0]).tolist(), "other_ms": quantiles_ms(s.of_swaps()[1])}
            for k, s in steps.items()
        ],
        "live": [
            {k: getattr(f.condition, k) for k in ("kind", "bins", *keys)}
            | {"stages_ms": {name: f.stage_ms(name) for name in f.stages}, "control_ms": f.control.summary()}
            | {"round_trip_ms": f.trip_ms(), "scheduler": f.scheduler}
            | {"late": f.late()[0], "late_machine": f.late()[1], "lost": f.lost()}
            for f in live
        ],
    }


def main() -> int:
    """Run the benchmark."""
    args = arguments(__doc__, ("steps", "live"))
    bins, channels = (QUICK, CHANNELS[:1]) if args.quick else (BINS, CHANNELS)
    schedulers = [real_time for real_time in (True, False) if not real_time or granted()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = {c: untrained(folder / f"bundle-{c}", c, BIN_S) for c in channels}
        steps = all_steps(bundles, bins, schedulers, folder) if args.only != "live" else {}
        live, failed = all_live(bundles, bins, schedulers, folder) if args.only != "steps" else ([], [])
    about = f"{machine()}; {facts.kernel()[0]}, clock {facts.clock_source()}; bins of {1e3 * BIN_S:g} ms"
    if not args.json:
        tables = [steps_table(steps), swaps_table(steps)] if steps else []
        print("\n\n".join([about, *tables, *([live_table(live)] if live else [])]))
    rows = accept(steps, live)
    if args.only != "steps":
        rows.append(Row("live runs that failed", "; ".join(failed) or "0", "0", not failed))
    return finish({"machine": about, "quick": args.quick} | as_json(steps, live), rows, args.json)


def granted() -> bool:
    """Whether SCHED_FIFO is to be had here: tried in a process that ends at once."""
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


if __name__ == "__main__":
    sys.exit(main())
