"""Ablations of the factor VAE: which part tells the behaviours apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bci_align.cli.common import table
from bci_align.config import ExplainConfig, FactorConfig, load
from bci_align.interpretation.data import FactorDay
from bci_align.interpretation.factors import fit_factors
from bci_align.interpretation.train import measures
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session
from bci_align_sim.mixed import mixed_day
from benchmarks.common import ROOT, Row, centerout, data, say
from benchmarks.interpretation_ideal import ideal

OURS, VANILLA = "ours: diagonal head, TC (Gaussian)", "vanilla VAE"
VARIANTS: dict[str, dict[str, Any]] = {
    VANILLA: {"head": "none", "correlation_weight": 0.0},
    "labels, full head": {"head": "full", "correlation_weight": 0.0},
    "diagonal head, no TC": {"correlation_weight": 0.0},
    OURS: {},
    "diagonal head, TC (minibatch)": {"correlation": "minibatch"},
    "no labels, TC (Gaussian)": {"head": "none"},
}
MAIN = (VANILLA, OURS)
"""Variants on the real sets; which part does what is told on the synthetic one, where the truth is known."""
SYNTHETIC = "synthetic, mixed selectivity"
INDEPENDENT = (SYNTHETIC,)
"""Sets whose behaviours are independent: only there can no factor know of another behaviour."""
COLUMNS = ("mig", "relative_gap", "ksg_gap", "reconstruction_r2", "reconstruction_rmse", "off_diagonal")


def synthetic(seed: int) -> tuple[Session, ExplainConfig]:
    """1000 trials of 25 bins, so that the 400 held out have the 10,000 frames that the MIG needs."""
    return mixed_day(seed), ExplainConfig(factors=FactorConfig(held_out=0.4))


def isometric_emg(seed: int) -> tuple[Session, ExplainConfig]:
    """Isometric day 0: the two force axes, their speed, three groups of muscles."""
    map = load(ImportMap, ROOT / "configs" / "import" / "isometric_emg.yaml")
    return import_file(data("isometric_day0.npz"), map), load(ExplainConfig, ROOT / "configs" / "explain" / "isometric_emg.yaml")


def centerout_velocity(seed: int) -> tuple[Session, ExplainConfig]:
    """Centre-out source session: the two velocities and their length."""
    return centerout("source", "velocity"), ExplainConfig()


SETS: dict[str, tuple[Callable[[int], tuple[Session, ExplainConfig]], tuple[str, ...]]] = {
    SYNTHETIC: (synthetic, tuple(VARIANTS)),
    "isometric day 0": (isometric_emg, MAIN),
    "centre-out": (centerout_velocity, MAIN),
}


def one(session: Session, config: ExplainConfig, variant: str, seed: int, updates: int | None) -> dict[str, Any]:
    """Train one variant and measure it on the held-out trials; CPU seconds beside it."""
    factors = config.factors.model_copy(update=VARIANTS[variant] | ({"updates": updates} if updates else {}))
    day = FactorDay.of(session, config.behaviours, factors.held_out, seed)
    started = time.process_time()
    network, _ = fit_factors(day.cut(False), factors, seed, where=session.name)
    cpu = time.process_time() - started
    return measures(network, day, seed) | {"cpu_s": cpu, "names": day.names}


def run(
    name: str, seeds: int, updates: int | None = None, variants: tuple[str, ...] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """All variants of one set over ``seeds``: measures by variant, one entry per seed."""
    make, every = SETS[name]
    out: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        session, config = make(seed)
        for variant in variants or every:
            out.setdefault(variant, []).append(one(session, config, variant, seed, updates))
            found = out[variant][-1]
            say(f"{name}, seed {seed}, {variant}: MIG {found['mig']:.3f}, {found['cpu_s']:.1f} CPU s")
        if name == SYNTHETIC:
            day = FactorDay.of(session, config.behaviours, config.factors.held_out, seed)
            out[next(iter(out))][-1]["ideal"] = ideal(day, seed)
    return out


def _mean(found: list[dict[str, Any]], column: str) -> str:
    values = [f[column] for f in found]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0.0:.3f}"


def share(found: dict[str, Any]) -> float:
    """Least share of a behaviour's full-Z R2 that its own factor has."""
    return float(np.min(np.asarray(found["diagonal"]) / np.asarray(found["r2_full"])))


