"""A bundle that is damaged: byte by byte on the disk, and under a running system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bci_align.bundle.store import load_bundle
from bci_align.errors import BundleError
from bci_align.streams.contract import Flags
from benchmarks.faults_process import kill, stand_by
from benchmarks.faults_rig import PATIENCE_S
from benchmarks.judged import Found, behaviour, seen
from benchmarks.rigged import Ground, Scene

POSITIONS = 40
"""Bytes of each file that are damaged, one after the other: the first, the last, and others at random."""


def damaged(bundle: Path, seed: int = 0, positions: int = POSITIONS) -> Iterator[tuple[str, BundleError | None]]:
    """Damage every file of ``bundle`` in every way, one at a time: what was done, and the error that loading it raised.

    One bit of a byte, the file cut short, a byte more, no file, a link in its place. The bundle is whole again afterwards.
    """
    rng = np.random.default_rng(seed)
    for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        at = {0, len(whole) - 1, *(int(i) for i in rng.integers(0, len(whole), positions))}
        for i in sorted(at):
            changed = bytearray(whole)
            changed[i] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            yield f"{path.name}: byte {i}", refusal(bundle)
        for cut in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            yield f"{path.name}: cut to {cut} bytes", refusal(bundle)
        path.write_bytes(whole + b"\0")
        yield f"{path.name}: a byte more", refusal(bundle)
        elsewhere = bundle.with_name("elsewhere")
        path.rename(elsewhere)
        yield f"{path.name}: missing", refusal(bundle)
        path.symlink_to(elsewhere)
        yield f"{path.name}: a link", refusal(bundle)
        path.unlink()
        elsewhere.rename(path)
        path.write_bytes(whole)


def refusal(bundle: Path) -> BundleError | None:
    """The sentence with which ``bundle`` is refused, or None where it loads. Any other exception passes through."""
    try:
        load_bundle(bundle)
    except BundleError as e:
        return e
    return None


def byte_by_byte(ground: Ground) -> Found:
    """Every damage is refused with a sentence that names the file."""
    found = Found("bundle damaged byte by byte", "-", "", output="never loads")
    copy = shutil.copytree(ground.bundle.path, ground.folder / "damaged")
    tried = 0
    for what, error in damaged(copy):
        tried += 1
        found.expect(error is not None, f"{what}: expected that it does not load")
        found.expect(error is None or str(copy) in str(error), f"{what}: expected a sentence with the file's name, found {error}")
        found.expect(error is None or "\n" not in str(error), f"{what}: expected one line, found {error}")
    found.injected = f"{tried} damages: a bit flipped, cut short, a byte more, missing, a link; in every file"
    found.how = "BundleError with the file's name"
    found.seen_s = 0.0
    found.expect(load_bundle(copy).identity == ground.bundle.identity, "expected that the bundle loads when it is whole again")
    shutil.rmtree(copy)
    return found


def in_a_run(scene: Scene) -> Found:
    """Both decoders die while the bundle on the disk is damaged: zero velocity, and said why."""
    found = Found("bundle damaged in a run", scene.over, "a bit of the bundle flipped, then SIGKILL to both decoders")
    stand_by(scene)
    core = Path(scene.config.bundle) / "core.onnx"
    whole = core.read_bytes()
    core.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        begin = scene.now()
        kill(scene.live.standby_pid)
        kill(scene.live.decoder_pid)
        scene.until(lambda: len([s for _, s in scene.heard(begin) if s.flags & Flags.FAILED]) > 20, 2 * PATIENCE_S)
        heard = scene.heard(begin)
        found.seen_s, found.how = seen(heard, Flags.FAILED, begin), "flag FAILED"
        found.expect(found.seen_s == found.seen_s, "expected flag FAILED")
        found.output = behaviour([s for _, s in heard if s.flags & Flags.FAILED])
        found.expect(found.output == "zero", f"expected zero, found {found.output}")
        said = [r["sentence"] for _, r in scene.reported("failed_closed", begin)]
        found.expect(len(said) == 1 and "core.onnx" in said[0], f"expected one sentence that names the file, found {said}")
    finally:
        core.write_bytes(whole)
    return found
