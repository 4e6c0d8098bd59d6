"""One live run between a real rig and the real system: decoder, recorder, aligner, standby, each in its process.

What is real: the outlets and sockets, the simulated subject's bins and trials, every process of the live system with the tape and
the recording, ERDiff alignment itself. What is not: the bundle is untrained (only time counts), and the alignment never ends: it
aligns to the bundle's own source trials, again and again, so that the aligner is busy in every bin that counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.alignment.erdiff import align
from bci_align.alignment.gate import Verdict
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig, LiveConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime.aligner_process import Methods
from bci_align.runtime.latency import STAGES, Counts, quantile
from bci_align.runtime.live import LiveSystem
from bci_align.runtime.replay import _free_ports
from bci_align.session.types import UnlabelledTrials
from bci_align.streams.contract import END
from benchmarks import latency_rig as rig
from benchmarks.latency_control import Control, Lateness
from benchmarks.latency_days import days
from benchmarks.latency_process import Helper, quantiles_ms

Report = dict[str, Any]

TRIALS = 2
"""Calibration trials before the endless alignment: the fewest that there can be."""
LEAD_S, SETTLE_S = 1.0, 1.0
"""Stream before the bins that count: until all is warm; from the alignment's beginning on."""
BEGIN_S = 60.0
"""Longest stream until the aligner has its trials and has begun."""
READY_S = 90.0


def endless(
    bundle: Bundle, trials: UnlabelledTrials, config: AlignConfig, seed: int, progress: Callable[[int, int], None] | None
) -> Any:
    """Align for ever; ``progress`` ends it when the run does."""
    while True:
        align(bundle, bundle.source_trials(), config, seed, progress)
        seed += 1


def accept(*args: Any) -> Verdict:
    """Accept, without looking."""
    return Verdict(True, "accepted without being judged", ())


@dataclass(frozen=True)
class Condition:
    """What a run is about; ``bins`` that count."""

    kind: str
    channels: int
    bin_s: float
    bins: int
    real_time: bool
    aligning: bool


@dataclass
class Found:
    """What a run gave: what the rig ``heard``, the first bin that counts, seconds per stage (histograms), ``control``.

    The stages' bins are those that count but for a few at either end, where the histograms were looked at.
    """

    condition: Condition
    heard: rig.Heard
    first: int
    stages: dict[str, Counts]
    control: Lateness
    scheduler: str
    reports: list[Report] = field(repr=False)

    def counted(self) -> slice:
        """Bins that count."""
        return slice(self.first, self.first + self.condition.bins)

    def stage_ms(self, stage: str) -> dict[str, float]:
        """Quantiles of one stage in milliseconds, to 3 %."""
        counts = self.stages[stage]
        return {k: 1e3 * quantile(counts, q) for k, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))}

    def trip_ms(self) -> dict[str, float]:
        """Quantiles of the round trip in milliseconds, of the bins that were answered."""
        trip = self.heard.round_trip[self.counted()]
        return quantiles_ms(trip[np.isfinite(trip)])

    def lost(self) -> int:
        """Bins that nothing came back for."""
        return int((self.heard.answers[self.counted()] == 0).sum())

    def late(self) -> tuple[int, int]:
        """Bins answered more than a bin's width after their push, and those of them that a core's standing still explains.

        It explains one whose lateness less the control's worst in that time is within a bin.
        """
        h, at, width = self.heard, self.counted(), self.condition.bin_s
        trip = h.round_trip[at]
        late = np.flatnonzero(trip > width)
        still = self.control.during(h.pushed[at][late], h.heard[at][late])
        return len(late), int((trip[late] - still <= width).sum())


def config_of(bundle: Bundle, kind: str, out: Path, real_time: bool, **more: Any) -> LiveConfig:
    """A live configuration on streams and ports of its own."""
    me = uuid.uuid4().hex[:8]
    ports = _free_ports(2)
    return LiveConfig.model_validate(
        {
            "bundle": str(bundle.path),
            "source": {"kind": kind, "stream": f"counts-{me}", "markers": f"events-{me}", "address": ports[0]},
            "sink": {"kind": kind, "stream": f"velocity-{me}", "address": ports[1]},
            "out": str(out),
            "control": {"address": None},
            "supervisor": {"real_time": real_time},
        }
        | more
    )


def _stages(live: LiveSystem) -> list[Counts]:
    """Every stage's histogram so far, straight from the shared memory: a run's own summary is over all of it."""
    latency = live._open().latency
    return [latency.counts(i) for i in range(len(STAGES))]


def run(condition: Condition, bundle: Bundle, folder: Path) -> Found:
    """Run one condition; raises what the live system raises."""
    return in_turn([condition], bundle, folder)[0]


