"""An 8-target centre-out task, reached open loop by a hand that varies as hands do, and a day of it as a session.

Reaches follow the minimum-jerk profile of Flash & Hogan 1985 (J Neurosci 5:1688), skewed and curved a little, and a short
corrective submovement where the first one missed (Meyer et al. 1988, Psychol Rev 95:340).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from bci_align.config import Strict
from bci_align.session.types import Session, Trials, validate
from bci_align_sim.subject import Subject
from bci_align_sim.tuning import FloatArray, Tuning

KINEMATICS_NAMES = ("vx", "vy")
KINEMATICS_UNITS = ("cm/s", "cm/s")


class CentreOut(Strict):
    """The task. Times in seconds, lengths in cm; a range is drawn from uniformly, trial by trial."""

    targets: int = Field(8, ge=1, description="targets, evenly spaced on a circle, visited in shuffled blocks")
    distance_cm: float = Field(8.0, gt=0, description="from the centre to a target")
    radius_cm: float = Field(1.2, gt=0, description="radius of a target's acceptance window")
    centre_hold_s: tuple[float, float] = Field((0.4, 0.7), description="from the trial's start to the go cue")
    reaction_s: tuple[float, float] = Field((0.18, 0.30), description="from the go cue to the first movement")
    duration_s: tuple[float, float] = Field((0.50, 0.90), description="of the reach out")
    target_hold_s: float = Field(0.3, gt=0, description="hold at the target that ends a trial")
    return_s: tuple[float, float] = Field((0.6, 0.9), description="of the way back to the centre")
    pause_s: tuple[float, float] = Field((0.15, 0.40), description="rest at the centre before the next trial")
    miss: float = Field(0.06, ge=0, le=1, description="chance that a reach ends off its target and the trial fails")
    aim_sd_cm: float = Field(0.8, ge=0, description="scatter of the first submovement's end, per axis")
    curve_sd: float = Field(0.06, ge=0, description="sideways bow of a reach at its middle, as a share of its length")
    tremor_sd_cm_s: float = Field(0.4, ge=0, description="speed of the small wander of the hand, per axis")

    def target_cm(self, index: int) -> FloatArray:
        """Position (2,) of a target, cm from the centre."""
        angle = 2 * np.pi * index / self.targets
        return self.distance_cm * np.array([np.cos(angle), np.sin(angle)])

    def order(self, trials: int, rng: np.random.Generator) -> list[int]:
        """Target index of each of ``trials`` trials: every target once per shuffled block."""
        blocks = -(-trials // self.targets)
        return [int(i) for _ in range(blocks) for i in rng.permutation(self.targets)][:trials]


@dataclass(frozen=True)
class Movement:
    """What the hand did on one day: ``position`` (T, 2) cm at each bin's end, ``velocity`` (T, 2) cm/s over each bin."""

    position: FloatArray
    velocity: FloatArray
    trials: Trials


def minimum_jerk(share: FloatArray) -> FloatArray:
    """Share of the way covered at a share of the time, both 0 to 1 (clipped outside); any shape."""
    s = np.clip(share, 0.0, 1.0)
    return np.asarray(s**3 * (10.0 - 15.0 * s + 6.0 * s**2), dtype=np.float64)


