"""Run every method on every pair and seed, in worker processes; a seed that fails is a row, not a lost run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bci_align.alignment.evidence import evidence
from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.alignment.rivals import RIVALS
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.comparison.methods import Fitted, Kind, Method, Ours, Task, methods
from bci_align.comparison.pairs import Pair
from bci_align.comparison.statistics import Floats, Truth
from bci_align.comparison.workers import workers
from bci_align.errors import BciAlignError
from bci_align.evaluation.score import check
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials, unlabelled
from bci_align.threads import one_thread
from bci_align.training import train_bundle

DRAWN = 40
"""Trials of each day whose latents are kept for a figure."""


@dataclass(frozen=True)
class Outcome:
    """What one method made of one pair with one seed.

    ``error`` (n, K): sums of squared errors over the bins of each scored trial, source standard deviations; None without
    kinematics. ``seconds`` CPU of its fitting. ``prior_loss`` and ``gaussian_kl`` (nats): label-free scores of the latents of the
    same trials, lower is nearer to the source day; None where there is no read-in (the loss: where the core moved, too).
    ``failed``: why there is no result.
    """

    method: str
    kind: Kind
    trials: int
    error: Floats | None = None
    seconds: float | None = None
    prior_loss: float | None = None
    gaussian_kl: float | None = None
    record: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Seed:
    """One pair with one seed: ``truth`` of the scored trials (None without kinematics), an outcome per method.

    ``latents``: of 'source', 'before' and 'after' (ours, most trials), a (T_i, d) array per trial; the first seed's alone.
    """

    pair: str
    seed: int
    truth: Truth | None = None
    outcomes: tuple[Outcome, ...] = ()
    latents: dict[str, list[Floats]] = field(default_factory=dict)
    failed: str | None = None


def run(
    pairs: Sequence[Pair],
    ours: Mapping[str, Ours],
    seeds: int,
    jobs: int,
    progress: Callable[[str, int, int], None] | None = None,
    bundles: Path | None = None,
    rivals: Sequence[str] = tuple(RIVALS),
) -> list[Seed]:
    """Compare on every pair with seeds 0 .. ``seeds`` - 1 in ``jobs`` processes of one thread each; in order of pair and seed.

    ``ours`` are functions of modules, by name. ``bundles``: a folder of source-day bundles called PAIR-SEED, taken where they
    belong to the pair and trained into it where they are missing. ``progress(stage, done, total)`` after every pair and seed.
    """
    todo = [(pair, seed) for seed in range(seeds) for pair in pairs]  # every pair early: a fault of one is told early
    done: dict[tuple[str, int], Seed] = {}
    # One folder for what all workers write: one that is ended half-way cannot clear up after itself.
    with tempfile.TemporaryDirectory() as work, workers(min(jobs, len(todo))) as pool:
        futures: dict[Future[Seed], tuple[Pair, int]] = {
            pool.submit(one, pair, dict(ours), seed, bundles, tuple(rivals), Path(work)): (pair, seed) for pair, seed in todo
        }
        for future in as_completed(futures):
            pair, seed = futures[future]
            try:
                done[pair.name, seed] = future.result()
            except Exception as e:  # a worker that was killed takes its row with it, not the run
                done[pair.name, seed] = Seed(pair.name, seed, failed=_told(e))
            if progress:
                progress("pairs x seeds", len(done), len(todo))
    return [done[pair.name, seed] for pair in pairs for seed in range(seeds)]


@one_thread()
def one(
    pair: Pair,
    ours: Mapping[str, Ours],
    seed: int,
    bundles: Path | None = None,
    rivals: Sequence[str] = tuple(RIVALS),
    work: Path | None = None,
) -> Seed:
    """Compare every method on one pair with one seed; ``work``: where the folder for what is written on the way is made."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        try:
            task = Task(pair, _bundle(pair, seed, bundles or Path(folder)), seed, Path(folder))
            truth = _truth(task)
        except Exception as e:
            return Seed(pair.name, seed, failed=_told(e))
        outcomes, after = [], None
        for method in methods(task, ours, rivals):
            outcome, fitted = _outcome(task, method)
            outcomes.append(outcome)
            if method.kind == "ours" and method.trials == pair.unlabelled_counts[-1] and after is None:
                after = fitted
        shown = _latents_shown(task, after) if seed == 0 and after is not None else {}
        return Seed(pair.name, seed, truth, tuple(outcomes), shown)


