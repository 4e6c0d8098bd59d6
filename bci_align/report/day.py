"""All figures of one streamed day: from the sessions, the bundles and what was decoded live to pictures with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.evaluation.score import rows, score_outputs
from bci_align.models.read_in import ReadIn
from bci_align.report.figures import Bar, Curve, scores, stages, timeline
from bci_align.report.latents import Cloud, latents, movement_plane
from bci_align.report.movement import Paths, Stretch, traces, trajectories
from bci_align.report.page import Shown
from bci_align.report.style import Role
from bci_align.session.types import Session, bin_of

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

TOGETHER = 5
"""Trials scored together for one point of the timeline: R2 of a single reach is mostly noise."""


@dataclass(frozen=True)
class StreamedDay:
    """What is known of a day after it was streamed.

    ``source`` is the source day's bundle and ``source_session`` that day itself, or None where it is not at hand (its latents
    are then not drawn); ``session`` is day K as it was streamed. ``live`` (T, K) is what was decoded, physical units, NaN for a
    bin that was never answered; ``unaligned`` (T, K) what the source bundle
    decodes offline from the same counts. ``calibration`` are the trials that were aligned on and ``later`` those that every
    number is scored on (indices). ``aligned`` and ``swap_bin`` (first bin that the new generation decoded) are None where
    nothing was swapped.
    """

    source_session: Session | None
    source: Bundle
    session: Session
    live: Floats
    unaligned: Floats
    calibration: Indices
    later: Indices
    aligned: Bundle | None = None
    swap_bin: int | None = None

    def minutes(self, bin_index: float) -> float:
        """Time in the stream of a bin's start, minutes."""
        return bin_index * self.session.bin_s / 60


def day_figures(day: StreamedDay, bars: Sequence[Bar]) -> list[Shown]:
    """Every figure that the day has the data for; ``bars`` are the scores for the first one."""
    scored = f"the same {len(day.later)} trials of day K"
    shown = [Shown("timeline", _timeline(day), _timeline_caption(day))]
    if bars:
        caption = f"Decoding in numbers. All bars but day 0 (its held-out trials) are scored on {scored}."
        shown.insert(0, Shown("scores", scores(bars), caption))
    if day.swap_bin is not None:
        caption = (
            "True and decoded output in the last trials before the swap and in later ones; trials are shaded. "
            "On the right, the source generation's decoding of the same bins, computed offline, is drawn in its own colour."
        )
        shown.append(Shown("traces", _traces(day), caption))
    targets = day.session.trials.target
    velocity = len(day.source.manifest.outputs) == 2 and all(unit.endswith("/s") for unit in day.source.manifest.units)
    if velocity and targets is not None and targets.shape[1] == 2 and len(day.later):
        caption = (
            "Paths from the go cue to the trial's end, integrated from velocity with nothing fed back. Colours and rings: "
            f"targets. Every panel shows {scored}."
        )
        shown.append(Shown("trajectories", _trajectories(day), caption))
    if day.aligned is not None:
        if day.source_session is not None and len(day.source.manifest.outputs) >= 2:
            caption = (
                "Latents in the plane that carries the source day's movement. Grey: the source day, on which the prior was "
                "trained; lines: day K's trials after the calibration block. Contours hold 50 % and 90 % of the bins; "
                "crosses are the means."
            )
            shown.append(Shown("latents", _latents(day), caption))
        record = day.aligned.manifest.alignment or {}
        if len(record.get("stages", ())) > 1:
            caption = (
                "The two label-free terms of the objective on the calibration trials, after every stage of the alignment: the "
                "prior's denoising loss of the latents, and the Gaussian KL of the latents to the source day's. Lower is better."
            )
            shown.append(Shown("stages", stages(record["stages"]), caption))
    return shown


def running(
    bundle: Bundle, session: Session, trials: Indices, outputs: Floats, together: int = TOGETHER
) -> tuple[Floats, Floats]:
    """R2 (%) of ``outputs`` in a moving block of ``together`` trials: ``(minutes (n,), r2 (n,))``; empty for too few trials."""
    blocks = [trials[k : k + together] for k in range(len(trials) - together + 1)]
    minutes = [float(np.mean([session.trials.start_s[i] for i in b])) / 60 for b in blocks]
    return np.array(minutes), np.array([score_outputs(bundle, session, b, outputs)["r2"] for b in blocks])


def encode(bundle: Bundle, session: Session, read_in: ReadIn) -> Floats:
    """Whitened latents (T, d) of a whole session, stepped as the live system does, anew after every gap."""
    pipeline = bundle.pipeline()
    core = pipeline.state0().core
    out = np.empty((session.bins, bundle.manifest.latents))
    for i, x in enumerate(session.counts.astype(np.float32)):
        if i in session.breaks:
            core = pipeline.state0().core
        core, out[i] = pipeline.encode(core, x, read_in)
    return out


