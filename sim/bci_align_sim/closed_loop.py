"""The task in closed loop: the cursor moves by the decoded velocity, and the subject sees it and corrects.

The subject is an approximate optimal feedback controller (Todorov & Jordan 2002, Nat Neurosci 5:1226): it sees the cursor late,
predicts where it is now with an internal model that trusts the decoder to do what was intended (Golub et al. 2015, eLife
4:e10015), and intends a velocity toward the target that falls with the distance left. A decoder that does something else than
intended shows as error that the subject meets again and again, and only as late as it sees it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from bci_align.config import Strict
from bci_align.streams.contract import END, GO, START, TrialEvent
from bci_align_sim.subject import Subject
from bci_align_sim.task import CentreOut
from bci_align_sim.tuning import FloatArray, Tuning

WORKSPACE = 1.5
"""Half the side of the screen, in target distances: the cursor stops at its edge."""


class Controller(Strict):
    """How the subject steers, and the timing of the trials under cursor control."""

    visual_delay_s: float = Field(0.10, ge=0, description="age of the cursor position that the subject sees")
    reaction_s: float = Field(0.20, ge=0, description="from the go cue to the first intention to move")
    top_cm_s: float = Field(18.0, gt=0, description="highest intended speed")
    per_s: float = Field(4.0, gt=0, description="intended speed per cm of distance left, near the target")
    smooth_s: float = Field(0.08, ge=0, description="time constant with which the intention changes")
    centre_s: float = Field(0.5, gt=0, description="rest with the cursor held at the centre, from a trial's start to its go cue")
    hold_s: float = Field(0.3, gt=0, description="time inside the target that makes a success")
    timeout_s: float = Field(4.0, gt=0, description="from the go cue to a failed trial's end")
    pause_s: float = Field(0.4, gt=0, description="from a trial's end to the next one's start; the cursor is put back")


@dataclass(frozen=True)
class Attempt:
    """One finished closed-loop trial."""

    success: bool
    time_to_target_s: float
    """From the go cue to entering the target for the hold that counted; NaN for a failure."""
    path_efficiency: float
    """Straight way over the way made until then, 0 to 1; NaN for a failure."""


@dataclass(frozen=True)
class Performance:
    """Means over the finished trials; times and efficiency over the successful ones (NaN where there are none)."""

    trials: int
    success_rate: float
    time_to_target_s: float
    path_efficiency: float


class ClosedLoop:
    """A subject at work with a decoder. Feed each bin's decoded velocity to :meth:`step`, decode the counts it returns.

    Time runs in seconds from the start of bin 0. Deterministic in ``seed`` and the decoded velocities.
    """

    def __init__(
        self,
        tuning: Tuning,
        seed: int = 0,
        bin_s: float = 0.02,
        task: CentreOut | None = None,
        controller: Controller | None = None,
    ) -> None:
        self.subject = Subject(tuning, bin_s)
        self.task = task or CentreOut()
        self.controller = controller or Controller()
        self.bin_s = bin_s
        spikes, order = np.random.SeedSequence(seed).spawn(2)
        self._spikes, self._order = np.random.default_rng(spikes), np.random.default_rng(order)
        self._state = self.subject.state0()
        self._late = round(self.controller.visual_delay_s / bin_s)
        self._smooth = math.exp(-bin_s / self.controller.smooth_s) if self.controller.smooth_s > 0 else 0.0
        self._queue: list[int] = []
        self._bin = 0
        self._phase = "pause"
        self._phase_bins = 0
        self._inside = 0
        self._way = 0.0
        self._entered = (0, 0.0)
        self.attempts: list[Attempt] = []
        """Every finished trial, in order."""
        self.target: FloatArray = np.zeros(2)
        """(2,) cm, where the running or last trial's target is."""
        self._reset()

    @property
    def cursor(self) -> FloatArray:
        """(2,) cm from the centre, after the last step."""
        return self._seen[-1].copy()

    @property
    def intention(self) -> FloatArray:
        """(2,) cm/s, the velocity that the subject meant at the last step."""
        return self._intended[-1].copy()

    def step(self, decoded_velocity: ArrayLike) -> tuple[NDArray[np.int32], list[TrialEvent]]:
        """Move the cursor for one bin by ``decoded_velocity`` (2,) cm/s, and give the counts (C,) of that bin.

        The events are those of this bin, stamped with its start. A velocity that is not finite moves nothing.
        """
        velocity = np.asarray(decoded_velocity, dtype=np.float64)
        events = self._trial_logic()
        cursor = self._seen[-1]
        if self._phase == "reach" and np.isfinite(velocity).all():
            edge = WORKSPACE * self.task.distance_cm
            moved = np.clip(cursor + velocity * self.bin_s, -edge, edge)
            self._way += float(np.linalg.norm(moved - cursor))
            cursor = moved
        self._seen.append(cursor)
        position, intended = self._intend()
        self._state, counts = self.subject.step(self._spikes, self._state, position, intended)
        self._bin += 1
        self._phase_bins += 1
        return counts, events

    def performance(self, skip: int = 0) -> Performance:
        """What the subject achieved, leaving out the first ``skip`` finished trials."""
        done = self.attempts[skip:]
        hits = [a for a in done if a.success]
        return Performance(
            trials=len(done),
            success_rate=len(hits) / len(done) if done else math.nan,
            time_to_target_s=float(np.mean([a.time_to_target_s for a in hits])) if hits else math.nan,
            path_efficiency=float(np.mean([a.path_efficiency for a in hits])) if hits else math.nan,
        )

    def _trial_logic(self) -> list[TrialEvent]:
        """Go on to the next phase where it is due; the events of this bin."""
        c, now, elapsed = self.controller, self._bin * self.bin_s, self._phase_bins
        if self._phase == "pause" and elapsed >= self._bins(c.pause_s):
            self._queue = self._queue or self.task.order(self.task.targets, self._order)
            self.target = self.task.target_cm(self._queue.pop(0))
            self._enter("centre")
            return [TrialEvent(now, START)]
        if self._phase == "centre" and elapsed >= self._bins(c.centre_s):
            self._enter("reach")
            self._inside, self._way = 0, 0.0
            return [TrialEvent(now, GO)]
        if self._phase != "reach":
            return []
        left = float(np.linalg.norm(self.target - self._seen[-1]))
        if left > self.task.radius_cm:
            self._inside = 0
        else:
            if self._inside == 0:
                self._entered = (elapsed, self._way)
            self._inside += 1
        held = self._inside > self._bins(c.hold_s)
        if not held and elapsed < self._bins(c.timeout_s):
            return []
        self._finish(held)
        return [TrialEvent(now, END, held)]

    def _finish(self, success: bool) -> None:
        """Write the trial down and put the cursor back to the centre."""
        if success:
            bins, way = self._entered
            # The cursor need only come to the window's edge; counted from there a straight way is 1 and no more.
            straight = self.task.distance_cm - self.task.radius_cm
            self.attempts.append(Attempt(True, bins * self.bin_s, min(straight / max(way, 1e-9), 1.0)))
        else:
            self.attempts.append(Attempt(False, math.nan, math.nan))
        self._enter("pause")
        self._reset()

    def _intend(self) -> tuple[FloatArray, FloatArray]:
        """Position (2,) cm and velocity (2,) cm/s that the subject plans for ``subject.lead`` bins ahead."""
        c = self.controller
        # The cursor as seen, and all that was intended and is not yet to be seen: where it should be by then.
        position = self._seen[0] + self.bin_s * np.sum(self._intended, axis=0)
        wanted = np.zeros(2)
        if self._phase == "reach" and self._phase_bins >= self._bins(c.reaction_s):
            way = self.target - position
            left = float(np.linalg.norm(way))
            wanted = way / max(left, 1e-9) * c.top_cm_s * math.tanh(c.per_s * left / c.top_cm_s)
        intended = self._smooth * self._intended[-1] + (1.0 - self._smooth) * wanted
        self._intended.append(intended)
        return position, intended

    def _enter(self, phase: str) -> None:
        self._phase, self._phase_bins = phase, 0

    def _bins(self, seconds: float) -> int:
        return round(seconds / self.bin_s)

    def _reset(self) -> None:
        """The cursor back at the centre, seen at once, and nothing intended."""
        self._seen = deque([np.zeros(2)] * (self._late + 1), maxlen=self._late + 1)
        under_way = max(self._late + self.subject.lead, 1)
        self._intended = deque([np.zeros(2)] * under_way, maxlen=under_way)
