"""The first gate: what a candidate must show, without labels, before it may decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bci_align.bundle.store import Bundle
from bci_align.config import GateConfig
from bci_align.diffusion.windows import cut, pad
from bci_align.models.encoder import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread


@dataclass(frozen=True)
class Verdict:
    """``accepted`` or not, why (``reason``, one sentence), and every check with ``name``, ``value``, ``bound``, ``passed``."""

    accepted: bool
    reason: str
    checks: tuple[dict[str, Any], ...]


def judge(bundle: Bundle, incumbent: ReadIn, candidate: ReadIn, trials: UnlabelledTrials, config: GateConfig) -> Verdict:
    """Compare ``candidate`` with ``incumbent`` on today's unlabelled ``trials``; every check must pass.

    Checks: finite weights; enough trials; the prior's denoising loss not worse than the incumbent's by more than
    ``config.prior_margin`` (relative); each decoded output's standard deviation within ``config.spread`` of the source day's.
    The denoising loss alone would wave a collapsed candidate through; the spread is what it cannot fake.
    """
    checks = [
        _check("finite weights", candidate.finite(), "all", candidate.finite()),
        _check("calibration trials", len(trials), f">= {config.min_trials}", len(trials) >= config.min_trials),
    ]
    if all(c["passed"] for c in checks):
        before, after = prior_loss(bundle, incumbent, trials), prior_loss(bundle, candidate, trials)
        bound = before * (1 + config.prior_margin)
        checks.append(_check("prior denoising loss", after, f"<= {bound:.4f} (incumbent {before:.4f})", after <= bound))
        low, high = config.spread
        pipeline = bundle.pipeline()
        decoded = np.concatenate([pipeline.run(t, candidate)[trials.run_in :] for t in trials.counts])
        for name, ratio in zip(bundle.manifest.outputs, decoded.std(0) / pipeline.scale, strict=True):
            ok = low <= ratio <= high
            checks.append(_check(f"spread of {name} over the source's", float(ratio), f"{low:g} to {high:g}", bool(ok)))
    failed = [c for c in checks if not c["passed"]]
    reason = "every check passed" if not failed else "; ".join(f"{c['name']} {c['value']}, expected {c['bound']}" for c in failed)
    return Verdict(not failed, reason, tuple(checks))


@one_thread()
@torch.no_grad()
def prior_loss(bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials, draws: int = 8) -> float:
    """Denoising loss of the trials' latents under the frozen prior, with always the same windows and noise; lower is likelier.

    Infinity when no trial fills the prior's window: nothing can be said for such a candidate.
    """
    source, prior = bundle.models()
    source.set_read_in(read_in)
    window = bundle.manifest.prior.window
    long = [t for t in trials.counts if len(t) >= window]
    if not long:
        return float("inf")
    padded, lengths = pad(long)
    latents, _, _ = source(padded)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    return float(np.mean([float(prior.loss(cut(latents, lengths, trials.run_in, window, rng), generator)) for _ in range(draws)]))


def _check(name: str, value: Any, bound: str, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4) if isinstance(value, float) else value, "bound": bound, "passed": passed}
