"""Faults of the rig as a process: it stalls, is killed, comes back, or comes back as another."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

from bci_align.streams.contract import Flags
from benchmarks.judged import Found, account, behaviour, flags_of, recovered, seen
from benchmarks.rigged import Scene

STALLS_S = (0.5, 1.5)
AWAY_S = 1.0
LOSS_S = 1.0
"""Time in which the loss of a stream has to be seen."""

PATIENCE_S = 90.0
"""Longest wait for what a loaded machine takes its time for, such as the start of a process of the lowest priority."""

SHAPES: dict[str, dict[str, Any]] = {
    "another channel count": {"channels": 20},
    "another label": {"rename": 3},
    "another bin width": {"bin_s": 0.01},
}


def stalled(seconds: float) -> Callable[[Scene], Found]:
    """SIGSTOP the rig for ``seconds``, and let it go on.

    A sender that neither sends nor answers for some 0.9 s is taken for lost, as a machine without power would be: what it sends
    to the connection of before is lost with it, flagged and counted as a gap. Over LSL that is the stall's whole backlog, over
    ZeroMQ what was on its way.
    """

    def run(scene: Scene) -> Found:
        rig = scene.rig
        found = Found("rig stalls", scene.over, f"SIGSTOP to the rig for {seconds:g} s")
        first = len(rig.bins)
        begin = rig.kill(signal.SIGSTOP)
        scene.wait(seconds)
        end = rig.kill(signal.SIGCONT)
        recover(found, scene, end)
        see(found, scene, Flags.STALE, begin, scene.config.checks.stale_s + 0.1, "decayed", until=end)
        sent, heard = scene.answered(first, begin)
        account(found, sent, heard)
        if any(s.flags & Flags.LOST for _, s in heard):
            late = sum(b.at <= end + found.recovered_s for b in sent)
            found.expect(found.lost <= late, f"expected at most the {late} bins of the stall lost, found {found.lost}")
            found.expect(not found.lost or any(s.flags & Flags.GAP for _, s in heard), "expected that they are flagged as a gap")
            found.expect(found.repeated == 0, f"expected no bin answered twice, found {found.repeated}")
            found.how += ", then LOST"
        else:
            nothing_lost(found)
        return found

    return run


def killed(scene: Scene) -> Found:
    """SIGKILL the rig; a new one with the same streams comes after :data:`AWAY_S`."""
    found = Found("rig killed, restarted", scene.over, f"SIGKILL to the rig, back as it was after {AWAY_S:g} s")
    spare = scene.spare()
    begin = scene.rig.kill(signal.SIGKILL)
    scene.wait(AWAY_S)
    end = opened(scene, spare)
    recover(found, scene, end)
    see(found, scene, Flags.LOST | Flags.STALE, begin, LOSS_S, "decayed", until=end)
    found.expect(bool(sentences(scene, "lost", begin)), "expected the loss to be told")
    back = [r for _, r in scene.reported("link", begin) if r["state"] == "back"]
    found.expect(len(back) == 1 and back[0]["restarted"], "expected that a new sender is told of")
    since_connected(found, scene, end)
    return found


def reshaped(what: str) -> Callable[[Scene], Found]:
    """The rig's streams go and come back in one of :data:`SHAPES`, then as they were."""

    def run(scene: Scene) -> Found:
        rig = scene.rig
        found = Found(f"rig restarted: {what}", scene.over, f"streams withdrawn, back with {what}, then as they were")
        begin = closed(scene)
        shown = opened(scene, rig, **SHAPES[what])
        scene.until(lambda: any(s.flags & Flags.MISMATCH for _, s in scene.heard(shown)), PATIENCE_S)
        scene.wait(0.3)
        gone = closed(scene)
        end = opened(scene, rig)
        recover(found, scene, end)
        see(found, scene, Flags.MISMATCH, shown, 2 * LOSS_S, "zero", until=gone)
        said = sentences(scene, "mismatch", begin)
        found.expect(len(said) == 1, f"expected one sentence on the mismatch, found {len(said)}")
        found.how += "".join(f"; {s.rsplit(': ', 1)[-1]}" for s in said[:1])
        since_connected(found, scene, end)
        return found

    return run


def sentences(scene: Scene, fault: str, since: float) -> list[str]:
    """What the decoder said of episodes of ``fault``."""
    return [r["sentence"] for _, r in scene.reported("fault_episode", since) if r["fault"] == fault]


def closed(scene: Scene) -> float:
    """Have the rig withdraw its streams; when it had."""
    n = len(scene.rig.heard("closed"))
    scene.rig.order("close")
    scene.must(lambda: len(scene.rig.heard("closed")) > n, PATIENCE_S, "the rig did not withdraw its streams")
    return float(scene.rig.heard("closed")[-1]["at"])


def opened(scene: Scene, rig: Any, **shape: Any) -> float:
    """Have ``rig`` announce its streams, and let it be the scene's; when it had."""
    n = len(rig.heard("open"))
    if rig is not scene.rig:
        scene.rigs.append(rig)
    rig.order("open", **shape)
    scene.must(lambda: len(rig.heard("open")) > n, PATIENCE_S, "the rig did not announce its streams")
    return float(rig.heard("open")[-1]["at"])


def see(found: Found, scene: Scene, flag: Flags, begin: float, within_s: float, output: str, until: float) -> None:
    """Fill in when ``flag`` came after ``begin`` and what the output did under it before ``until``."""
    heard = scene.heard(begin)
    found.seen_s, found.how = seen(heard, flag, begin), f"flag {flag.name}"
    most = within_s + scene.slack_s
    found.expect(found.seen_s <= most, f"expected flag {flag.name} within {most:.2f} s, found {found.seen_s:.2f} s")
    found.output = behaviour([s for t, s in heard if s.flags & flag and t <= until])
    found.expect(found.output == output, f"expected that the output {output}, found {found.output}")


def recover(found: Found, scene: Scene, end: float, within_s: float = 2.0) -> None:
    """Wait for the stream to be well again after ``end``."""
    scene.until(lambda: not math.isnan(recovered(scene.heard(end), end)), PATIENCE_S)
    found.recovered_s = recovered(scene.heard(end), end)
    most = within_s + scene.slack_s
    flags = flags_of(scene.heard(end), end)
    found.expect(found.recovered_s <= most, f"expected to be well within {most:.2f} s, found {found.recovered_s:.2f} s ({flags})")


def since_connected(found: Found, scene: Scene, end: float) -> None:
    """Account for what the rig that is back has sent since it was heard: what it sent to nobody was never the decoder's."""
    sent, heard = scene.answered(next((i for i, b in enumerate(scene.rig.bins) if b.at >= end), 0), end)
    clean = [s.seq_in for _, s in heard if not s.flags & (Flags.STALE | Flags.LOST | Flags.MISMATCH)]
    account(found, [b for b in sent if b.at >= end and clean and b.seq >= clean[0]], heard)
    nothing_lost(found)


def nothing_lost(found: Found) -> None:
    """Every usable bin answered, and once."""
    found.expect(found.lost == 0, f"expected no bin lost, found {found.lost}")
    found.expect(found.repeated == 0, f"expected no bin answered twice, found {found.repeated}")


ROWS: dict[str, Callable[[Scene], Found]] = {
    **{f"rig stalls for {seconds:g} s": stalled(seconds) for seconds in STALLS_S},
    "rig killed and restarted": killed,
    **{f"rig restarted with {what}": reshaped(what) for what in SHAPES},
}
