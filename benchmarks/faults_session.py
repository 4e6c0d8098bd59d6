"""What is left of a scene in which everything went wrong: its recordings and its chain of decisions."""

from __future__ import annotations

from bci_align.errors import BciAlignError
from bci_align.runtime import audit
from bci_align.runtime.recording import Recording
from bci_align.streams.contract import Decoded, Flags
from benchmarks.faults_process import recordings
from benchmarks.judged import Found
from benchmarks.rigged import Scene


def recorded(scene: Scene) -> Found:
    """End the run: every sample that was ever heard is in its recordings, to the bit, and the decisions verify."""
    found = Found("all of it recorded", scene.over, "", how="every sample heard against the recordings", output="recorded")
    for order in ("freeze", "resume"):  # decisions, too
        scene.live.order(order)
    scene.wait(1.0)
    scene.live.stop()
    # Two decoders may have decoded one bin, the second when the first was taken for dead: either's bytes are what was published.
    written: dict[tuple[int, int], set[bytes]] = {}
    files = recordings(scene.out)
    found.expect(bool(files), "expected recordings")
    for path in files:
        try:
            with Recording(path) as recording:
                for call in recording.calls():
                    sample = getattr(call, "gave", None)
                    if sample is not None:
                        written.setdefault(_key(sample), set()).add(sample.values.tobytes())
        except BciAlignError as e:
            found.wrong.append(str(e))
    # Zero that is published while no loop decodes is no loop's, and so is on no tape.
    heard = [s for _, s in scene.heard(0.0) if not s.flags & (Flags.LOST | Flags.FAILED)]
    missing = [s for s in heard if _key(s) not in written]
    found.lost = len(missing)
    other = sum(_key(s) in written and s.values.tobytes() not in written[_key(s)] for s in heard)
    found.injected = f"all rows above; {len(heard)} samples in {len(files)} recordings"
    bins = {seq for seq, _ in written}
    told = ", ".join(
        f"bin {s.seq_in} ({s.flags!r}, {'at another time' if s.seq_in in bins else 'at no time'})" for s in missing[:5]
    )
    found.expect(found.lost == 0, f"expected every sample in a recording, found {found.lost} that are in none: {told}")
    found.expect(other == 0, f"expected the same bytes, found {other} samples with others")
    found.expect(len(heard) > 50, f"expected samples, found {len(heard)}")
    try:
        audit.verify(scene.out)
    except BciAlignError as e:
        found.wrong.append(str(e))
    return found


def _key(sample: Decoded) -> tuple[int, int]:
    """What tells a sample from every other: its bin and its time in microseconds (a transport may round to nanoseconds)."""
    return sample.seq_in, round(sample.t * 1e6)
