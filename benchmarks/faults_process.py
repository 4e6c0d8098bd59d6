"""Faults of the live system's own processes: killed, hung, out of memory, out of disk."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bci_align.config import LiveConfig
from bci_align.runtime import audit, committed
from bci_align.streams.contract import Flags
from benchmarks.faults_rig import PATIENCE_S, nothing_lost, recover
from benchmarks.judged import Found, account, behaviour
from benchmarks.rigged import BIN_S, Ground, Scene

RESTART_S = 1.0
"""Time from the death of a decoder to the next answered bin, where another one stands by."""

KILLED, HUNG = "exit code -9", "gave no sign of life"
"""What is said of a process that was killed, and of one that hung."""

HANG_S = 1.0
ALIGNER_HANG_S = 2.0

ALIGNING: dict[str, Any] = {
    "recalibrations": 1000,
    "calibration_trials": 2,
    "align": {"min_trials": 2},
    "gate": {"min_trials": 2},
    "promotion": {"shadow_bins": 10, "probation_bins": 10},
}
"""Align on every two trials, and let the result lead soon."""


def decoder_killed(scene: Scene) -> Found:
    """SIGKILL the decoder while another one stands by."""
    found = Found("decoder killed", scene.over, "SIGKILL to the decoder")
    stand_by(scene)
    return succeeded(found, scene, KILLED, lambda: kill(scene.live.decoder_pid), RESTART_S)


def decoder_hung(scene: Scene) -> Found:
    """SIGSTOP the decoder."""
    found = Found("decoder hangs", scene.over, "SIGSTOP to the decoder, for good")
    stand_by(scene)
    most = RESTART_S + scene.config.supervisor.heartbeat_s * 1.5
    return succeeded(found, scene, HUNG, lambda: kill(scene.live.decoder_pid, signal.SIGSTOP), most)


def decoders_killed(scene: Scene) -> Found:
    """SIGKILL the decoder and the one that stands by at once: a third has to be loaded from the disk."""
    found = Found("decoder and standby killed", scene.over, "SIGKILL to both decoders at once")
    stand_by(scene)

    def both() -> None:
        kill(scene.live.standby_pid)
        kill(scene.live.decoder_pid)

    return succeeded(found, scene, KILLED, both, math.inf)


def recorder_killed(scene: Scene) -> Found:
    """SIGKILL the recorder: decoding never notices, a new recording goes on."""
    found = Found("recorder killed", scene.over, "SIGKILL to the recorder")
    before = set(recordings(scene.out))
    unharmed(found, scene, "recorder", KILLED, lambda: kill(scene.live.recorder_pid))
    scene.until(lambda: bool(set(recordings(scene.out)) - before), PATIENCE_S)
    found.expect(bool(set(recordings(scene.out)) - before), "expected a new recording")
    return found


def aligner_killed(scene: Scene) -> Found:
    """SIGKILL the aligner in the middle of an alignment."""
    found = Found("aligner killed", scene.over, "SIGKILL to the aligner while it aligns")
    aligning(scene)
    return unharmed(found, scene, "aligner", KILLED, lambda: kill(scene.live.aligner_pid))


def aligner_hung(scene: Scene) -> Found:
    """An alignment that never ends and never looks whether to stop."""
    found = Found("aligner hangs", scene.over, "an alignment that never comes back")
    scene.must(lambda: len(scene.reported("aligning")) > len(scene.reported("died")), PATIENCE_S, "no alignment")
    return unharmed(found, scene, "aligner", HUNG, lambda: None, within_s=2.0 * ALIGNER_HANG_S)


def aligner_starved(scene: Scene) -> Found:
    """An alignment that takes all the memory that its process may have (RLIMIT_AS)."""
    found = Found("aligner out of memory", scene.over, "an alignment that takes memory without end, under RLIMIT_AS")
    begin = scene.now()
    return unharmed(found, scene, "aligner", "MemoryError", lambda: None, begin=begin)


def disk_full(scene: Scene) -> Found:
    """The disk of OUT fills up to the last byte while all is written to it: recording, decisions, generations."""
    found = Found("disk full", scene.over, "a tmpfs that holds OUT is filled to the last byte")
    scene.must(lambda: bool(scene.reported("committed")), PATIENCE_S, "no generation was committed")
    generation = committed.load(scene.out, scene.ground.bundle.path).manifest.generation
    first, begin = len(scene.rig.bins), scene.now()
    fill(scene.out)
    scene.until(lambda: bool(scene.reported("record_failed", begin)), PATIENCE_S)
    said = scene.reported("record_failed", begin)
    found.seen_s = said[0][0] - begin if said else math.nan
    found.how = "report record_failed"
    found.expect(bool(said), "expected that the recorder says so")
    scene.wait(4.0)  # the next alignment and its generation find no place either
    went_on(found, scene, first, begin)
    for _, r in scene.reported("died", begin):
        found.expect("cannot be written" in r["reason"], f"expected a sentence on what cannot be written, found {r['reason']}")
    now = committed.load(scene.out, scene.ground.bundle.path)
    found.expect(now.manifest.generation >= generation, "expected the committed generation to load")
    audit.verify(scene.out)
    return found


def unharmed(
    found: Found,
    scene: Scene,
    who: str,
    why: str,
    harm: Callable[[], None],
    within_s: float = 3.0,  # a process of the lowest priority dies slowly, too
    begin: float | None = None,
) -> Found:
    """Harm a process that decoding does not depend on: its death is reported and ``why``, another comes, no bin is lost."""
    first = len(scene.rig.bins)
    since = scene.now() if begin is None else begin
    harm()

    def died() -> list[Any]:
        return [(t, r) for t, r in scene.reported("died", since) if r["who"] == who]

    scene.until(lambda: bool(died()), PATIENCE_S)
    said = died()
    found.expect(bool(said), f"expected that the death of the {who} is reported")
    found.expect(not said or why in said[0][1]["reason"], f"expected {why!r} as the reason, found {said}")
    found.seen_s = said[0][0] - since if said else math.nan
    found.how = f"report died: {said[0][1]['reason']}" if said else ""
    most = within_s + scene.slack_s
    if begin is None:
        found.expect(found.seen_s <= most, f"expected to see it within {most:.2f} s, found {found.seen_s:.2f} s")
    at = said[0][0] if said else since
    scene.until(lambda: any(r["from"] == who and t > at for t, r in scene.reported("ready", at)), PATIENCE_S)
    again = [t for t, r in scene.reported("ready", at) if r["from"] == who]
    found.recovered_s = again[0] - at if again else math.nan
    found.expect(bool(again), f"expected another {who}")
    went_on(found, scene, first, since)
    return found


def went_on(found: Found, scene: Scene, first: int, since: float) -> None:
    """Every bin from the ``first`` on is answered, once, and the output goes on."""
    sent, heard = scene.answered(first, since)
    found.output = behaviour([s for _, s in heard])
    found.expect(found.output == "went on", f"expected that the output went on, found {found.output}")
    account(found, sent, heard)
    nothing_lost(found)


def succeeded(found: Found, scene: Scene, why: str, harm: Callable[[], None], within_s: float) -> Found:
    """Harm the decoder: another one answers within ``within_s``, zero or nothing is said until then; ``why`` is reported."""
    before = len(scene.rig.bins)
    begin = scene.now()
    harm()
    scene.until(lambda: bool(resumed(scene, begin)), PATIENCE_S)
    back = resumed(scene, begin)
    died = [(t, r) for t, r in scene.reported("died", begin) if r["who"] == "decoder"]
    found.seen_s = died[0][0] - begin if died else math.nan
    found.how = f"report died: {died[0][1]['reason']}" if died else ""
    found.expect(bool(died), "expected that the death of the decoder is reported")
    found.expect(not died or why in died[0][1]["reason"], f"expected {why!r} as the reason, found {died}")
    found.recovered_s = back[0] - begin if back else math.nan
    most = within_s + scene.slack_s
    found.expect(found.recovered_s <= most, f"expected the next answer within {most:.2f} s, found {found.recovered_s:.2f} s")
    between = [s for t, s in scene.heard(begin) if back and begin + BIN_S < t < back[0]]
    found.output = behaviour(between)
    found.expect(found.output in ("none", "zero"), f"expected nothing or zero until then, found {found.output}")
    recover(found, scene, begin, math.inf)
    # What was sent while nobody decoded is lost, is counted, and is flagged as a gap; what was sent after that is not.
    account(found, *scene.answered(before, begin - 1.0))
    most_bins = (found.recovered_s + scene.slack_s) / BIN_S + 2
    found.expect(found.lost <= most_bins, f"expected at most {most_bins:.0f} bins lost, found {found.lost}")
    found.expect(found.repeated == 0, f"expected no bin answered twice, found {found.repeated}")
    return found


def resumed(scene: Scene, since: float) -> list[float]:
    """When bins that were sent after ``since`` were answered."""
    sent = {b.seq for b in scene.rig.bins if b.at > since}
    return [t for t, s in scene.heard(since) if s.seq_in in sent and not s.flags & (Flags.STALE | Flags.LOST | Flags.FAILED)]


def stand_by(scene: Scene) -> None:
    """Wait until a second decoder is loaded."""
    scene.must(lambda: scene.live.standby_pid is not None, PATIENCE_S * 2, "no decoder stands by")


def aligning(scene: Scene) -> None:
    """Wait until an alignment runs."""
    since = max((t for t, _ in scene.reported("died")), default=0.0)
    scene.must(lambda: bool(scene.reported("aligning", since)), PATIENCE_S, "no alignment")


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a real signal."""
    assert pid is not None
    os.kill(pid, number)


def recordings(out: Path) -> list[Path]:
    """The recordings in ``out``."""
    return sorted(out.glob("recording-*.h5"))


def fill(folder: Path) -> None:
    """Write until the file system that holds ``folder`` is full to the last byte."""
    with (folder / "ballast").open("wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            if f.write(bytes(2**16)) == 0:
                break


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of its own; needs the right to mount."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def with_aligner(ground: Ground, over: str, hang_s: float = 120.0, **more: Any) -> LiveConfig:
    """A configuration that aligns all the time, with an aligner that counts as hung after ``hang_s`` seconds."""
    return ground.config(over, **ALIGNING, supervisor=PATIENT | {"aligner_heartbeat_s": hang_s}, **more)


PATIENT: dict[str, Any] = {"restarts": 100, "heartbeat_s": HANG_S, "back_off_s": 0.1}
"""The supervisor of the benchmark does not give up on processes that are killed on purpose."""

DECODER = {"decoder killed": decoder_killed, "decoder hangs": decoder_hung}
OTHERS = {"decoder and standby killed": decoders_killed, "recorder killed": recorder_killed}