def in_turn(conditions: Sequence[Condition], bundle: Bundle, folder: Path) -> list[Found]:
    """Run conditions that differ in their bins and the alignment alone on one live system: idle first, if both are asked for."""
    c, idle = conditions[0], [c for c in conditions if not c.aligning]
    lead = round(LEAD_S / c.bin_s)
    quiet = lead + sum(i.bins for i in idle)
    config = config_of(bundle, c.kind, folder / f"live-{uuid.uuid4().hex[:6]}", c.real_time, **_recalibration(conditions, quiet))
    most = quiet + sum(a.bins + round((BEGIN_S + SETTLE_S) / a.bin_s) for a in conditions if a.aligning)
    plan = rig.Plan(config.source, config.sink, c.channels, c.bin_s, most, str(folder / "rig.npz"), drifted=False)
    reports: list[Report] = []
    turns = _Turns(conditions, lead)
    control = Control(c.real_time, folder)
    try:
        with Helper("rig", rig.run, plan) as player:
            player.wait("open", READY_S)
            with LiveSystem(config, Methods(endless, accept)) as live:
                live.wait_ready(READY_S)
                control.wait_ready()
                while not (told := player.hear(0.0)) or "connected" not in told:
                    reports += live.poll(0.1)
                player.tell()
                message = None
                while message is None or "done" not in message:
                    new = live.poll(0.1)
                    reports += new
                    message = player.hear(0.0)
                    if turns.look(live, any(r["report"] == "aligning" for r in new)) and quiet < most:
                        player.tell()  # it would play until an alignment that begins late had its bins
                turns.end(live)
                lateness = control.stop()
                reports += live.stop()
            player.tell()
    finally:
        control.end()
    ready = next(r["scheduler"] for r in reports if r["report"] == "ready" and r["from"] == "decoder")
    heard = rig.Heard.load(plan.out)
    found = []
    for t in turns.done:
        between = lateness.between(heard.pushed[t.first], heard.pushed[t.first + t.condition.bins - 1])
        stages = {name: t.after[i] - t.before[i] for i, name in enumerate(STAGES)}
        found.append(Found(t.condition, heard, t.first, stages, between, ready, reports))
    return found


def _recalibration(conditions: Sequence[Condition], quiet: int) -> Report:
    """Settings by which the alignment begins after the first ``quiet`` bins, or never."""
    c = conditions[-1]
    if not c.aligning:
        return {"recalibrations": 1, "calibration_trials": 10**6}
    trials = TRIALS
    if len(conditions) > 1:  # one more than are rewarded by then, and for a second more
        played = rig.items(days(0, c.channels, c.bin_s)[0], quiet + round(1.0 / c.bin_s))
        trials = max(TRIALS, 1 + sum(e.name == END and bool(e.value) for events, _ in played for e in events))
    few = {"gate": {"min_trials": 1}, "align": {"min_trials": TRIALS, "refine_from": TRIALS}}
    return {"calibration_trials": trials} | few


@dataclass
class _Turn:
    """One condition's part of a run: its ``first`` bin, and the stages' histograms at its ends."""

    condition: Condition
    first: int
    before: list[Counts]
    after: list[Counts] = field(default_factory=list)


class _Turns:
    """Tells when each condition's bins begin and end."""

    def __init__(self, conditions: Sequence[Condition], lead: int) -> None:
        self._waiting, self._lead = list(conditions), lead
        self._begins: int | None = None
        self._now: _Turn | None = None
        self.done: list[_Turn] = []

    def look(self, live: LiveSystem, begun: bool) -> bool:
        """Look how far the decoder is, and note whether the alignment has ``begun``; whether the last turn has just ended."""
        decoded = live.decoded()
        if begun and self._begins is None:
            if self._now is not None:
                raise RuntimeFault(f"the alignment began by bin {decoded}, before the bins without one were over")
            self._begins = decoded + round(SETTLE_S / self._waiting[0].bin_s)
        if self._now is not None and decoded >= self._now.first + self._now.condition.bins:
            self._end(live)
            return not self._waiting
        if self._now is None and self._waiting:
            first = self._begins if self._waiting[0].aligning else self._lead
            if first is not None and decoded >= first:
                self._now = _Turn(self._waiting.pop(0), first, _stages(live))
        return False

    def end(self, live: LiveSystem) -> None:
        """The rig has ended; :class:`RuntimeFault` where bins are missing that were to count."""
        if self._now is not None and not self._waiting:
            self._end(live)
        if self._waiting:
            what = "the alignment had begun" if self._waiting[0].aligning else f"bin {self._lead}"
            raise RuntimeFault(f"the live run ended at bin {live.decoded()}, before {what}")

    def _end(self, live: LiveSystem) -> None:
        assert self._now is not None
        self._now.after = _stages(live)
        self.done.append(self._now)
        self._now = None
