"""From an accepted candidate to a committed generation, or back: who leads, who follows, and what makes that change.

====================  ==================================================================================================
state                 moves on
====================  ==================================================================================================
COLLECT, ALIGN, GATE  the aligner's: trials are collected, a candidate is made, the gate judges it
SHADOW                from :meth:`Promoter.offer` on. The candidate catches up (``warm``), then decodes ``shadow_bins`` live bins
                      beside the incumbent. All within bounds: PROMOTE. Else, or at the first number that is not finite, or
                      when a newer candidate comes: REFUSE (``dropped``)
PROMOTE               passed; leads from the first bin between two trials, once the order ``promote`` is there
                      (``automatic``: at once) and no earlier generation is on probation (``swapped``): PROBATION
PROBATION             the generation before is stepped beside. ``probation_bins`` within bounds, looked at every :data:`LOOK`
                      bins: COMMIT. Out of bounds, or the order ``rollback``: ROLLBACK between two trials. A number that is
                      not finite or a wild jump: ROLLBACK with the next bin
COMMIT                stays until the next offer. The order ``rollback`` warms the generation before on the last
                      :data:`~bci_align.runtime.slots.HISTORY` bins and brings it back between two trials, as long as it is held
ROLLBACK              the generation before leads again; candidates that came after the one taken back are dropped, for they
                      were made from it
REFUSE                stays until the next offer
====================  ==================================================================================================
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Any

from bci_align.config import PromotionConfig
from bci_align.runtime.shadow import Check, Comparison, verdict
from bci_align.runtime.slots import HISTORY, Floats, Follower, Seen, Slot, Stepper
from bci_align.streams.contract import Flags

LOOK = 100
"""Bins of probation between two looks at its statistics."""

_MOST_WAIT = 8
"""Bins that the old generation may lie behind while the output moves on from it: a live bin waits for no more steps."""


class Promotion(StrEnum):
    """Where a recalibration stands."""

    COLLECT = "collect"
    ALIGN = "align"
    GATE = "gate"
    SHADOW = "shadow"
    PROMOTE = "promote"
    PROBATION = "probation"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    REFUSE = "refuse"


class Promoter:
    """Holds the generations of a decode loop. ``slots`` are two, ``live`` says which one leads; the other is the one before.

    Parameters
    ----------
    pipeline
        Steps every generation.
    slot
        What leads from the first bin.
    scale
        (K,) source-day standard deviation of the outputs.
    config
        Lengths and bounds.
    """

    def __init__(self, pipeline: Stepper, slot: Slot, scale: Floats, config: PromotionConfig) -> None:
        self._pipeline, self._scale, self._config = pipeline, scale, config
        self.slots: list[Slot | None] = [slot, None]
        self.live, self.leader = 0, slot
        self._rest = Promotion.COLLECT
        self._history: deque[Seen] = deque(maxlen=HISTORY)
        self._candidate: Follower | None = None
        self._shadow: Comparison | None = None
        self._passed = self._ordered = False
        self._beside: Follower | None = None
        """The generation before: on probation's other side, on its way back, or what the output moves away from."""
        self._probation: Comparison | None = None
        self._back: tuple[str, bool] | None = None
        """Why the generation before shall lead again, and whether at once."""
        self.fade = 0  # bins for which the output is still on its way to the leader's
        self._last: Floats | None = None
        self._news: list[dict[str, Any]] = []

    @property
    def state(self) -> Promotion:
        """Where this stands; what came before the candidate's acceptance is the aligner's to tell."""
        if self._probation is not None:
            return Promotion.PROBATION
        if self._candidate is not None:
            return Promotion.PROMOTE if self._passed else Promotion.SHADOW
        return self._rest

    @property
    def warming(self) -> bool:
        """Whether a follower has still to catch up; one in shadow has."""
        return any(not f.warm for f in self.followers)

    @property
    def followers(self) -> list[Follower]:
        """Who follows the leader at present."""
        return [f for f in (self._candidate, self._beside) if f is not None]

    def offer(self, slot: Slot) -> None:
        """Take in an accepted candidate; it replaces one that does not lead yet."""
        if self._candidate is not None:
            self._drop(f"generation {slot.generation} came before it was swapped in")
        self._candidate = Follower(self._pipeline, slot)
        self._candidate.start(self._history)
        self._shadow = Comparison(self._scale, self._config) if self._config.shadow_bins else None
        self._passed = self._ordered = False
        if not slot.read_in.finite():
            self._drop("its read-in holds NaN or infinite numbers")

    def promote(self) -> bool:
        """Let the candidate lead once its shadow is passed; whether there is one."""
        self._ordered = self._candidate is not None
        return self._ordered

    def rollback(self) -> bool:
        """Bring the generation before back between two trials; whether there is one."""
        before = self.slots[1 - self.live]
        if before is None:
            return False
        if self._beside is None:
            self._beside = Follower(self._pipeline, before)
            self._beside.start(self._history)
        self._back = self._back or ("ordered", False)
        return True

    def boundary(self, seq: int, between: bool) -> int:
        """Change the leader before bin ``seq``, if it is time to; ``between`` two trials it may be. SWAPPED, ROLLED_BACK or 0."""
        if self._back is not None and (between or self._back[1]) and self._beside is not None and self._beside.level:
            self._roll_back(seq, *self._back)
            return int(Flags.ROLLED_BACK)
        c, wanted = self._candidate, self._passed and (self._config.automatic or self._ordered)
        if c is None or not (between and wanted and c.level) or self._probation is not None or self._back is not None:
            return 0
        self._candidate, self._shadow = None, None
        self._beside = self._lead(c, self._config.blend_bins)
        warm_from = seq if c.slot.from_seq is None else c.slot.from_seq
        generation = c.slot.generation
        self._tell("swapped", generation, bin=seq, warm_from_seq=warm_from)
        if self._config.probation_bins:
            self._probation = Comparison(self._scale, self._config)
            self._tell("probation", generation, bins=self._config.probation_bins)
        else:
            self._commit(seq, "there is no probation", [])
        return int(Flags.SWAPPED)

    def seen(self, seen: Seen) -> None:
        """Note what the leader's encoder saw, for all who follow."""
        self._history.append(seen)
        for follower in filter(None, (self._candidate, self._beside)):  # not self.followers: a list for every bin
            follower.add(seen, self._history)

    def failed(self) -> None:
        """Note that the leader gave nothing finite for a bin: on probation that is the end of it."""
        if self._probation is not None:
            self._back = ("its output or its state is not finite", True)

    def blend(self, values: Floats) -> Floats | None:
        """The output (K,) on its way from the generation before to the leader's ``values`` of the bin seen last; None: there."""
        if not self.fade:
            return None
        beside, share = self._beside, self.fade / (self._config.blend_bins + 1)
        there = beside is None or len(beside.behind) > _MOST_WAIT
        while not there and beside is not None and beside.behind:
            there = not self._step_beside()
        self.fade = 0 if there else self.fade - 1
        self._let_go()
        return None if there or self._last is None else share * self._last + (1.0 - share) * values

    def anew(self) -> None:
        """Start every state anew with the next bin."""
        self._history.clear()
        self.fade = 0
        self.leader.state, self.leader.from_seq = self._pipeline.state0(), None
        for follower in self.followers:
            follower.anew()
        for comparison in filter(None, (self._shadow, self._probation)):
            comparison.cut()

    def idle(self, steps: int) -> bool:
        """Step those who follow by at most ``steps`` bins together, the generation before first; whether anybody follows."""
        busy = self._candidate is not None or self._beside is not None
        for _ in range(steps):
            if self._beside is not None and self._beside.behind:
                self._step_beside()
            elif self._candidate is not None and self._candidate.behind:
                self._step_candidate(self._candidate)
            else:
                break
        if self._beside is not None and not self._beside.behind:
            self._beside.warm = True
        c = self._candidate
        if c is not None and not c.warm and not c.behind:
            c.warm = True
            self._tell("warm", c.slot.generation)
            self._passed = self._passed or self._shadow is None
        return busy

    def news(self) -> list[dict[str, Any]]:
        """Reports since the last call."""
        news, self._news = self._news, []
        return news

    def _step_candidate(self, c: Follower) -> None:
        seq, compared = c.behind[0].seq, c.warm
        stepped = c.step()
        if stepped is None:
            self._drop(f"its output for bin {seq} is not finite")
            return
        seen, values, clamped = stepped
        if self._shadow is None or not compared or seen.values is None or self._passed:
            return
        self._shadow.add(values, clamped, seen.values, seen.clamped)
        if self._shadow.bins < self._config.shadow_bins:
            return
        checks = self._shadow.checks()
        failed = verdict(checks)
        self._tell("shadow", c.slot.generation, passed=failed is None, checks=checks, bins=self._shadow.bins)
        if failed is None:
            self._passed = True
        else:
            self._drop(f"in shadow, {failed}")

    def _step_beside(self) -> bool:
        """Step the generation before, and compare the leader with it while that is on probation; whether it goes on."""
        beside = self._beside
        assert beside is not None
        seq = beside.behind[0].seq
        stepped = beside.step()
        if stepped is None:
            reason = f"generation {beside.slot.generation} gives nothing finite for bin {seq}"
            self.slots[1 - self.live] = self._beside = self._back = None
            if self._probation is not None:
                self._commit(seq, f"there is no way back: {reason}", self._probation.checks())
            return False
        seen, self._last, clamped = stepped
        p = self._probation
        if p is None or seen.values is None:
            return True
        if not beside.warm:
            p.cut()
            return True
        p.add(seen.values, seen.clamped, self._last, clamped)
        last = p.bins >= self._config.probation_bins
        if self._back is None or not self._back[1]:
            if p.wild():
                self._back = (verdict(p.checks()) or "wild jump", True)
            elif self._back is None and (last or p.bins % LOOK == 0) and (failed := verdict(p.checks())):
                self._back = (failed, False)
        if last and self._back is None:
            self._commit(seen.seq, "the probation is passed", p.checks())
        return True

    def _lead(self, follower: Follower, fade: int) -> Follower:
        """Make ``follower`` the leader; the leader of before as one who follows."""
        before = Follower(self._pipeline, self.leader, warm=True)
        self.live = 1 - self.live
        self.slots[self.live] = self.leader = follower.slot
        self.fade, self._last = fade, None
        return before

    def _roll_back(self, seq: int, reason: str, at_once: bool) -> None:
        assert self._beside is not None
        checks = [] if self._probation is None else self._probation.checks()
        taken_back = self.leader.generation
        before = self._lead(self._beside, 0 if at_once else self._config.blend_bins)
        self._beside = before if self.fade else None
        self.slots[1 - self.live] = self._probation = self._back = None
        to, warm_from = self.leader.generation, seq if self.leader.from_seq is None else self.leader.from_seq
        self._tell("rolled_back", taken_back, to=to, bin=seq, warm_from_seq=warm_from, reason=reason, checks=checks)
        if self._candidate is not None and self._candidate.slot.generation > taken_back:
            self._drop(f"generation {taken_back}, from which it was made, was rolled back")
        self._rest = Promotion.ROLLBACK

    def _commit(self, seq: int, reason: str, checks: list[Check]) -> None:
        self._probation = None
        self._let_go()
        self._tell("committed", self.leader.generation, to=self.leader.generation, bin=seq, reason=reason, checks=checks)
        self._rest = Promotion.COMMIT

    def _let_go(self) -> None:
        """Step the generation before no longer than somebody needs it; its read-in stays in its slot."""
        if not self.fade and self._probation is None and self._back is None:
            self._beside = None

    def _drop(self, reason: str) -> None:
        assert self._candidate is not None
        self._tell("dropped", self._candidate.slot.generation, reason=reason)
        self._candidate, self._shadow, self._passed = None, None, False
        self._rest = Promotion.REFUSE

    def _tell(self, report: str, generation: int, **more: Any) -> None:
        self._news.append({"report": report, "generation": generation} | more)
