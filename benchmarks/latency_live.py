"""One live run between a real rig and the real system: decoder, recorder, aligner, standby, each in its process.

What is real: the outlets and sockets, the simulated subject's bins and trials, every process of the live system with the tape and
the recording, ERDiff alignment itself. What is not: the bundle is untrained (only time counts), and the alignment never ends: it
aligns to the bundle's own source trials, again and again, so that the aligner is busy in every bin that counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
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
from benchmarks import latency_rig as rig
from benchmarks.latency_control import Control, Lateness
from benchmarks.latency_process import Helper

Report = dict[str, Any]

TRIALS = 2
"""Calibration trials before the endless alignment: the fewest that there can be."""
LEAD_S, LEAD_ALIGNING_S = 1.0, 15.0
"""Stream before the bins that count: until all is warm; until the aligner has its trials and has begun."""
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
    """What a run gave: what the rig ``heard``, the first bin that counts, seconds per stage (histograms), ``control``."""

    condition: Condition
    heard: rig.Heard
    first: int
    stages: dict[str, Counts]
    control: Lateness
    scheduler: str
    reports: list[Report] = field(repr=False)

    def counted(self) -> slice:
        """Bins that count."""
        return slice(self.first, None)

    def stage_ms(self, stage: str) -> dict[str, float]:
        """Quantiles of one stage in milliseconds, to 3 %."""
        counts = self.stages[stage]
        return {k: 1e3 * quantile(counts, q) for k, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))}

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
    """Run it; raises what the live system raises."""
    c = condition
    never = {"recalibrations": 1, "calibration_trials": 10**6}
    begin = {"calibration_trials": TRIALS, "gate": {"min_trials": 1}, "align": {"min_trials": TRIALS, "refine_from": TRIALS}}
    config = config_of(bundle, c.kind, folder / f"live-{uuid.uuid4().hex[:6]}", c.real_time, **(begin if c.aligning else never))
    lead = round((LEAD_ALIGNING_S if c.aligning else LEAD_S) / c.bin_s)
    plan = rig.Plan(config.source, config.sink, c.channels, c.bin_s, lead + c.bins, str(folder / "rig.npz"), drifted=False)
    reports: list[Report] = []
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
                before, message = None, None
                while message is None or "done" not in message:
                    reports += live.poll(0.1)
                    message = player.hear(0.0)
                    if before is None and live.decoded() >= lead:
                        before = _stages(live)
                after = _stages(live)
                lateness = control.stop()
                reports += live.stop()
            player.tell()
    finally:
        control.end()
    if before is None:
        raise RuntimeFault(f"the live run ended before bin {lead}, from which on it counts")
    if c.aligning and not any(r["report"] == "aligning" for r in reports):
        raise RuntimeFault(f"the aligner did not begin within {LEAD_ALIGNING_S:g} s")
    stages = {name: after[i] - before[i] for i, name in enumerate(STAGES)}
    ready = next(r["scheduler"] for r in reports if r["report"] == "ready" and r["from"] == "decoder")
    heard = rig.Heard.load(plan.out)
    return Found(c, heard, lead, stages, lateness.between(heard.pushed[lead], heard.pushed[-1]), ready, reports)
