"""The demonstration: ``python -m bci_align_sim.demo``.

A bundle is trained on a simulated subject's day 0; a drifted day K is streamed to it, decoded live, aligned without labels in a
second process, judged, and the new generation is swapped in between two bins.

Everything but the subject is what runs in a laboratory. Prints one table and writes a report with figures.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bci_align.cli.common import table
from bci_align.errors import BciAlignError, ConfigError
from bci_align_sim.demo_plan import MARKER, Sizes, decision


def main(arguments: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Run the demonstration with command line ``arguments``; the exit code."""
    args = _parse(arguments)

    def terminated(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)  # unwinds like Ctrl-C: processes stopped, temporaries removed

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        out = claim(args.out)
        # Imported late: torch takes seconds, and a directory that is refused should be refused at once.
        from bci_align_sim.demo_run import run

        result = run(out, args.seed, args.over, args.speed, sizes or Sizes())
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; nothing was left half written\n")
        return 130
    except BciAlignError as e:
        sys.stderr.write(f"demo: {e}\n")
        if args.json:
            sys.stdout.write(json.dumps({"error": str(e)}) + "\n")
        return e.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.stdout.write((json.dumps(result, allow_nan=False) if args.json else text(result)) + "\n")
    return 0


def claim(out: Path) -> Path:
    """Where to write: ``out`` if it is not there, empty, or the demo's own; its parents are made. Else :class:`ConfigError`."""
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: expected a directory, found a file")
    try:
        foreign = sorted({f.name for f in out.iterdir()} - _own(out)) if out.is_dir() else []
        if foreign:
            raise ConfigError(
                f"--out {out}: expected a directory that is new or that the demo made, found {foreign[0]!r} in it, which "
                "the demo did not write; nothing was touched, choose another --out"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"--out {out}: cannot be used ({e.strerror})") from None
    return out


def _own(out: Path) -> set[str]:
    """Names of what an earlier run wrote into ``out``."""
    marker = out / MARKER
    return {MARKER, *marker.read_text(encoding="utf-8").splitlines()} if marker.is_file() else set()


def text(result: dict[str, Any]) -> str:
    """The table and the lines below it."""
    cells = [("", "R2 (%)", "RMSE (cm/s)", "trials")]
    cells += [(s["name"], f"{s['r2']:.1f}", f"{s['rmse']:.2f}", str(s["trials"])) for s in result["scores"]]
    return "\n".join(
        [
            table(cells),
            "",
            f"lost bins   {result['lost']} of {result['bins']}",
            f"decision    {decision(result)}",
            f"report      {result['report']}",
            f"time        {result['seconds']:.0f} s",
        ]
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m bci_align_sim.demo", description="A simulated subject, a drifted day, and its decoder recalibrated live."
    )
    p.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="where to write (default: out/demo)")
    p.add_argument("--seed", type=int, default=3, help="of the subject, its days, training and alignment (default: 3)")
    p.add_argument("--over", choices=("lsl", "zmq"), default="lsl", help="transport of the stream (default: lsl)")
    p.add_argument(
        "--speed", type=_speed, default=8.0, metavar="X", help="times real time, or max: wait for the aligner (default: 8)"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = p.parse_args(arguments)
    if not 0 <= args.seed < 2**31:
        p.error(f"--seed: expected a number from 0 to {2**31 - 1}, found {args.seed}")
    return args


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    speed = float(text)
    if not (math.isfinite(speed) and speed > 0):
        raise argparse.ArgumentTypeError(f"expected a positive number or max, found {text!r}")
    return speed


if __name__ == "__main__":
    raise SystemExit(main())