def show(name: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """The ablation table of one set, the oracle last, and our matrix under it."""
    rows: list[tuple[str, ...]] = [
        ("variant", "diagonal / full R2", "off-diagonal", "MIG", "rel. gap", "KSG gap", "rec. R2", "rec. RMSE", "CPU s")
    ]
    for variant, of in found.items():
        for f in of:
            f["share"] = share(f)
        columns = ("share", "off_diagonal", "mig", "relative_gap", "ksg_gap", "reconstruction_r2", "reconstruction_rmse")
        rows.append((variant, *(_mean(of, c) for c in columns), f"{np.mean([f['cpu_s'] for f in of]):.1f}"))
    first = found[next(iter(found))]
    for bound, what in (("ideal", "ideal observer, who knows the generator"), ("oracle", "oracle z = u")):
        if bound in first[0]:
            rows.append(_bound(what, [f[bound] for f in first]))
    ours = found.get(OURS, first)
    names, r2 = ours[0]["names"], np.mean([f["r2"] for f in ours], axis=0)
    matrix: list[tuple[str, ...]] = [("R2 (ours, mean of seeds)", *names)]
    matrix += [(n, *(f"{v:.2f}" for v in row)) for n, row in zip([*names, *(["free"] * (len(r2) - len(names)))], r2, strict=True)]
    full = np.mean([f["r2_full"] for f in ours], axis=0)
    matrix.append(("all factors", *(f"{v:.2f}" for v in full)))
    frames = first[0]["frames"]
    return f"\n{name}: {len(first)} seeds, {frames} held-out frames\n{table(rows)}\n\n{table(matrix)}"


def _bound(what: str, of: list[dict[str, Any]]) -> tuple[str, ...]:
    """A row of the table for what no method can exceed."""
    off = np.mean([np.max(o["r2"] - 2 * np.eye(len(o["r2"]))) for o in of])
    return (what, "1", f"{off:.3f}", *(_mean(of, c) for c in ("mig", "relative_gap", "ksg_gap")), "-", "-", "-")


def acceptance(name: str, found: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """Acceptance rows of one set: means over seeds."""
    ours, vanilla = found[OURS], found[VANILLA]

    def mean(of: list[dict[str, Any]], column: str) -> float:
        return float(np.mean([f[column] for f in of]))

    least = float(np.mean([share(f) for f in ours]))
    gap, mig = mean(ours, "relative_gap"), mean(ours, "mig")
    times = mig / mean(vanilla, "mig")
    most = f"; ideal {np.mean([f['ideal']['mig'] for f in vanilla]):.3f}" if "ideal" in vanilla[0] else ""
    cost = mean(vanilla, "reconstruction_r2") - mean(ours, "reconstruction_r2")
    rows = [Row(f"{name}: diagonal R2 / full-Z R2, worst behaviour", least, ">= 0.95", least >= 0.95)]
    if name in INDEPENDENT:
        off = max(f["off_diagonal"] for f in ours)
        rows.append(Row(f"{name}: off-diagonal R2, worst seed", off, "<= 0.05", off <= 0.05))
    return [
        *rows,
        Row(f"{name}: relative gap", gap, ">= 0.80", gap >= 0.80),
        Row(f"{name}: MIG / vanilla's ({mig:.3f} / {mean(vanilla, 'mig'):.3f}{most})", times, ">= 10", times >= 10),
        Row(f"{name}: reconstruction R2, vanilla minus ours", cost, "<= 0.03", cost <= 0.03),
    ]
