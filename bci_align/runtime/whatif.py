"""A recording decoded again by another bundle or under other settings: what would have been decoded and decided."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import MismatchError
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.calls import Begin, Call, Hole
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.realign import Realigner
from bci_align.runtime.recording import Recording
from bci_align.runtime.reports import Report
from bci_align.runtime.rerun import Bundles, apply, build
from bci_align.runtime.tape import Op
from bci_align.streams.contract import Decoded, Flags

DECISIONS = ("shadow", "swapped", "committed", "rolled_back", "dropped")
"""Reports of the loop that are decisions on a generation."""

_VERDICT = ("generation", "trials", "reason", "checks")

_CATCH_UP = 16
"""Steps between two bins for a candidate that the recording has no idle calls for: live, some four calls of four steps."""

_ALONE = 3
"""Bins in a row without an idle call that say that nobody followed the leader when it was recorded."""


@dataclass
class Rerun:
    """Two decodings of the same bins, row by row: ``seq`` (n,), ``before`` and ``after`` (n, K), ``generations``, ``flags``.

    ``decisions`` are those of the recording and of the rerun; ``notes`` say what the comparison does not hold.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    bin_s: float
    seq: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    generations: tuple[NDArray[np.int64], NDArray[np.int64]]
    flags: tuple[NDArray[np.int64], NDArray[np.int64]]
    decisions: tuple[list[Report], list[Report]]
    notes: list[str]


def rerun(
    path: Path,
    bundle: Bundle | None,
    config: LiveConfig | None,
    progress: Callable[[int, int], None] | None = None,
    methods: Methods | None = None,
    where: Path | None = None,
) -> Rerun:
    """Decode a recording by another ``bundle`` (None: the recorded one) under another ``config`` (None: the recorded one).

    With another bundle the recorded candidates, which were made for the old one, are left out. With ``methods`` they are, too,
    and the recorded trials are aligned on and judged again as ``config`` says. ``where`` the recorded bundle lies now, if not
    where the recording says.
    """
    loop, rows, alone = None, _Rows(bundle is not None or methods is not None), 0
    notes: list[str] = []
    with Recording(path) as recording:
        bundles, total = Bundles(path, where), len(recording)
        if bundle is not None:
            check_shape(recording, bundle)
        for call in recording.calls():
            if isinstance(call, Hole):
                notes.append(f"{call.records} records from number {call.first} on are missing")
                rows.missed()
            elif call.op == Op.BEGIN:
                used = bundle or bundles.of(call.argument)
                loop = build(_changed(call.argument, bundle, config), used)
                if methods is not None and config is not None and rows.realigner is None:
                    rows.realigner = Realigner(used, config, methods, lambda done, of: None)
            elif loop is not None:
                alone = 0 if call.op in (Op.IDLE, Op.OFFER, Op.ROLLBACK) else alone + (call.op == Op.BIN)
                if call.op == Op.BIN and alone > _ALONE:
                    loop.idle(_CATCH_UP)
                rows.take(loop, call)
                if progress is not None and call.number % 500 == 0:
                    progress(call.number, total)
        about = recording.about
        gate = [e for e in map(json.loads, recording.audit().splitlines()) if e["decision"] in ("accepted", "refused")]
    if loop is None:
        notes.append("the recording holds no decoder's beginning, so that nothing could be decoded again")
    if rows.left_out:
        notes.append(
            f"{rows.left_out} candidates of the recording were left out: they were made for another bundle or other settings"
        )
    if rows.realigner is not None:
        notes.append("aligning took no time here: a candidate is there right behind its last trial, live it came later")
        rows.decisions[0][:0] = [{"report": e["decision"]} | {k: e.get(k) for k in _VERDICT} for e in gate]
        rows.decisions[1][:0] = rows.realigner.verdicts
    return rows.result(about.outputs, about.units, about.bin_s, notes)


def check_shape(recording: Recording, bundle: Bundle) -> None:
    """Refuse a bundle for other channels, outputs or bins; :class:`MismatchError`."""
    a, m = recording.about, bundle.manifest
    for what, expected, found in (
        ("channels", a.channels, m.channels), ("outputs", a.outputs, m.outputs), ("bin width", a.bin_s, m.bin_s)
    ):  # fmt: skip
        if expected != found:
            raise MismatchError(f"{bundle.path}: does not fit {recording.path}: {what}: expected {expected}, found {found}")


