"""One figure of what a model of trials knows: codes, walks through them, neurons, and how real generated spikes are."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bci_align.augmentation import measures
from bci_align.augmentation.generate import Generator
from bci_align.augmentation.trials import TrialSet
from bci_align.report.style import COLOUR, TARGETS, figure
from bci_align.session.types import Session

Floats = NDArray[np.float64]
NEURONS = 4


def walked(generator: Generator) -> list[str]:
    """Coordinates of the target that can be walked along: those that vary over the training trials."""
    nav = generator.navigator
    return [n for n, sd in zip(nav.names, nav.sd, strict=True) if n.startswith("target") and np.isfinite(sd)]


def colours(targets: Floats) -> list[str]:
    """A colour for each of ``targets`` (k, D), in order of angle around their mean; more than there are colours begin again."""
    centred = targets - targets.mean(0)
    angle = np.arctan2(centred[:, 1], centred[:, 0]) if targets.shape[1] > 1 else centred[:, 0]
    order = np.argsort(np.argsort(np.round(angle % (2 * np.pi) if targets.shape[1] > 1 else angle, 6), kind="stable"))
    return [TARGETS[i % len(TARGETS)] for i in order]


def plane(generator: Generator) -> Floats:
    """Orthonormal axes (L, 2) of the plane of the target's directions; one of them is zero where only one coordinate varies."""
    nav = generator.navigator
    rows = [nav.names.index(n) for n in walked(generator)][:2]
    axes = np.linalg.qr(nav.directions[rows].T)[0]
    axes = axes * np.sign(np.sum(axes * nav.directions[rows].T, 0))
    return np.c_[axes, np.zeros((len(axes), 2 - axes.shape[1]))]


def walk(ax: Any, generator: Generator, middle: Floats, name: str, half: float, seed: int) -> None:
    """Draw the movements generated while the code ``middle`` (1, L) walks along ``name`` by up to ``half`` either way."""
    for i, step in enumerate(measures.STEPS):
        moved = generator.navigator.move(middle.astype(np.float32), name, step * half)
        k = generator.space.decode(moved, seed, True)[1][0]
        shade = i / (len(measures.STEPS) - 1)
        y = k[:, 1] if k.shape[1] > 1 else np.arange(len(k))
        ax.plot(k[:, 0], y, color=(0.84 * shade, 0.37 * shade + 0.2 * (1 - shade), 0.7 * (1 - shade)), lw=1.6)


def overview(
    generator: Generator, seen: TrialSet, unseen: TrialSet, made: TrialSet, session: Session, before: int, seed: int
) -> Figure:
    """Draw all in one; ``made`` are trials generated of the codes of ``unseen`` ones, and ``seen`` trained the generator."""
    known, _ = seen.conditions()
    colour = {tuple(t): c for t, c in zip(known, colours(known), strict=True)}
    with figure(6.6) as fig:
        top, middle, bottom = fig.subfigures(3, 1, squeeze=False, height_ratios=(1.12, 1.0, 0.95), hspace=0.05)[:, 0]
        _codes_and_walks(top, generator, seen, unseen, colour, session, seed)
        _neurons(middle, unseen, made, colour, session, before)
        _realism(bottom, unseen.counts, made.counts)
    return fig


def _codes_and_walks(
    fig: Any,
    generator: Generator,
    seen: TrialSet,
    unseen: TrialSet,
    colour: dict[tuple[float, ...], str],
    session: Session,
    seed: int,
) -> None:
    names = walked(generator)[:2]
    axes = fig.subplots(1, 1 + len(names))
    basis, own = plane(generator), generator.space.encode(seen).astype(np.float64)
    for trials, size, alpha in ((seen, 2.2, 0.3), (unseen, 4.2, 1.0)):
        xy = (generator.space.encode(trials) - own.mean(0)) @ basis
        for t in trials.conditions()[0]:
            rows = (np.round(trials.target, 6) == t).all(1)
            axes[0].plot(*xy[rows].T, "o", ms=size, mew=0, color=colour.get(tuple(t), COLOUR["true"]), alpha=alpha)
    axes[0].set_title("codes, by target")
    axes[0].set_xlabel("large: trials not trained on")
    axes[0].set_aspect("equal", "datalim")
    flat = seen.kinematics.reshape(-1, seen.kinematics.shape[2])[:, :2]
    reach = float(np.abs(flat - flat.mean(0)).max())
    for ax, name in zip(axes[1:], names, strict=True):
        half = float(np.ptp(seen.target[:, generator.navigator.names.index(name)]) / 2)
        walk(ax, generator, own.mean(0, keepdims=True), name, half, seed)
        ax.set_title(f"walk along {name}")
        ax.set_xlabel(f"{session.kinematics_names[0]} ({session.kinematics_units[0]})")
        if len(session.kinematics_names) > 1:
            x, y = flat.mean(0)
            ax.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach), aspect="equal")
            ax.locator_params(nbins=3)
    if len(session.kinematics_names) > 1:
        axes[1].set_ylabel(f"{session.kinematics_names[1]} ({session.kinematics_units[1]})")


