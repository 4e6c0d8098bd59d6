"""The gate: what a candidate must show, without labels, before it may decode.

Each check is blind to a different mistake, and every one must pass. They compare today with the source day, measured in the same
way on the source day's own trials, and with the incumbent. What they let through, and what they refuse in vain, on hundreds of
good and bad days, is printed by ``python -m benchmarks.gate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bci_align.alignment.evidence import Evidence, agreement, common, evidence, likeness
from bci_align.bundle.store import Bundle
from bci_align.config import GateConfig
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials


@dataclass(frozen=True)
class Verdict:
    """``accepted`` or not, why (``reason``, one sentence), and every check with ``name``, ``value``, ``bound``, ``passed``."""

    accepted: bool
    reason: str
    checks: tuple[dict[str, Any], ...]


def judge(
    bundle: Bundle,
    incumbent: ReadIn,
    candidate: ReadIn,
    trials: UnlabelledTrials,
    config: GateConfig,
    matched: NDArray[np.intp] | None = None,
    encoder: SourceModel | None = None,
) -> Verdict:
    """Judge ``candidate`` on today's unlabelled ``trials``.

    ``matched`` (C_t,) says which source channel each of today's is (-1: none); None where they are the same. After a rotation,
    which matches none, tunings cannot be compared: the rotation's margin over the next best stands for that check. ``encoder``
    holds the core where more than the read-in moved. An ``incumbent`` of another number of channels is not compared with.
    """
    checks = [
        _check("finite weights", candidate.finite(), "all", candidate.finite()),
        _check("calibration trials", len(trials), f">= {config.min_trials}", len(trials) >= config.min_trials),
    ]
    if all(c["passed"] for c in checks):
        stuck = stuck_channels(trials)
        most = config.most_stuck * len(trials.channels)
        checks.append(_check("channels stuck at one count", stuck, f"<= {int(most)}", stuck <= most))
        today = evidence(bundle, candidate, trials, encoder)
        checks += _beside_source(bundle, today, config, matched)
        if len(incumbent.gain) == len(candidate.gain):
            before = evidence(bundle, incumbent, trials)
            bound = before.prior_loss * (1 + config.prior_margin)
            text = f"<= {bound:.4f} (incumbent {before.prior_loss:.4f})"
            ok = bool(np.isfinite(today.prior_loss)) and today.prior_loss <= bound
            checks.append(_check("prior denoising loss", today.prior_loss if ok else f"{today.prior_loss:.4f}", text, ok))
            alike = likeness(today.outputs, before.outputs)
            bound = config.most_alike
            checks.append(_check("likeness to the incumbent's output", alike, f"<= {bound:g}", alike <= bound))
            checks += _beside_incumbent(bundle, today, before, config, matched)
    failed = [c for c in checks if not c["passed"]]
    reason = "every check passed" if not failed else "; ".join(f"{c['name']} {c['value']}, expected {c['bound']}" for c in failed)
    return Verdict(not failed, reason, tuple(checks))


def _beside_source(bundle: Bundle, today: Evidence, config: GateConfig, matched: NDArray[np.intp] | None) -> list[dict[str, Any]]:
    """Compare with the source day's own trials under its own read-in."""
    source = _of_source_day(bundle)
    same, partner = _pairs(today, matched)
    alike = agreement(today.slope[same], source.slope[partner]) if len(same) else None
    information = today.information / source.information
    diversity = today.diversity / source.diversity
    halves = today.halves / source.halves if source.halves > 0 else 0.0
    low, high = config.information
    unsteady = common(today.left_over) / _of_as_many(source.left_over, len(today.left_over))
    out = [
        _check("common deviation of trials, over the source's", unsteady, f"<= {config.unsteady:g}", unsteady <= config.unsteady),
        _check(
            "agreement of the channels' tuning with the source day's",
            "no channel is matched" if alike is None else alike,
            f">= {config.agreement:g}",
            alike is None or alike >= config.agreement,
        ),
        _check(
            "what channels say of each other, over the source's", information, f"{low:g} to {high:g}", low <= information <= high
        ),
        _check(
            "agreement of two halves of the channels on the movement, over the source's",
            halves,
            f">= {config.halves:g}",
            halves >= config.halves,
        ),
        _check("Gaussian KL of the latents to the source's (nats)", today.kl, f"<= {config.kl:g}", today.kl <= config.kl),
        _check("spread between trials over the source's", diversity, f">= {config.diversity:g}", diversity >= config.diversity),
    ]
    low, high = config.spread
    ratios = (today.outputs.std(0) / source.outputs.std(0)).tolist()
    for name, ratio in zip(bundle.manifest.outputs, ratios, strict=True):
        out.append(_check(f"spread of {name} over the source's", ratio, f"{low:g} to {high:g}", low <= ratio <= high))
    return out


def _beside_incumbent(
    bundle: Bundle, today: Evidence, before: Evidence, config: GateConfig, matched: NDArray[np.intp] | None
) -> list[dict[str, Any]]:
    """Ask of every output whether the channels are still tuned to it as on the source day, about as far as under the incumbent.

    Where an output has come to decode something else that moves as lively and is heard in as many channels, nothing but this
    tells.
    """
    source = _of_source_day(bundle)
    same, partner = _pairs(today, matched)
    if not len(same):
        return []
    out = []
    for k, name in enumerate(bundle.manifest.outputs):
        now, then = (agreement(e.to_outputs[same, k], source.to_outputs[partner, k]) for e in (today, before))
        bound = then - config.fall
        what = f"agreement of the channels' tuning to {name} with the source day's"
        out.append(_check(what, now, f">= {bound:.4f} (incumbent {then:.4f})", now >= bound))
    return out


def _pairs(today: Evidence, matched: NDArray[np.intp] | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Channels of today that are matched, and the source channels that they are matched to."""
    same = np.arange(len(today.slope)) if matched is None else np.flatnonzero(matched >= 0)
    return same, same if matched is None else matched[same]


def _of_as_many(left_over: Tensor, trials: int) -> float:
    """The source day's own :func:`common`, mean over stretches of as many trials; of all where there are fewer."""
    firsts = range(0, max(len(left_over) - trials, 0) + 1, trials)
    return float(np.mean([common(left_over[i : i + trials]) for i in firsts]))


_known: dict[str, Evidence] = {}


def _of_source_day(bundle: Bundle) -> Evidence:
    """Collect the source day's own evidence, once per bundle: it never changes."""
    if bundle.identity not in _known:
        _known.clear()
        _known[bundle.identity] = evidence(bundle, bundle.source_read_in(), bundle.source_trials())
    return _known[bundle.identity]


STUCK = 0.5
"""A channel is stuck that shows one and the same count above zero in more than this share of the bins."""


def stuck_channels(trials: UnlabelledTrials) -> int:
    """Channels that sit at one count: saturated, or a filter's idle tone. No spiking channel does, save at zero."""
    x = np.concatenate(trials.bodies())
    middle = np.median(x, 0)
    return int(((middle > 0) & ((x == middle).mean(0) > STUCK)).sum())


def _check(name: str, value: Any, bound: str, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4) if isinstance(value, float) else value, "bound": bound, "passed": bool(passed)}
