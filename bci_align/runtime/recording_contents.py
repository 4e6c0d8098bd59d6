"""What a recording of the live system holds, in numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bci_align.runtime.calls import Call, Hole
from bci_align.runtime.recording import Recording
from bci_align.runtime.tape import Op
from bci_align.streams.contract import END, Decoded, Flags

_DECISIONS = ("swapped", "committed", "rolled_back", "dropped", "frozen", "resumed")


def contents(path: Path) -> dict[str, Any]:
    """Read the recording in ``path`` through and count.

    ``bins`` that came and ``samples`` that went out; ``trials`` that ended, and how many of them well; ``decoders`` that began;
    ``decisions`` in order; ``flags``: samples that carried each; ``missing`` records of the tape. :class:`SessionError` for what
    is no recording.
    """
    with Recording(path) as recording:
        about = recording.about
        found = _Counted()
        for call in recording.calls():
            found.take(call)
    return {
        "kind": "recording of the live system",
        "started": about.started,
        "seconds": round(found.bins * about.bin_s, 3),
        "bin_s": about.bin_s,
        "channels": len(about.channels),
        "outputs": ", ".join(f"{name} ({unit})" for name, unit in zip(about.outputs, about.units, strict=True)),
        "bundle": about.bundle,
        "identity": about.identity,
        "versions": about.versions,
        "bins": found.bins,
        "samples": found.samples,
        "trials": found.trials,
        "successful_trials": found.successes,
        "decoders": found.decoders,
        "generations": sorted(found.generations),
        "decisions": found.decisions,
        "flags": dict(sorted(found.flags.items())),
        "missing": found.missing,
    }


class _Counted:
    def __init__(self) -> None:
        self.bins = self.samples = self.trials = self.successes = self.decoders = self.missing = 0
        self.generations: set[int] = set()
        self.decisions: list[dict[str, Any]] = []
        self.flags: Counter[str] = Counter()

    def take(self, call: Call | Hole) -> None:
        """Take in one call and what it gave."""
        if isinstance(call, Hole):
            self.missing += call.records
            return
        if call.op in (Op.BIN, Op.ODD):
            self.bins += 1
        elif call.op == Op.BEGIN:
            self.decoders += 1
        elif call.op == Op.EVENT and call.argument.name == END:
            self.trials += 1
            self.successes += bool(call.argument.value)
        elif call.op == Op.NEWS:
            kept = [r for r in call.argument if r.get("report") in _DECISIONS]
            self.decisions += [{k: r[k] for k in ("report", "generation", "bin", "reason") if k in r} for r in kept]
        if call.gave is not None:
            self._sample(call.gave)

    def _sample(self, sample: Decoded) -> None:
        self.samples += 1
        self.generations.add(sample.generation)
        self.flags.update(f.name or "" for f in Flags if sample.flags & f)