def _told(e: Exception) -> str:
    """One line; a fault that is not of our family shows its type, since it is a defect."""
    return str(e) if isinstance(e, BciAlignError) else f"{type(e).__name__}: {e}".strip()


def _bundle(pair: Pair, seed: int, folder: Path) -> Bundle:
    path = folder / f"{pair.name}-{seed}"
    if not path.exists():
        return train_bundle(pair.source, pair.train, seed, path)
    bundle = load_bundle(path)
    check(bundle, pair.source)
    trained = bundle.manifest.training
    told = (trained["counts_sha256"], trained["seed"], trained["config"])
    if told != (pair.source.fingerprint(), seed, pair.train.model_dump(mode="json")):
        raise BciAlignError(f"{path}: expected the bundle of pair {pair.name!r} with seed {seed}, found one trained otherwise")
    return bundle


def _truth(task: Task) -> Truth | None:
    day = task.pair.target
    if day.kinematics is None:
        return None
    return Truth.of([t / np.array(task.bundle.manifest.scale) for t in _cut(task, day.kinematics.astype(np.float64))])


def _cut(task: Task, values: Floats) -> list[Floats]:
    """Rows of ``values`` (T, K) of each scored trial."""
    return [values[slice(*task.pair.target.trial_bins(int(i)))] for i in task.scored]


def _outcome(task: Task, method: Method) -> tuple[Outcome, Fitted | None]:
    """Fit, decode, score. A method that fails is told and costs nobody else's result."""
    day = task.pair.target
    try:
        fitted = method.fit()
        error = None
        if day.kinematics is not None:
            off = (fitted.decode() - day.kinematics) / np.array(task.bundle.manifest.scale)
            error = np.stack([np.square(t).sum(0) for t in _cut(task, off)])
        loss = kl = None
        if fitted.read_in is not None:
            later = unlabelled(fitted.day, task.scored, task.bundle.manifest.run_in)
            if fitted.core is None:  # the prior's loss is asked of the frozen core
                loss = evidence(fitted.bundle, fitted.read_in, later).prior_loss
            every = np.concatenate(latents(fitted.bundle, fitted.read_in, later, fitted.core))
            kl = float(gaussian_kl_to_source(torch.from_numpy(every)))
    except Exception as e:
        return Outcome(method.name, method.kind, method.trials, failed=_told(e)), None
    return Outcome(method.name, method.kind, method.trials, error, fitted.seconds, loss, kl, fitted.record), fitted


def latents(bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials, core: SourceModel | None = None) -> list[Floats]:
    """Whitened latents (T_i, d) of each trial without its run-in, of the bundle's core or of another."""
    model = core or bundle.models()[0]
    model.set_read_in(read_in)
    with torch.no_grad():
        every = [model(torch.from_numpy(t)[None])[0][0].double().numpy() for t in trials.counts]
    return [z[r:] for z, r in zip(every, trials.run_in, strict=True)]


def _latents_shown(task: Task, after: Fitted) -> dict[str, list[Floats]]:
    """Some trials' latents of the source day, and of the scored trials with the source's read-in and with ours."""
    bundle, run_in, trials = task.bundle, task.bundle.manifest.run_in, task.scored[:DRAWN]
    source = bundle.source_trials()
    some = UnlabelledTrials(source.counts[:DRAWN], source.run_in[:DRAWN], source.bin_s, source.channels)
    before = unlabelled(task.registered(task.pair.calibration)[0], trials, run_in)
    assert after.read_in is not None  # ours are read-ins
    return {
        "source": latents(bundle, bundle.source_read_in(), some),
        "before": latents(bundle, bundle.read_in, before),
        "after": latents(after.bundle, after.read_in, unlabelled(after.day, trials, run_in), after.core),
    }
