"""What a soak found, as rows: bins, chains, lateness, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row
from benchmarks.latency_control import Lateness
from benchmarks.latency_process import quantiles_ms
from benchmarks.latency_rig import Heard

SETTLED_S = 300.0
"""Memory is watched from here on: until then buffers fill for the first time."""
MOST_MB = 5.0
WINDOW_S = 300.0
"""Growth is between the lowest values of the first and the last stretch of this length: what an alignment takes while it runs is
no growth, however much of a stretch lies in one, and what is never given back shows in the lowest."""

KEPT = (
    "ready",
    "swapped",
    "committed",
    "rolled_back",
    "dropped",
    "verdict",
    "died",
    "link",
    "missed",
    "failed_closed",
    "ended",
    "fault_episode",
)
_MOST_KEPT = 2000

Report = dict[str, Any]


@dataclass
class Memory:
    """Resident megabytes of every process over time: ``at`` (seconds since the stream began), ``mb`` per name."""

    at: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at: float, found: Mapping[str, float]) -> None:
        """Note one look; a process that is not there is NaN."""
        for name in found:
            self.mb.setdefault(name, [float("nan")] * len(self.at))
        self.at.append(at)
        for name, values in self.mb.items():
            values.append(found.get(name, float("nan")))

    def growth(self) -> dict[str, float] | None:
        """Megabytes that each process grew by after :data:`SETTLED_S`; None for a run too short to tell."""
        at = np.array(self.at)
        later = at >= SETTLED_S
        if not later.any() or at[later][-1] - SETTLED_S < 60.0:
            return None
        length = min(WINDOW_S, (at[later][-1] - SETTLED_S) / 2)
        first, last = later & (at < SETTLED_S + length), at > at[-1] - length
        out = {}
        for name, values in self.mb.items():
            v = np.array(values)
            if np.isfinite(v[first]).any() and np.isfinite(v[last]).any():
                out[name] = float(np.nanmin(v[last]) - np.nanmin(v[first]))
        return out


@dataclass
class Told:
    """What the live system reported: how often each kind, and those that matter, whole."""

    kinds: Counter[str] = field(default_factory=Counter)
    kept: list[Report] = field(default_factory=list)
    aligning_s: float = 0.0
    """Seconds in which the aligner was aligning or judging."""
    _since: float | None = None

    def hear(self, reports: Sequence[Report], now: float) -> None:
        """Take in reports that came by ``now`` (seconds of ``time.monotonic``)."""
        for r in reports:
            kind = str(r["report"])
            self.kinds[kind] += 1
            if kind == "aligning":
                self._since = now
            elif self._since is not None and (kind == "verdict" or (kind == "died" and r["who"] == "aligner")):
                self.aligning_s, self._since = self.aligning_s + now - self._since, None
            if kind in KEPT and len(self.kept) < _MOST_KEPT:
                self.kept.append(r)

    def of(self, kind: str) -> list[Report]:
        """Kept reports of one kind."""
        return [r for r in self.kept if r["report"] == kind]

    def generations(self, bins: int) -> NDArray[np.int64]:
        """What must have decoded each bin (bins,), by the swaps that were reported."""
        out = np.zeros(bins, np.int64)
        changes = [(r["bin"], r["generation"]) for r in self.of("swapped")] + [
            (r["bin"], r["to"]) for r in self.of("rolled_back")
        ]
        for first, generation in sorted(changes):
            out[first:] = generation
        return out


@dataclass
class Found:
    """All of a soak."""

    heard: Heard
    told: Told
    control: Lateness
    memory: Memory
    status: Report
    bin_s: float
    swaps_wanted: int
    scheduler: str
    stale: int
    error: str | None = None
    recorded: int | None = None
    """Bins in the recording."""
    audit: str = ""
    """What verifying the audit log came to."""

    def lateness(self) -> tuple[int, int]:
        """Bins late, and those of them that a core's standing still explains."""
        h = self.heard
        late = np.flatnonzero(h.round_trip > self.bin_s)
        still = self.control.during(h.pushed[late], h.heard[late])
        return len(late), int((h.round_trip[late] - still <= self.bin_s).sum())

    def gaps(self) -> list[list[int]]:
        """First and last number of every run of bins that nothing came back for."""
        lost = np.flatnonzero((self.heard.answers == 0) & np.isfinite(self.heard.pushed))
        if not len(lost):
            return []
        runs = np.split(lost, np.flatnonzero(np.diff(lost) > 1) + 1)
        return [[int(r[0]), int(r[-1])] for r in runs]

    def figures(self) -> Report:
        """Everything in numbers, JSON-ready."""
        h = self.heard
        sent = int(np.isfinite(h.pushed).sum())
        late, machines = self.lateness()
        chains = h.chains(self.told.generations(sent))
        steps = np.diff(h.order)
        return {
            "bins": sent,
            "lost": int((h.answers[:sent] == 0).sum()),
            "repeated": int((h.answers > 1).sum()),
            "out_of_order": int((steps < 0).sum()),
            "gaps": self.gaps()[:100],
            "losses": int(h.losses),
            "chain_sent": chains[0],
            "chain_heard": chains[1],
            "late": late,
            "late_machine": machines,
            "round_trip_ms": quantiles_ms(h.round_trip[np.isfinite(h.round_trip)]),
            "rig_late_ms": quantiles_ms((h.pushed - h.due)[:sent]),
            "control_ms": self.control.summary(),
            "stages": self.status.get("latency", {}),
            "swaps": [r["bin"] for r in self.told.of("swapped")],
            "swap_round_trip_ms": [1e3 * float(h.round_trip[r["bin"]]) for r in self.told.of("swapped") if r["bin"] < sent],
            "dropped": [r["reason"] for r in self.told.of("dropped")],
            "rolled_back": [r["reason"] for r in self.told.of("rolled_back")],
            "died": [f"{r['who']}: {r['reason']}" for r in self.told.of("died")],
            "aligning_share": self.told.aligning_s / max(sent * self.bin_s, 1e-9),
            "faults": self.status.get("faults", {}),
            "stale_samples": self.stale,
            "reports": dict(self.told.kinds),
            "memory_growth_mb": self.memory.growth(),
            "memory_mb": {
                k: [round(v[0], 1), round(float(np.nanmax(v)), 1), round(v[-1], 1)] for k, v in self.memory.mb.items() if v
            },
            "recorded_bins": self.recorded,
            "audit": self.audit,
            "scheduler": self.scheduler,
            "error": self.error,
        }

    def rows(self, figures: Report, wanted: int) -> list[Row]:
        """Acceptance of a run of ``wanted`` bins or more."""
        f = figures
        fifo = "SCHED_FIFO" in self.scheduler
        late = f["late"] - f["late_machine"]
        rows = [
            Row("bins sent", str(f["bins"]), f">= {wanted}", f["bins"] >= wanted and self.error is None),
            Row("bins lost", str(f["lost"]), "0", f["lost"] == 0),
            Row("bins repeated", str(f["repeated"]), "0", f["repeated"] == 0),
            Row("samples out of order", str(f["out_of_order"]), "0", f["out_of_order"] == 0),
            Row(
                "chain over (seq, generation, t)",
                f["chain_heard"][:12],
                f["chain_sent"][:12],
                f["chain_heard"] == f["chain_sent"],
            ),
            Row(f"bins late, beside {f['late_machine']} of the machine's", str(late), "0, under FIFO", late == 0 and fifo),
            Row("swaps", str(len(f["swaps"])), f">= {self.swaps_wanted}", len(f["swaps"]) >= self.swaps_wanted),
            Row("processes that died", str(len(f["died"])), "0", not f["died"]),
            Row("bins in the recording", str(f["recorded_bins"]), str(f["bins"]), f["recorded_bins"] == f["bins"]),
            Row("audit log", f["audit"], "verified", f["audit"] == "verified"),
        ]
        growth = f["memory_growth_mb"]
        if growth:
            name = max(growth, key=lambda k: growth[k])
            rows.append(
                Row(f"memory after 5 minutes, MB ({name} grew most)", growth[name], f"< {MOST_MB:g}", growth[name] < MOST_MB)
            )
        return rows
