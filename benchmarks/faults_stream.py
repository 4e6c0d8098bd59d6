"""Faults of the stream, injected into a running scene one after the other: what each is, and what has to come of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bci_align.config import LiveConfig
from bci_align.streams.contract import Flags
from benchmarks.judged import STEADY, Found, account, behaviour, flags_of, recovered, seen
from benchmarks.rigged import BIN_S, Scene, Sent

LEAD = 5
"""Bins between an order to the rig and the fault."""

PATIENCE_S = 15.0

CHECKS: dict[str, dict[str, Any]] = {
    "lsl": {},
    "zmq": {"non_finite": "zero", "negative": "decay", "implausible": "fill", "gap": "fill"},
}
"""Policies of the two scenes: one keeps the defaults, the other takes those that the defaults do not."""

OUTPUT = {"hold": "went on", "fill": "went on", "zero": "zero", "decay": "decayed"}
"""What each policy makes of the output."""


@dataclass(frozen=True)
class Case:
    """One fault and what is expected of it.

    ``flag`` on a sample within ``within`` bins of its beginning, the output as the policy of ``check`` says, all well again
    ``back`` bins after its end, and every bin answered but ``left_out`` of them. ``channels`` by rank: 0 fires most.
    """

    name: str
    kind: str
    bins: int
    flag: Flags
    within: float
    check: str = ""
    channels: tuple[int, ...] = ()
    value: float | None = None
    left_out: int = 0
    back: float = 3.0

    def sentence(self) -> str:
        """What is injected."""
        n, c = self.bins, len(self.channels)
        where = f" on {c} of 24 channels" if c else ""
        return {
            "drop": f"{n} bins never sent",
            "delay": f"{n} bins held back and sent together",
            "duplicate": f"{n} bins sent twice",
            "reorder": f"{n} bins in reverse order",
            "silence": f"nothing sent for {n * BIN_S:g} s",
            "renumber": "the sender's count starts at 0 again",
            "clock_step": f"the sender's clock steps by {self.value or 0:+g} s",
            "fast": f"{n} bins at {self.value or 0:g} times real time",
            "non_finite": f"NaN and infinities{where}, {n} bins",
            "negative": f"negative counts{where}, {n} bins",
            "absurd": f"{self.value or 0:g} spikes a bin{where}, {n} bins",
            "dead": f"electrodes lost{where}, {n * BIN_S:g} s",
            "saturated": f"one and the same count{where}, {n * BIN_S:g} s",
            "flood": f"400 spikes more on every channel, {n} bins",
            "malformed": f"{n} messages that nobody can read",
        }[self.kind]


SILENT_S = 0.5
SATURATED_BINS = 25

CASES = (
    Case("bins dropped", "drop", 3, Flags.GAP, 4, "gap"),
    Case("bins delayed", "delay", 5, Flags.LATE, 6, "late"),
    Case("bins duplicated", "duplicate", 3, Flags.DUPLICATE, 2),
    Case("bins out of order", "reorder", 3, Flags.OUT_OF_ORDER, 5, left_out=2),
    Case("clock steps forwards", "clock_step", 0, Flags.TIME_JUMP, 1, "time_jump", value=5.0),
    Case("clock steps backwards", "clock_step", 0, Flags.TIME_JUMP, 1, "time_jump", value=-3.0),
    Case("count starts anew", "renumber", 0, Flags.RESTARTED, 5, left_out=4, back=7),
    Case("not finite", "non_finite", 20, Flags.NON_FINITE, 1, "non_finite", (0, 7, 11)),
    Case("negative", "negative", 20, Flags.NEGATIVE, 1, "negative", (0, 7, 11)),
    Case("absurd counts", "absurd", 20, Flags.IMPLAUSIBLE, 1, "implausible", (3,), 1e7),
    Case("flood of counts", "flood", 20, Flags.IMPLAUSIBLE, 1, "implausible"),
    Case("electrodes lost", "dead", 100, Flags.SILENT, 70, "silent", (0, 1, 2)),
    Case("saturated", "saturated", 50, Flags.SATURATED, SATURATED_BINS + 1, "saturated", (2, 9), 9.0),
    Case("flood of bins", "fast", 100, Flags.NONE, 0, value=10.0),
    Case("goes silent", "silence", 30, Flags.STALE, 7, "stale"),
    Case("malformed messages", "malformed", 16, Flags.MALFORMED, 2),
)


def config_of(scene_config: LiveConfig) -> LiveConfig:
    """``scene_config`` with the checks of its transport, quick enough for a row of seconds."""
    checks = {"silent_s": SILENT_S, "saturated_bins": SATURATED_BINS} | CHECKS[scene_config.source.kind]
    return LiveConfig.model_validate(scene_config.model_dump() | {"checks": checks})


def run(case: Case, scene: Scene) -> Found:
    """Inject ``case`` into ``scene``, whose stream is well, and see what comes of it."""
    rig, over = scene.rig, scene.config.source.kind
    found = Found(case.name, over, case.sentence())
    orders = len(rig.heard("fault"))
    fields = {"kind": case.kind, "in": LEAD, "bins": case.bins, "channels": scene.channels(case.channels), "value": case.value}
    rig.order("fault", **fields)
    scene.must(lambda: len(rig.heard("fault")) > orders, PATIENCE_S, "the rig took no order")
    first = int(rig.heard("fault")[-1]["index"]) + LEAD
    absent = case.kind in ("drop", "silence")

    def past() -> int | None:
        """Position of the first bin after the fault."""
        if absent:
            return first if len(rig.bins) > first else None
        if not case.bins:
            return first + 1 if len(rig.bins) > first + 1 else None
        return next((i for i in range(first + 1, len(rig.bins)) if case.kind not in rig.bins[i].kinds), None)

    rest = math.ceil(case.back) + STEADY + LEAD
    scene.must(lambda: (p := past()) is not None and len(rig.bins) > p + rest, PATIENCE_S, "the rig did not get past its fault")
    after = past()
    assert after is not None
    sent: list[Sent] = rig.bins[first : after + rest]
    expected_late = absent or case.kind in ("delay", "reorder")
    begin = rig.bins[first - 1].at + BIN_S if expected_late else rig.bins[first].at
    end = rig.bins[after].at if case.bins else begin
    scene.until(lambda: any(s.seq_in >= sent[-1].seq for _, s in scene.heard(begin)), 2.0)
    scene.until(lambda: not math.isnan(recovered(scene.heard(end), end)), PATIENCE_S)
    heard = scene.heard(begin)
    if case.flag:
        found.seen_s, found.how = seen(heard, case.flag, begin), f"flag {_name(heard, case.flag)}"
        most = case.within * BIN_S + scene.slack_s
        found.expect(found.seen_s <= most, f"expected flag {case.flag.name} within {most:.2f} s, found {found.seen_s:.2f} s")
    during = [s for _, s in heard if s.flags & case.flag] if case.flag else [s for t, s in heard if t <= end]
    found.output = behaviour(during)
    policy = getattr(scene.config.checks, case.check) if case.check else "hold"
    found.expect(found.output == OUTPUT[policy] or len(during) == 1, f"expected that the output {OUTPUT[policy]}")
    found.expect(found.output not in ("none", "NOT FINITE"), f"expected finite samples during the fault, found {found.output}")
    found.recovered_s = recovered(heard, end)
    most = case.back * BIN_S + scene.slack_s
    found.expect(
        found.recovered_s <= most,
        f"expected to be well {most:.2f} s after the fault, found {found.recovered_s:.2f} s ({flags_of(heard, end)})",
    )
    account(found, sent, heard)
    found.expect(found.lost <= case.left_out, f"expected at most {case.left_out} bins left out, found {found.lost}")
    found.expect(found.repeated == 0, f"expected no bin answered twice, found {found.repeated}")
    return found


def _name(heard: Any, flag: Flags) -> str:
    """The names of those bits of ``flag`` that were there."""
    bits = Flags.NONE
    for _, s in heard:
        bits |= s.flags & flag
    return (bits or flag).name or str(int(flag))
