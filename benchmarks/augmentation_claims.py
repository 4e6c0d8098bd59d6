"""The paper's claims of codes and generated trials, measured for a space of codes beside a sequential VAE and PCA-20."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bci_align.augmentation import codes, measures, rivals
from bci_align.augmentation.encoding import Encoding
from bci_align.augmentation.generate import Generator
from bci_align.augmentation.spaces import LinearSpace, Space
from bci_align.augmentation.trials import TrialSet, cut, window_bins
from bci_align.config import AugmentConfig
from bci_align.session.types import Session
from benchmarks.common import say

OURS, VAE, PCA, TASK = "ours", "sequential VAE", "PCA-20", "the task itself"
DRAWS = 4
"""Of spikes, whose realism is averaged."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One method on one data set with one seed: every measure by name, and each neuron's ``rate_r2`` (C,).

    Method :data:`TASK` is none: what the task alone would show (:func:`~bci_align.augmentation.measures.of_the_task`; no rates).
    """

    data: str
    method: str
    seed: int
    values: dict[str, float]
    rate_r2: Floats


def split(trials: TrialSet, held_out_targets: int, seed: int) -> tuple[TrialSet, TrialSet, TrialSet]:
    """Training trials, test trials of the same targets (a fifth), and all trials of ``held_out_targets`` others."""
    known, which = trials.conditions()
    rng = np.random.default_rng(seed)
    away = np.isin(which, rng.permutation(len(known))[:held_out_targets])
    near = rng.permutation(np.flatnonzero(~away))
    cut_at = len(near) // 5
    return trials.of(np.sort(near[cut_at:])), trials.of(np.sort(near[:cut_at])), trials.of(away)


def measure(data: str, session: Session, config: AugmentConfig, held_out_targets: int, seed: int, refit: bool) -> list[Measured]:
    """All measures of ours, the VAE and PCA-20 on ``session``; with ``refit`` ours is trained again on another smoothing."""
    trials, _ = cut(session, session.rewarded(), config)
    before = window_bins(config, session.bin_s)[0]
    train, test, away = split(trials, held_out_targets, seed)
    sizes = (train.rates.shape[1], train.rates.shape[2], train.kinematics.shape[2])
    parameters = sum(p.numel() for n in codes.untrained(config, *sizes) for p in n.parameters())
    floor = measures.floor_of_realism(train.counts, len(test), seed)
    spaces: dict[str, Callable[[TrialSet], Space]] = {
        OURS: lambda t: codes.train(t, config, seed),
        VAE: lambda t: rivals.train_vae(t, config, seed, parameters),
        PCA: lambda t: LinearSpace.fit(t, 20, config.sees_kinematics),
    }
    out = []
    for method, fit in spaces.items():
        started = time.process_time()
        space = fit(train)
        taken = time.process_time() - started
        generator = Generator.fit(space, train, before, seed)
        held_in = space.encode(train), space.encode(test)
        r2 = measures.rate_r2(space, test, generator.gain)
        made = [generator.of_codes(held_in[1], test.target, seed * DRAWS + i).counts for i in range(DRAWS)]
        values = {
            "code SNR": measures.code_snr((held_in[0], train.target), (held_in[1], test.target)),
            "rate R2": float(np.nanmedian(r2)),
            "held-out target error": measures.held_out_error(space, train, away),
            "CPU s": taken,
        }
        values |= measures.traversal(space, generator.navigator, train, before, seed)
        above = measures.averaged([measures.realism(m, test.counts) for m in made])
        values |= {k: v / max(floor[k], 1e-12) for k, v in above.items()}
        if method == OURS and refit:
            values["smoothing"] = _refitted(session, config, held_out_targets, seed, values["held-out target error"])
        out.append(Measured(data, method, seed, values, r2))
        say(f"  {data}, seed {seed}, {method}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()))
    return [*out, Measured(data, TASK, seed, measures.of_the_task(train, before), np.full(train.rates.shape[2], np.nan))]


def _refitted(session: Session, config: AugmentConfig, held_out_targets: int, seed: int, before: float) -> float:
    """Relative change of the held-out error with a kernel 1.6 times as wide."""
    wider = config.model_copy(update={"smoothing_s": 1.6 * config.smoothing_s})
    train, _, away = split(cut(session, session.rewarded(), wider)[0], held_out_targets, seed)
    return measures.held_out_error(codes.train(train, wider, seed), train, away) / before - 1


def cost(session: Session, config: AugmentConfig) -> dict[str, float]:
    """CPU seconds, one thread, of training on all of ``session``'s rewarded trials and of generating 1000 trials with spikes."""
    trials, _ = cut(session, session.rewarded(), config)
    started = time.process_time()
    space = codes.train(trials, config, 0)
    before = window_bins(config, session.bin_s)[0]
    generator = Generator.fit(space, trials, before, 0, encoding=Encoding.fit(trials, before, session.bin_s))
    trained = time.process_time()
    known = trials.conditions()[0]
    made, _ = generator.towards(trials, known, -(-1000 // len(known)), 0)
    return {"training": trained - started, "1000 trials": (time.process_time() - trained) * 1000 / len(made)}