def move(trials: int, seed: int | np.random.SeedSequence, bin_s: float = 0.02, task: CentreOut | None = None) -> Movement:
    """The hand's way through ``trials`` trials; deterministic in ``seed`` and the task."""
    task = task or CentreOut()
    rng = np.random.default_rng(seed)
    pieces: list[_Piece] = []
    starts, gos, ends, success, targets = [], [], [], [], []
    now, hand = 0.5, np.zeros(2)  # half a second of rest, so that the first trial too has bins before it
    for index in task.order(trials, rng):
        target = task.target_cm(index)
        starts.append(now)
        gos.append(now + rng.uniform(*task.centre_hold_s))
        onset, duration = gos[-1] + rng.uniform(*task.reaction_s), rng.uniform(*task.duration_s)
        missed = bool(rng.random() < task.miss)
        first = target + rng.normal(0.0, task.aim_sd_cm, 2)
        # A miss ends well outside the window whatever its direction; a hit is corrected to well within it.
        r = task.radius_cm
        off = rng.uniform(2.0, 3.5) * r * _unit(rng) if missed else np.clip(rng.normal(0.0, 0.25 * r, 2), -0.6 * r, 0.6 * r)
        last = target + off
        bow = rng.normal(0.0, task.curve_sd)
        pieces.append(_Piece(onset, duration, first - hand, bow, rng.uniform(0.85, 1.15)))
        correction = onset + 0.8 * duration
        pieces.append(_Piece(correction, 0.35, last - first, 0.0, 1.0))
        ends.append(max(onset + duration, correction + 0.35) + task.target_hold_s)
        success.append(not missed)
        targets.append(target)
        back, home = rng.uniform(*task.return_s), rng.normal(0.0, 0.2, 2)
        pieces.append(_Piece(ends[-1] + 0.2, back, home - last, rng.normal(0.0, task.curve_sd), 1.0))
        now, hand = ends[-1] + 0.2 + back + rng.uniform(*task.pause_s), home

    bins = int(np.ceil((now + 0.5) / bin_s))
    edges = np.arange(bins + 1, dtype=np.float64) * bin_s
    path = np.zeros((bins + 1, 2))
    for piece in pieces:
        piece.add_to(path, edges)
    velocity = np.diff(path, axis=0) / bin_s + _tremor(rng, bins, bin_s, task.tremor_sd_cm_s)
    events = Trials(np.array(starts), np.array(gos), np.array(ends), np.array(success, dtype=np.bool_), np.stack(targets))
    return Movement(path[1:], velocity, events)


def record_day(
    tuning: Tuning,
    trials: int = 160,
    seed: int = 0,
    bin_s: float = 0.02,
    name: str = "simulated",
    task: CentreOut | None = None,
) -> Session:
    """One recorded day of open-loop reaching: a valid session with velocity (vx, vy in cm/s) as its kinematics.

    The same arguments give the same session. Position is in no label; ``trials.target`` (n, 2) is in cm from the centre.
    """
    hand, spikes = np.random.SeedSequence(seed).spawn(2)
    movement = move(trials, hand, bin_s, task)
    counts = Subject(tuning, bin_s).run(np.random.default_rng(spikes), movement.position, movement.velocity)
    session = Session(
        counts=counts,
        bin_s=bin_s,
        channels=channel_labels(tuning.channels),
        trials=movement.trials,
        kinematics=movement.velocity.astype(np.float32),
        kinematics_names=KINEMATICS_NAMES,
        kinematics_units=KINEMATICS_UNITS,
        name=name,
        meta={"origin": "bci_align_sim: simulated subject, open-loop centre-out reaching", "seed": str(seed)},
    )
    return validate(session, name)


def channel_labels(channels: int) -> tuple[str, ...]:
    """Labels of the simulated array's channels, ``ch00`` upward."""
    return tuple(f"ch{i:02d}" for i in range(channels))


@dataclass(frozen=True)
class _Piece:
    """One submovement: starts at ``onset_s``, takes ``duration_s``, covers ``way`` (2,) cm bowed sideways by ``bow`` of it."""

    onset_s: float
    duration_s: float
    way: FloatArray
    bow: float
    skew: float
    """Exponent of time: below 1 the speed peaks early, above 1 late."""

    def add_to(self, path: FloatArray, edges: FloatArray) -> None:
        """Add this displacement to ``path`` (T + 1, 2) at the times ``edges`` (T + 1,)."""
        first = int(np.searchsorted(edges, self.onset_s))
        s = minimum_jerk(np.clip((edges[first:] - self.onset_s) / self.duration_s, 0.0, 1.0) ** self.skew)[:, None]
        sideways = np.array([-self.way[1], self.way[0]])
        path[first:] += s * self.way + self.bow * 16.0 * (s * (1.0 - s)) ** 2 * sideways


def _unit(rng: np.random.Generator) -> FloatArray:
    """A random direction (2,)."""
    angle = rng.uniform(-np.pi, np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _tremor(rng: np.random.Generator, bins: int, bin_s: float, sd: float) -> FloatArray:
    """Velocity (bins, 2) of a hand that is never quite still: white noise smoothed over 60 ms, standard deviation ``sd``.

    It is not summed into the position: over a whole day that sum would wander away from the centre.
    """
    width = max(round(0.06 / bin_s), 1)
    noise = rng.standard_normal((bins + width - 1, 2)).cumsum(axis=0)
    smooth = np.concatenate([noise[width - 1 : width], noise[width:] - noise[:-width]]) / np.sqrt(width)
    return np.asarray(sd * smooth, dtype=np.float64)