def _timeline(day: StreamedDay) -> Figure:
    s, rewarded = day.session, day.session.rewarded()
    swap = day.session.bins if day.swap_bin is None else day.swap_bin
    before = np.array([i for i in rewarded if day.session.trial_bins(int(i))[1] <= swap], dtype=np.intp)
    after = np.array([i for i in rewarded if day.session.trial_bins(int(i))[0] >= swap], dtype=np.intp)
    curves = [Curve("source generation, live", *running(day.source, day.session, before, day.live), role="before")]
    if day.swap_bin is not None:
        curves += [
            Curve("source generation, offline", *running(day.source, day.session, after, day.unaligned), "before", dashed=True),
            Curve("aligned generation, live", *running(day.source, day.session, after, day.live), role="after"),
        ]
    lost = np.flatnonzero(np.isnan(day.live).any(1))
    block = None
    if len(day.calibration):
        first = day.session.trial_bins(int(day.calibration[0]))[0]
        block = (day.minutes(first), day.minutes(day.session.trial_bins(int(day.calibration[-1]))[1]))
    return timeline(
        [c for c in curves if len(c.r2)],
        block,
        [] if day.swap_bin is None else [day.minutes(day.swap_bin)],
        lost * s.bin_s / 60,
        TOGETHER,
    )


def _timeline_caption(day: StreamedDay) -> str:
    lost = int(np.isnan(day.live).any(1).sum())
    swap = f"was swapped in at bin {day.swap_bin}" if day.swap_bin is not None else "was not swapped in"
    return (
        f"The streamed day, R² in a moving block of {TOGETHER} rewarded trials. Shaded: the calibration trials; hatched: the "
        f"second process aligns while decoding goes on. The aligned generation {swap}; {lost} of {day.session.bins} bins "
        "were lost."
    )


def _traces(day: StreamedDay) -> Figure:
    assert day.swap_bin is not None
    rewarded = day.session.rewarded()
    before = [int(i) for i in rewarded if day.session.trial_bins(int(i))[1] <= day.swap_bin][-3:]
    after = [int(i) for i in day.later[:3]]
    stretches = []
    if before:
        stretches.append(
            _stretch(day, f"Before the swap (trials {before[0] + 1} to {before[-1] + 1})", before, {"before": day.live})
        )
    if after:
        both: dict[Role, Floats] = {"before": day.unaligned, "after": day.live}
        stretches.append(_stretch(day, f"After the swap (trials {after[0] + 1} to {after[-1] + 1})", after, both))
    m = day.source.manifest
    return traces(stretches, m.outputs, m.units[0])


def _stretch(day: StreamedDay, title: str, trials: list[int], decoded: dict[Role, Floats]) -> Stretch:
    s = day.session
    assert s.kinematics is not None
    first, stop = s.trial_bins(trials[0])[0], s.trial_bins(trials[-1])[1]
    cut = slice(first, stop)
    times = [(float(s.trials.start_s[i]), float(s.trials.end_s[i])) for i in range(trials[0], trials[-1] + 1)]
    seconds = s.bin_s * np.arange(first + 1, stop + 1, dtype=np.float64)
    return Stretch(title, seconds, s.kinematics[cut].astype(np.float64), {role: y[cut] for role, y in decoded.items()}, times)


def _trajectories(day: StreamedDay) -> Figure:
    s = day.session
    assert s.kinematics is not None and s.trials.target is not None
    panels = [
        Paths("True", _paths(s, day.later, s.kinematics.astype(np.float64))),
        Paths("No alignment", _paths(s, day.later, day.unaligned)),
    ]
    if day.swap_bin is not None:
        panels.append(Paths("After the swap, live", _paths(s, day.later, day.live)))
    unit = s.kinematics_units[0].removesuffix("/s")
    return trajectories(panels, s.trials.target[day.later].astype(np.float64), unit)


def _paths(session: Session, trials: Indices, velocity: Floats) -> list[Floats]:
    """Integrate ``velocity`` (T, 2) from the go cue of each trial (its start where there is none) to its end; lost bins stand."""
    paths = []
    for i in trials:
        first, stop = session.trial_bins(int(i))
        go = float(session.trials.go_s[i])
        first = first if np.isnan(go) else bin_of(go, session.bin_s)
        steps = np.nan_to_num(velocity[first:stop]) * session.bin_s
        paths.append(np.concatenate([np.zeros((1, 2)), steps.cumsum(0)]))
    return paths


def _latents(day: StreamedDay) -> Figure:
    first = day.source_session
    assert day.aligned is not None and first is not None and first.kinematics is not None
    inside = rows(first, first.rewarded())
    source = encode(day.source, first, day.source.read_in)[inside]
    plane = movement_plane(source, first.kinematics[inside].astype(np.float64))
    rewarded = day.session.rewarded()
    later = rows(day.session, rewarded[rewarded > day.calibration.max(initial=-1)])
    before = encode(day.source, day.session, day.source.read_in)[later]
    after = encode(day.aligned, day.session, day.aligned.read_in)[later]
    clouds = [Cloud("Day K, no alignment", before, "before"), Cloud("Day K, aligned", after, "after")]
    return latents(Cloud("Day 0", source, "day 0"), clouds, plane, day.source.manifest.outputs[:2])