def _changed(begin: Begin, bundle: Bundle | None, config: LiveConfig | None) -> Begin:
    """``begin`` with what is asked for in the place of what was."""
    own = begin.__dict__
    if config is not None:
        own = own | {"checks": config.checks, "safety": config.safety, "promotion": config.promotion}
    if bundle is not None:
        own = own | {"read_in": bundle.read_in, "generation": bundle.manifest.generation}
    return Begin(**own)


class _Rows:
    """Collects two decodings of the same calls; ``anew``: without the recorded candidates."""

    def __init__(self, anew: bool) -> None:
        self._anew = anew
        self._pairs: list[tuple[Decoded, Decoded]] = []
        self.decisions: tuple[list[Report], list[Report]] = ([], [])
        self.realigner: Realigner | None = None
        self.alone: Counter[str] = Counter()
        self.left_out = 0

    def take(self, loop: DecodeLoop, call: Call) -> None:
        """Make one call, and offer what aligning on it gave."""
        if call.op == Op.NEWS:
            self.decisions[0].extend(r for r in call.argument if r["report"] in DECISIONS)
            return
        if self._anew and call.op == Op.OFFER:
            self.left_out += 1
            return
        gave = None if call.raised else apply(loop, call)
        if call.gave is not None and gave is not None:
            self._pairs.append((call.gave, gave))
        elif call.gave is not None or gave is not None:
            self.alone["recorded" if gave is None else "now"] += 1
        if self.realigner is not None:
            usable = call.op == Op.EVENT or (call.op == Op.BIN and gave is not None and not gave.flags & Flags.BAD_COUNTS)
            if usable and (offer := self.realigner.take(call.argument)) is not None:
                loop.offer(*offer)
        for report in loop.news():
            if report["report"] in DECISIONS:
                self.decisions[1].append(report)
            if self.realigner is not None:
                self.realigner.hear(report)

    def missed(self) -> None:
        """Calls are missing here."""
        if self.realigner is not None:
            self.realigner.missed()

    def result(self, names: tuple[str, ...], units: tuple[str, ...], bin_s: float, notes: list[str]) -> Rerun:
        """All of it as arrays."""
        for who, n in self.alone.items():
            notes.append(f"{n} samples came only {'in the recording' if who == 'recorded' else 'now'}")

        def column(which: int, name: str, dtype: type = np.int64) -> NDArray[Any]:
            shape = (len(self._pairs), len(names)) if name == "values" else (len(self._pairs),)
            return np.array([getattr(p[which], name) for p in self._pairs], dtype).reshape(shape)

        return Rerun(
            names, units, bin_s, column(0, "seq_in"), column(0, "values", np.float64), column(1, "values", np.float64),
            (column(0, "generation"), column(1, "generation")), (column(0, "flags"), column(1, "flags")),
            self.decisions, notes,
        )  # fmt: skip


def summary(r: Rerun) -> dict[str, Any]:
    """Numbers of a rerun: per output the RMS difference and the correlation, whole and per recorded generation."""
    parts = {"all": np.ones(len(r.seq), bool)} | {f"generation {g}": r.generations[0] == g for g in np.unique(r.generations[0])}
    return {
        "samples": len(r.seq),
        "identical": int((r.before.view(np.int64) == r.after.view(np.int64)).all(axis=1).sum()),
        "velocity": {name: _compare(r, rows) for name, rows in parts.items()},
        "flags_differ": int((r.flags[0] != r.flags[1]).sum()),
        "decisions": {"recorded": r.decisions[0], "now": r.decisions[1]},
        "notes": r.notes,
    }


def _compare(r: Rerun, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """RMS difference (units of the output) and correlation (None where one of them does not move) of every output."""
    a, b = r.before[rows], r.after[rows]
    found: dict[str, Any] = {"samples": int(rows.sum())}
    for k, name in enumerate(r.names):
        x, y = a[:, k], b[:, k]
        moves = len(x) > 1 and x.std() > 0 and y.std() > 0
        rms = float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else 0.0
        found[name] = {"rms_difference": rms, "correlation": float(np.corrcoef(x, y)[0, 1]) if moves else None}
    return found
