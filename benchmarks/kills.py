"""Random SIGKILLs over align, swap and record: who was killed, how long until the next answered bin, and what was left whole.

A rig plays a day at real time; a live system aligns on every two trials, puts the result in the lead and commits it some bins
later, and records. At random moments (seeded) one of its processes is killed: the decoder, the aligner, the recorder, or the
supervisor, whereupon a new run has to start from the last generation that was committed. The next kill takes whoever is there:
it waits for the one it has drawn to be replaced after an earlier kill, kills a decoder only while another stands by, and a
recorder or a supervisor only while a recorder is at work. After every kill: the last committed generation loads, the recording
opens and its loss is at most a second, the decisions verify; in the end every answered bin is in a recording.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.cli.common import table
from benchmarks.common import Row, finish, machine
from benchmarks.rigged import BIN_S, Ground
from benchmarks.shooting import MOST_S, VICTIMS, Kill, Shot, shoot_all


def summary(kills: list[Kill]) -> list[tuple[str, ...]]:
    """Rows of the table, one per victim."""
    rows: list[tuple[str, ...]] = [("victim", "kills", "next answer p50", "max", "recording's loss, max", "failures")]
    for victim in VICTIMS:
        mine = [k for k in kills if k.victim == victim]
        if not mine:
            continue
        next_s = [k.next_s for k in mine]
        loss = [k.loss_s for k in mine if k.loss_s == k.loss_s]
        rows.append(
            (
                "supervisor (until its decoder ended)" if victim == "supervisor" else victim,
                str(len(mine)),
                f"{1e3 * np.median(next_s):.0f} ms",
                f"{1e3 * max(next_s):.0f} ms",
                f"{max(loss):.2f} s" if loss else "-",
                str(sum(bool(k.wrong) for k in mine)),
            )
        )
    return rows


def acceptance(shot: Shot, wanted: int) -> list[Row]:
    """What was asked for."""
    kills = shot.kills

    def without(what: str) -> int:
        return sum(not any(w.startswith(what) for w in k.wrong) for k in kills)

    n = len(kills)
    slowest = max((k.next_s for k in kills if k.victim != "supervisor"), default=math.nan)
    loss = max((k.loss_s for k in kills if k.loss_s == k.loss_s), default=0.0)
    ended = sum(k.ended_s == k.ended_s for k in kills)
    supervisors = sum(k.victim == "supervisor" for k in kills)
    rows = [Row("kills", str(n), f"{wanted}", n == wanted)]
    rows += [
        Row("time to the next answered bin, max (s)", slowest, f"<= {MOST_S:g}", slowest <= MOST_S),
        Row("killed supervisors of which nothing is left", f"{ended} of {supervisors}", "all", ended == supervisors),
        Row("last committed generation loads", f"{without('committed')} of {n}", "all", without("committed") == n),
        Row(
            "new run from the last committed generation",
            f"{without('expected a run')} of {n}",
            "all",
            without("expected a run") == n,
        ),
        Row("recording opens", f"{without('recording')} of {n}", "all", without("recording") == n),
        Row("recording's loss, max (s)", loss, f"<= {MOST_S:g}", loss <= MOST_S),
        Row("chain of decisions verifies", f"{without('decisions')} of {n}", "all", without("decisions") == n),
        Row("answered bins that are in no recording", str(shot.unrecorded), "0", shot.unrecorded == 0),
        Row("generations committed meanwhile", str(shot.generations), ">= 1", shot.generations >= 1),
    ]
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments")
    parser.add_argument("--over", choices=("lsl", "zmq"), default="zmq")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shot = shoot_all(Ground.lay(Path(folder)), args.kills, args.seed, args.over)
    minutes = (time.monotonic() - started) / 60
    if not args.json:
        print(f"{machine()}; bins of {BIN_S * 1e3:g} ms over {args.over}, {minutes:.0f} minutes\n" + table(summary(shot.kills)))
    result: dict[str, Any] = {"machine": machine(), "seed": args.seed, "over": args.over, "kills": [vars(k) for k in shot.kills]}
    return finish(result, acceptance(shot, args.kills), args.json)


if __name__ == "__main__":
    sys.exit(main())
