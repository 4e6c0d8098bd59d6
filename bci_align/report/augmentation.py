"""What a model of trials knows, in numbers and figures: codes, traversals, single neurons, realism, and all of it in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.atomic import write_directory
from bci_align.augmentation import measures
from bci_align.augmentation.generate import Generator
from bci_align.augmentation.store import Stored
from bci_align.augmentation.trials import TrialSet, window_bins
from bci_align.errors import AugmentationError
from bci_align.report.page import png
from bci_align.report.style import COLOUR, figure
from bci_align.report.trials_overview import colours, overview, plane, walk, walked
from bci_align.session.types import Session
from bci_align.threads import one_thread

Floats = NDArray[np.float64]
NEURONS = 6


@one_thread()
def write(
    stored: Stored, session: Session, out: Path, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Measure the model's twin on the trials of ``session`` that it has not seen, draw the figures, write all to ``out``.

    The directory gets ``measures.json`` and ``codes.png``, ``traversal.png``, ``neurons.png``, ``realism.png`` and
    ``overview.png``. Gives ``measures`` (see :mod:`bci_align.augmentation.measures`) and ``figures`` (names).
    """
    tell = progress or (lambda stage, done, total: None)
    cuts = stored.cuts(session)
    model, before = stored.model, window_bins(stored.manifest.config, session.bin_s)[0]
    unseen = cuts.of(model.held_out)
    seen = cuts.of(np.setdiff1d(np.arange(len(cuts)), model.held_out))
    proof = model.proof
    if not walked(proof):
        raise AugmentationError(
            f"{stored.path}: expected a model of trials of at least two targets to report on, found one target"
        )
    found: dict[str, float] = {
        "code SNR, target": measures.code_snr(*((proof.space.encode(t), t.target) for t in (seen, unseen))),
        "code SNR, conditions": measures.condition_snr(proof.space.encode(unseen), unseen),
        "held-out target error": measures.held_out_error(proof.space, seen, unseen),
    }
    tell("report", 1, 4)
    found["rate R2, median of held-out trials"] = float(np.nanmedian(measures.rate_r2(proof.space, unseen, proof.gain)))
    tell("report", 2, 4)
    found |= {f"traversal: {k}": v for k, v in measures.traversal(proof.space, proof.navigator, seen, before, seed).items()}
    found |= {f"the task itself: {k}": v for k, v in measures.of_the_task(seen, before).items()}
    tell("report", 3, 4)
    made = proof.of_codes(proof.space.encode(unseen), unseen.target, seed)
    floor = measures.floor_of_realism(cuts.counts, len(unseen), seed)
    real = measures.realism(made.counts, unseen.counts)
    found |= {f"realism: {k}": v for k, v in real.items()}
    found |= {f"floor: {k}": v for k, v in floor.items()}
    figures = {
        "codes": codes(model.full, cuts),
        "traversal": traversals(proof, seen, session, seed),
        "neurons": neurons(unseen, made, session, before),
        "realism": realism(real, floor),
        "overview": overview(proof, seen, unseen, made, session, before, seed),
    }
    with write_directory(out, error=AugmentationError) as folder:
        plain = {k: (v if np.isfinite(v) else None) for k, v in found.items()}
        (folder / "measures.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        for name, drawn in figures.items():
            (folder / f"{name}.png").write_bytes(png(drawn))
    tell("report", 4, 4)
    return {"measures": found, "figures": sorted(figures), "out": str(out)}


def codes(generator: Generator, trials: TrialSet) -> Figure:
    """Codes in the plane of the target's directions, coloured by target, and in their own first two components."""
    c = generator.space.encode(trials).astype(np.float64)
    c = c - c.mean(0)
    known, which = trials.conditions()
    colour = colours(known)
    own = np.linalg.svd(c, full_matrices=False)[2][:2].T
    with figure(3.3) as fig:
        axes = fig.subplots(1, 2)
        for ax, basis, title in zip(
            axes, (plane(generator), own), ("plane of the target's directions", "principal components"), strict=True
        ):
            xy = c @ basis
            for k in range(len(known)):
                ax.plot(*xy[which == k].T[:2], "o", ms=3.2, color=colour[k], alpha=0.85)
            ax.set_title(title)
            ax.set_aspect("equal", "datalim")
            ax.set_xlabel("code, first axis")
        axes[0].set_ylabel("code, second axis; one colour per target")
    return fig


def traversals(generator: Generator, trials: TrialSet, session: Session, seed: int) -> Figure:
    """Movement generated while one mean code walks along target x, and along target y, if they vary; always of one noise."""
    middle = generator.space.encode(trials).mean(0, keepdims=True)
    names = walked(generator)[:2]
    with figure(3.3) as fig:
        axes = np.atleast_1d(fig.subplots(1, len(names), sharex=True, sharey=True))
        for ax, name in zip(axes, names, strict=True):
            half = float(np.ptp(trials.target[:, generator.navigator.names.index(name)]) / 2)
            walk(ax, generator, middle, name, half, seed)
            ax.set_title(f"walk along {name}")
            ax.set_xlabel(f"{session.kinematics_names[0]} ({session.kinematics_units[0]})")
        if len(session.kinematics_names) > 1:
            axes[0].set_ylabel(f"{session.kinematics_names[1]} ({session.kinematics_units[1]})")
    return fig


def neurons(trials: TrialSet, made: TrialSet, session: Session, before: int) -> Figure:
    """Mean rates of the most modulated neurons by target: recorded (held out), and ``made`` from the codes of these trials."""
    known, which = trials.conditions()
    colour = colours(known)
    k = len(known)
    real_mean = np.stack([trials.rates[which == i].mean(0) for i in range(k)])
    made_mean = np.stack([made.rates[which == i].mean(0) for i in range(k)])
    best = np.argsort(real_mean.var(0).sum(0) / (real_mean.mean((0, 1)) + 1e-3))[::-1][:NEURONS]
    t = (np.arange(trials.rates.shape[1]) - before + 0.5) * session.bin_s
    with figure(3.6) as fig:
        axes = fig.subplots(2, len(best), sharex=True, sharey="col", squeeze=False)
        for column, n in enumerate(best):
            for row, mean in enumerate((real_mean, made_mean)):
                for i in range(k):
                    axes[row, column].plot(t, mean[i, :, n] / session.bin_s, color=colour[i], lw=1.0)
            axes[0, column].set_title(session.channels[n])
            axes[1, column].set_xlabel("time (s)")
        axes[0, 0].set_ylabel("recorded (Hz)")
        axes[1, 0].set_ylabel("generated (Hz)")
    return fig


def realism(found: dict[str, float], floor: dict[str, float]) -> Figure:
    """Every measure of realism over that of real trials against real ones: 1 is as good as recorded."""
    names = list(found)
    ratio = [found[n] / max(floor[n], 1e-12) for n in names]
    with figure(1.9) as fig:
        ax = fig.add_subplot()
        ax.barh(range(len(names)), ratio, color=COLOUR["after"], height=0.6)
        ax.axvline(1, color=COLOUR["true"], lw=1)
        ax.axvline(2, color=COLOUR["before"], lw=1, ls="--")
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlabel("difference from held-out trials, over that of real from real (goal: at most 2)")
    return fig
