"""What alignment costs: CPU seconds per step beside a prior of ERDiff's published size, and growth with trials and channels.

One thread. The published version (v2.0.0) aligns through a denoiser of 2,850,689 parameters, width 128; here STBlocks of that
width are stacked to that number and aligned with its kind of step, the loss differentiated through the denoiser, on the same
batches in the same process. Weights are untrained, which no timing sees.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bci_align.alignment.block import Block, encode
from bci_align.alignment.erdiff import align
from bci_align.alignment.refine import refine
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig, TrainConfig
from bci_align.diffusion.process import Diffusion
from bci_align.models.denoiser import LatentDenoiser
from bci_align.session.types import unlabelled
from bci_align.threads import one_thread
from bci_align.training import train_bundle
from bci_align_sim.day import simulate_days
from benchmarks.common import Row, arguments, finish, machine

PUBLISHED = {"parameters": 2_850_689, "width": 128}
STEPS = 10
TRIALS, CHANNELS = (60, 120, 240), (48, 96, 192)
LEAST_RATIO = 10.0
MOST_GROWTH = 1.1
"""Exponent of time against size; 1 is linear."""
ROUGH = TrainConfig(epochs=1, prior_epochs=1)
DAYS = 130
"""Trials on the source day."""


def cpu(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of ``work``, best of ``times``."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def published(latents: int) -> Diffusion:
    """STBlocks of the published width, as many as come nearest to the published number of parameters."""

    def build(blocks: int) -> Diffusion:
        return Diffusion(LatentDenoiser(latents, PUBLISHED["width"], blocks))

    def size(d: Diffusion) -> int:
        return sum(p.numel() for p in d.parameters())

    one, two = size(build(1)), size(build(2))
    blocks = round((PUBLISHED["parameters"] - one) / (two - one)) + 1
    return build(blocks).requires_grad_(False)


def day(channels: int, trials: int, folder: Path) -> tuple[Bundle, Block, Callable[[], object]]:
    """A rough bundle, a block of ``trials`` of its drifted day, and the whole alignment to them."""
    source, target = simulate_days(1, (DAYS, round(trials * 1.3)), bin_s=0.05, channels=channels)
    bundle = train_bundle(source, ROUGH, 0, folder / f"{channels}-{trials}")
    block = unlabelled(target, target.rewarded()[:trials], bundle.manifest.run_in)
    return bundle, Block.of(block, bundle.read_in), lambda: align(bundle, block, AlignConfig(), 0)


@one_thread()
def main() -> int:
    """Run the benchmark."""
    args = arguments(__doc__)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bundle, block, whole = day(CHANNELS[1], TRIALS[1], Path(folder) / "step")
        model, prior = bundle.models()
        model.requires_grad_(False)
        prior.requires_grad_(False)
        big = published(bundle.manifest.latents)
        window = bundle.manifest.prior.window
        source = Block.of(bundle.source_trials(), bundle.source_read_in())
        latents = encode(model, source.x)[source.inside]

        def steps(p: Diffusion, config: AlignConfig) -> Callable[[], object]:
            return lambda: refine(model, p, block, window, config, 0, latents)

        ours = AlignConfig(steps=STEPS)
        theirs = AlignConfig(steps=2 if args.quick else STEPS, objective="denoising")
        steps(prior, ours)()  # the first call imports and allocates
        a, b = cpu(steps(prior, ours), 3) / ours.steps, cpu(steps(big, theirs)) / theirs.steps
        same = cpu(steps(prior, theirs)) / theirs.steps
        total = cpu(whole, 2)
        sizes = {
            "trials": (TRIALS, [(CHANNELS[1], n) for n in TRIALS]),
            "channels": (CHANNELS, [(c, TRIALS[1]) for c in CHANNELS]),
        }
        growth = {}
        for name, (along, days) in sizes.items():
            seconds = [cpu(day(*d, Path(folder) / name)[2], 1 if args.quick else 2) for d in days]
            growth[name] = (float(np.polyfit(np.log(along), np.log(seconds), 1)[0]), seconds)
    if not args.json:
        count = sum(p.numel() for p in big.parameters())
        print(machine())
        print(f"one step, CPU ms: ours {1e3 * a:.0f}; through the denoiser's Jacobian {1e3 * same:.0f};", end=" ")
        print(f"at the published size ({count:,} parameters) {1e3 * b:.0f}")
        print(f"whole alignment, {TRIALS[1]} trials, {CHANNELS[1]} channels, windows of {window} bins: {total:.1f} CPU s")
        for name, (exponent, seconds) in growth.items():
            print(f"{name} {sizes[name][0]}: {', '.join(f'{s:.1f}' for s in seconds)} CPU s, exponent {exponent:.2f}")
        print("GPU: not measured")
    acceptance = [Row("CPU s per step, published size / ours", b / a, f">= {LEAST_RATIO:g}", b / a >= LEAST_RATIO)]
    acceptance += [
        Row(f"growth with {name}, exponent", exponent, f"<= {MOST_GROWTH:g}", exponent <= MOST_GROWTH)
        for name, (exponent, _) in growth.items()
    ]
    result = {
        "machine": machine(),
        "step_s": {"ours": a, "jacobian": same, "published": b},
        "alignment_s": total,
        "growth": growth,
    }
    return finish(result, acceptance, args.json)


if __name__ == "__main__":
    sys.exit(main())
