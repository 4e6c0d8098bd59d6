"""A recording decoded again, to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.errors import MismatchError
from bci_align.runtime.calls import Begin, Call, Hole, step_identity
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.recording import Recording
from bci_align.runtime.reports import dumps
from bci_align.runtime.tape import Op
from bci_align.streams.contract import Decoded, Flags


@dataclass
class Verified:
    """What decoding again came to.

    ``bins``, ``samples`` and ``decoders`` that were compared; ``swaps``, one line each; ``holes``, what could not be compared and
    why; ``unverified`` bins in there; ``difference``, the first one, or None where every byte is the same.
    """

    bins: int = 0
    samples: int = 0
    decoders: int = 0
    swaps: list[str] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)
    unverified: int = 0
    difference: str | None = None


def apply(loop: DecodeLoop, call: Call) -> Decoded | None:
    """Make a recorded call on ``loop``; gives the decoded sample, if there is one. A call that raised raises again."""
    a = call.argument
    if call.op == Op.BIN:
        return loop.on_bin(a)
    if call.op == Op.TICK:
        return loop.tick(a)
    if call.op == Op.EVENT:
        loop.on_event(a)
    elif call.op == Op.LINK:
        loop.on_link(a)
    elif call.op == Op.OFFER:
        loop.offer(*a)
    elif call.op in (Op.IDLE, Op.MALFORMED):
        getattr(loop, call.op.name.lower())(a)
    else:
        getattr(loop, call.op.name.lower())()
    return None


def build(begin: Begin, bundle: Bundle) -> DecodeLoop:
    """The loop that a recorded decoder began with; ``bundle`` steps it."""
    pipeline = bundle.pipeline()
    return DecodeLoop(
        pipeline,
        begin.read_in,
        begin.generation,
        begin.bin_s,
        scale=pipeline.scale,
        checks=begin.checks,
        safety=begin.safety,
        promotion=begin.promotion,
    )


def verify(path: Path, bundle: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Verified:
    """Feed every recorded call to a loop of its own and compare what comes out, bit for bit, up to the first difference.

    ``bundle`` is where the bundle lies now; None: where the recording says. :class:`MismatchError` if it is not the one.
    """
    found, loop = Verified(), None
    with Recording(path) as recording:
        bundles = Bundles(path, bundle)
        total = len(recording)
        for call in recording.calls():
            if isinstance(call, Hole):
                loop = None
                found.holes.append(_hole(call))
                continue
            if call.op == Op.BEGIN:
                loop = build(call.argument, bundles.of(call.argument))
                found.decoders += 1
                continue
            if loop is None:
                found.unverified += call.op == Op.BIN
                continue
            found.bins += call.op == Op.BIN
            found.difference = _check(loop, call, found)
            if found.difference is not None:
                return found
            if progress is not None and call.number % 500 == 0:
                progress(call.number, total)
    if not found.decoders and not found.holes:
        found.holes.append("the recording holds no decoder's beginning")
    return found


def _check(loop: DecodeLoop, call: Call, found: Verified) -> str | None:
    """Make one call and compare; a sentence on the difference, if there is one."""
    if call.op == Op.NEWS:
        news = json.loads(dumps({"news": loop.news()}))["news"]
        found.swaps += [f"generation {r['generation']} from bin {r['bin']} on" for r in call.argument if r["report"] == "swapped"]
        return None if dumps({"": news}) == dumps({"": call.argument}) else f"record {call.number}: other reports: {news}"
    try:
        gave, raised = apply(loop, call), False
    except Exception:  # whatever it was: a defect that was recorded must show itself again
        gave, raised = None, True
    where = f"bin {call.argument.seq}" if call.op == Op.BIN else f"record {call.number} ({call.op.name})"
    if raised != call.raised:
        return f"{where}: {'raised' if raised else 'did not raise'} an exception"
    found.samples += gave is not None
    return _difference(where, call.gave, gave)


def _difference(where: str, recorded: Decoded | None, now: Decoded | None) -> str | None:
    """The first field in which two samples differ by a bit."""
    if recorded is None or now is None:
        return None if recorded is now else f"{where}: gave {'nothing' if now is None else 'a sample'}"
    for name in ("seq_in", "generation", "flags", "t", "values"):
        a, b = np.atleast_1d(getattr(recorded, name)), np.atleast_1d(getattr(now, name))
        if a.tobytes() != b.tobytes():
            return f"{where}: {name}: recorded {_show(getattr(recorded, name))}, now {_show(getattr(now, name))}"
    return None


def _show(value: Any) -> str:
    if isinstance(value, Flags):
        return repr(value)
    return str(value.tolist()) if isinstance(value, np.ndarray) else repr(value)


def _hole(hole: Hole) -> str:
    what = "were missed by the recorder" if hole.why == "missed" else "are damaged"
    return f"{hole.records} records from number {hole.first} on {what}: what follows cannot be verified up to the next decoder"


class Bundles:
    """The bundles that a recording's decoders began with, loaded once each."""

    def __init__(self, recording: Path, given: Path | None) -> None:
        self._recording, self._given = recording, given
        self._loaded: dict[Path, Bundle] = {}

    def of(self, begin: Begin) -> Bundle:
        """The bundle whose step is the recorded one."""
        path = Path(begin.bundle) if self._given is None else self._given
        if path not in self._loaded:
            self._loaded[path] = load_bundle(path)
        bundle = self._loaded[path]
        if step_identity(bundle) != begin.step:
            raise MismatchError(
                f"{self._recording}: was decoded with bundle {begin.identity[:12]}... (then at {begin.bundle}), "
                f"found {bundle.identity[:12]}... at {path}, whose core or decoder is another"
            )
        return bundle
