"""The fault matrix: every fault injected for real into a live system, one row each, and what came of it.

A rig in a process of its own streams 24 channels in bins of 20 ms over LSL or ZeroMQ; the live system decodes with a small
bundle that is trained first; its output is heard as a rig hears it. Columns: what was injected; how long until it was seen,
and by what; what the output did meanwhile; how long after the fault's end all was well again; usable bins that were sent and
never answered. Every row states what it expects, and a row that is not as expected says why; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bci_align.bundle.store import load_bundle
from bci_align.cli.common import table
from benchmarks import faults_bundle, faults_process, faults_rig, faults_session, faults_stream, misbehave
from benchmarks.common import Row, finish, machine, say
from benchmarks.faults_process import PATIENT, with_aligner
from benchmarks.judged import Found
from benchmarks.rigged import Ground, Scene

SLACK_S = 0.25
DISK_MB = 48


@dataclass(frozen=True)
class Entry:
    """One row of the matrix to be: ``run`` gets the scene, or the ground where ``scene`` is empty."""

    name: str
    scene: str
    run: Callable[[Any], Found]


def entries() -> list[Entry]:
    """All rows, in the order in which scenes need be set up only once."""
    rows = [Entry("bundle damaged byte by byte", "", faults_bundle.byte_by_byte)]
    for over in ("zmq", "lsl"):
        rows += [Entry(f"{c.name}, {over}", over, partial(faults_stream.run, c)) for c in faults_stream.CASES]
        for name, run in (faults_rig.ROWS | faults_process.DECODER).items():
            rows.append(Entry(f"{name}, {over}", over, run))
        if over == "zmq":
            rows += [Entry(name, over, run) for name, run in faults_process.OTHERS.items()]
        rows.append(Entry(f"all of it recorded, {over}", over, faults_session.recorded))
    rows.append(Entry("aligner killed", "endless", faults_process.aligner_killed))
    rows.append(Entry("aligner hangs", "hung", faults_process.aligner_hung))
    rows.append(Entry("aligner out of memory", "starved", faults_process.aligner_starved))
    rows.append(Entry("disk full", "disk", faults_process.disk_full))
    rows.append(Entry("bundle damaged in a run", "damaged", faults_bundle.in_a_run))
    return rows


@contextlib.contextmanager
def scene_of(name: str, ground: Ground, slack_s: float) -> Iterator[Scene]:
    """Set up the scene that an entry asks for by ``name``."""
    with contextlib.ExitStack() as stack:
        methods = None
        match name:
            case "zmq" | "lsl":
                config = faults_stream.config_of(ground.config(name, supervisor=PATIENT))
            case "endless":
                config, methods = with_aligner(ground, "zmq"), misbehave.HUNG
            case "hung":
                config, methods = with_aligner(ground, "zmq", faults_process.ALIGNER_HANG_S), misbehave.HUNG
            case "starved":
                config, methods = with_aligner(ground, "zmq"), misbehave.HUNGRY
            case "disk":
                disk = stack.enter_context(faults_process.small_disk(ground.folder / f"disk-{time.monotonic_ns()}", DISK_MB))
                config, methods = with_aligner(ground, "zmq", out=str(disk), record={"leave_mb": 0}), misbehave.QUICK
            case "damaged":
                copy = shutil.copytree(ground.bundle.path, ground.folder / f"copy-{time.monotonic_ns()}")
                config = replace(ground, bundle=load_bundle(Path(copy))).config("zmq", supervisor=PATIENT)
            case _:
                raise ValueError(name)
        yield stack.enter_context(Scene(ground, config, methods, slack_s))


class Stage:
    """Runs entries, with a scene that stays as long as the next entry needs the same and all was as expected."""

    def __init__(self, ground: Ground, slack_s: float = SLACK_S) -> None:
        self._ground, self._slack_s = ground, slack_s
        self._stack = contextlib.ExitStack()
        self._name = ""
        self._scene: Scene | None = None

    def run(self, entry: Entry) -> Found:
        """One row; whatever goes wrong is in it."""
        try:
            found = self._run(entry)
        except Exception as e:
            found = Found(entry.name, "", "", wrong=[f"{type(e).__name__}: {e}"])
        if not found.met:
            self.clear()
        return replace(found, name=entry.name)

    def _run(self, entry: Entry) -> Found:
        if not entry.scene:
            return entry.run(self._ground)
        if self._scene is None or self._name != entry.scene:
            self.clear()
            self._scene = self._stack.enter_context(scene_of(entry.scene, self._ground, self._slack_s))
            self._name = entry.scene
        return entry.run(self._scene)

    def clear(self) -> None:
        """Take the scene down."""
        self._name, self._scene = "", None
        self._stack.close()


def shown(found: Found) -> tuple[str, ...]:
    """One line of the printed matrix."""

    def ms(seconds: float) -> str:
        return "-" if math.isnan(seconds) else f"{1e3 * seconds:.0f} ms"

    return (
        found.name,
        found.injected,
        ms(found.seen_s),
        found.how,
        found.output,
        ms(found.recovered_s),
        str(found.lost),
        "yes" if found.met else "NO",
    )


HEAD = ("fault", "injected", "seen within", "by", "the output", "well again after", "bins lost", "as expected")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows whose name holds this; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else there")
    args = parser.parse_args()
    chosen = [e for e in entries() if not args.only or any(part in e.name for part in args.only)]
    if not chosen:
        parser.error(
            f"--only: expected part of a row's name, found {', '.join(args.only)}; rows: {', '.join(e.name for e in entries())}"
        )
    rows: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        say("training a small bundle")
        stage = Stage(Ground.lay(Path(folder)))
        try:
            for i, entry in enumerate(chosen):
                started = time.monotonic()
                rows.append(stage.run(entry))
                because = "" if rows[-1].met else f": {'; '.join(rows[-1].wrong)}"
                say(
                    f"{i + 1}/{len(chosen)} {entry.name}: {'as expected' if rows[-1].met else 'NO'}{because}"
                    f" ({time.monotonic() - started:.1f} s)"
                )
        finally:
            stage.clear()
    if not args.json:
        print(f"{machine()}, bins of 20 ms\n" + table([HEAD, *map(shown, rows)]))
    well = sum(r.met for r in rows)
    acceptance = [Row("rows as expected", f"{well} of {len(rows)}", "all", well == len(rows))]
    acceptance += [Row(r.name, "; ".join(r.wrong), "as expected", False) for r in rows if not r.met]
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(r).items()} for r in rows]
    return finish({"machine": machine(), "rows": plain}, acceptance, args.json)


if __name__ == "__main__":
    sys.exit(main())