def _neurons(
    fig: Any, real: TrialSet, made: TrialSet, colour: dict[tuple[float, ...], str], session: Session, before: int
) -> None:
    known, which = real.conditions()
    means = [np.stack([t.rates[which == i].mean(0) for i in range(len(known))]) for t in (real, made)]
    best = np.argsort(means[0].var(0).sum(0) / (means[0].mean((0, 1)) + 1e-3))[::-1][:NEURONS]
    t = (np.arange(real.rates.shape[1]) - before + 0.5) * session.bin_s
    axes = fig.subplots(2, len(best), sharex=True, sharey="col", squeeze=False)
    for column, n in enumerate(best):
        for row, mean in enumerate(means):
            for i, target in enumerate(known):
                axes[row, column].plot(t, mean[i, :, n] / session.bin_s, color=colour.get(tuple(target), COLOUR["true"]), lw=1.1)
        axes[0, column].set_title(session.channels[n])
        axes[1, column].set_xlabel("from go cue (s)")
    axes[0, 0].set_ylabel("recorded\n(Hz)")
    axes[1, 0].set_ylabel("generated\n(Hz)")


def _realism(fig: Any, real: Floats | NDArray[np.float32], made: Floats | NDArray[np.float32]) -> None:
    one, two, three = fig.subplots(1, 3)
    sums = [x.sum(2).ravel() for x in (real, made)]
    edges = np.linspace(min(map(np.min, sums)), max(map(np.max, sums)) + 1, 32)
    for values, role, name in zip(sums, ("true", "after"), ("recorded", "generated"), strict=True):
        one.hist(values, edges, density=True, histtype="step", color=COLOUR[role], lw=1.4, label=name)
    one.set_title("spikes of the array")
    one.set_xlabel("per bin")
    one.set_yticks([])
    one.set_ylabel("share of bins")
    one.legend(loc="upper right", bbox_to_anchor=(1.08, 1.0), handlelength=0.8, handletextpad=0.5)
    found = [measures.intervals(np.asarray(x, np.float32)) for x in (real, made)]
    both = [k for k in range(len(found[0])) if min(len(f[k]) for f in found) >= 50]
    isi = [np.array([f[k].std() for k in both]) for f in found]
    flat = [np.asarray(x, float).reshape(-1, x.shape[2]) for x in (real, made)]
    awake = (flat[0].std(0) > 0) & (flat[1].std(0) > 0)
    upper = np.triu_indices(int(awake.sum()), 1)
    pairs = [np.atleast_2d(np.corrcoef(f[:, awake].T))[upper] for f in flat]
    for ax, (x, y), title, size in (
        (two, isi, "sd of ISIs (bins)", 3.0),
        (three, pairs, "correlations of pairs", 1.0),
    ):
        if len(x):
            low, high = float(min(x.min(), y.min())) - 0.02, float(max(x.max(), y.max())) + 0.02
            ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            ax.locator_params(nbins=4)
            ax.plot([low, high], [low, high], color=COLOUR["day 0"], lw=0.8)
            ax.plot(x, y, "o", ms=size, mew=0, color=COLOUR["after"], alpha=0.5)
        ax.set_title(title)
        ax.set_xlabel("recorded")
        ax.set_ylabel("generated")
