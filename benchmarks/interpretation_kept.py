"""Does the report name the factor that an alignment destroyed, and leave a good alignment alone? Real bundles and aligner."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bci_align.alignment import gate
from bci_align.alignment.erdiff import align
from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import AlignConfig, ExplainConfig, FactorConfig, GateConfig, TrainConfig
from bci_align.evaluation.score import evaluate
from bci_align.interpretation.carried import Carried, check_bundle, compare
from bci_align.interpretation.data import FactorDay, standard
from bci_align.interpretation.train import train_model
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, unlabelled
from bci_align.training import train_bundle
from bci_align_sim.mixed import NAMES, Wear, mixed_day
from benchmarks.common import Row, say

CALIBRATION, LATER = 60, 80
BUNDLE = TrainConfig(epochs=60, hidden=32, latents=8, prior_epochs=20, prior_width=16, window=60)
FACTORS = ExplainConfig(factors=FactorConfig(updates=150))
WEAR = Wear(gain_sd=0.3, turned=0.2)
HARM = 5.0
"""Points of R2 of one decoded output: an alignment that costs more is not a good one."""
FIRST_SEED = 80
"""The margin of a verdict was chosen on subjects before this one."""


def destroyed(read_in: ReadIn, session: Session, factor: int) -> ReadIn:
    """Damage a read-in on purpose: it no longer hears what the channels say of one behaviour.

    Normalised counts lose the direction along which they vary with the behaviour, ``x - c c.x / c.c``: afterwards no channel,
    and no linear map of channels, is correlated with it.
    """
    assert session.kinematics is not None
    x = (session.counts.astype(np.float64) - read_in.mean) * read_in.gain
    u = session.kinematics[:, factor].astype(np.float64)
    c = (x - x.mean(0)).T @ (u - u.mean())
    blind = np.eye(len(c)) - np.outer(c, c) / (c @ c)
    return replace(read_in, weight=(blind @ read_in.weight).astype(np.float32))


def one(seed: int, days: int, folder: Path) -> list[dict[str, Any]]:
    """One subject: a bundle and a factor model of day 0, and later days until ``days`` alignments of each kind are there.

    Which alignments are good is told by other means than the report's: the velocity decoder, stepped through the live pipeline,
    loses no output by more than :data:`HARM` points on the later trials. One that does is ``harmful`` and not damaged further:
    it has lost a factor of its own, while one that is damaged on purpose is to be named alone.
    """
    day0 = mixed_day(seed, trials=300)
    bundle = train_bundle(day0, BUNDLE, seed, folder / f"bundle-{seed}")
    model = train_model(day0, FACTORS, seed, folder / f"factors-{seed}", film=False)
    m = model.manifest
    out: list[dict[str, Any]] = []
    for k in range(1, 2 * days + 1):
        if sum(c["kind"] == "good" for c in out) == days:
            break
        day = mixed_day(seed, trials=CALIBRATION + LATER, wear=WEAR, day=k)
        trials = day.rewarded()
        calibration = unlabelled(day, trials[:CALIBRATION], BUNDLE.run_in)
        candidate = align(bundle, calibration, AlignConfig(), seed)
        later = FactorDay.later(day, standard(day), trials[CALIBRATION:])
        factor = (seed + k) % len(NAMES)
        before = np.array(evaluate(bundle, day, trials[CALIBRATION:])["r2_per_output"])
        for kind, read_in in (("good", candidate.read_in), ("destroyed", destroyed(candidate.read_in, day, factor))):
            made: Bundle = save_generation(bundle, read_in, folder / f"{kind}-{seed}-{k}", candidate.record)
            check_bundle(made, m.channels, m.bin_s, m.counts_sha256, str(made.path))
            change = np.array(evaluate(made, day, trials[CALIBRATION:])["r2_per_output"]) - before
            named = kind if kind == "destroyed" or change.min() >= -HARM else "harmful"
            worst = NAMES[factor if kind == "destroyed" else int(change.argmin())]
            out.append(
                _case(named, seed, k, worst, float(change.min()), compare(model.network, model.day, (bundle, made), later))
            )
            if named == "harmful":
                found = gate.judge(bundle, bundle.read_in, read_in, calibration, GateConfig(), candidate.matched, candidate.core)
                say(f"  the gate {'accepts it' if found.accepted else f'refuses it: {found.reason}'}")
                break
    return out


def _case(kind: str, seed: int, day: int, factor: str, change: float, carried: Carried) -> dict[str, Any]:
    """``factor``: what was destroyed, else the output that the decoder lost most of, by ``change`` points."""
    verdicts = {j.factor: j.verdict for j in carried.judged}
    lost = [n for n, v in verdicts.items() if v == "lost"]
    right = {
        "destroyed": lost == [factor],
        "good": all(v == "kept" for v in verdicts.values()),
        "harmful": verdicts[factor] != "kept",
    }[kind]
    lines = [j.line() for j in carried.judged]
    if not right or kind == "harmful":
        told = "as it should be" if right else "WRONG"
        say(f"{kind}, seed {seed}, day {day}, {factor} {change:+.1f} points by the decoder ({told}): " + "; ".join(lines))
    return {
        "kind": kind, "seed": seed, "day": day, "factor": factor, "change": change, "verdicts": verdicts, "right": right,
        "lines": lines,
    }  # fmt: skip


def run(subjects: int, days: int) -> list[dict[str, Any]]:
    """All cases: ``subjects`` x ``days`` of each kind."""
    out: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(FIRST_SEED, FIRST_SEED + subjects):
            out += one(seed, days, Path(folder))
            say(f"alignments, subject {seed}: {sum(c['right'] for c in out)} of {len(out)} right")
    return out


def acceptance(found: list[dict[str, Any]]) -> list[Row]:
    """Nobody accused wrongly, nobody overlooked."""
    rows = []
    for kind, what in (("destroyed", "the destroyed factor, and it alone, lost"), ("good", "every factor kept")):
        of = [c for c in found if c["kind"] == kind]
        wrong = sum(not c["right"] for c in of)
        rows.append(Row(f"report, {len(of)} {kind} alignments: not told {what}", str(wrong), "0", wrong == 0))
    of = [c for c in found if c["kind"] == "harmful"]
    if of:
        wrong = sum(not c["right"] for c in of)
        rows.append(
            Row(f"report, {len(of)} alignments that harmed an output by themselves: not named", str(wrong), "0", wrong == 0)
        )
    return rows
