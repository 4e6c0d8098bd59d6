"""The pixel U-Net: end to end at 32 x 32 x 24 on the CPU, and at the paper's 128 x 128 x 189 where there is a GPU."""

from __future__ import annotations

import time

import torch

from bci_align.diffusion.guide import Guide
from bci_align.diffusion.process import Diffusion
from bci_align.models.video_unet import VideoUNet
from benchmarks.common import Row, say


def once(size: int, frames: int, device: str, width: int = 32) -> float:
    """Take one training step and draw one guided clip in 3 strides; CPU seconds, or seconds on a GPU."""
    clock = time.process_time if device == "cpu" else time.monotonic
    started = clock()
    generator = torch.Generator().manual_seed(0)
    diffusion = Diffusion(VideoUNet(3, width, 3), steps=200).to(device)
    optimiser = torch.optim.AdamW(diffusion.parameters(), 1e-4)
    x = torch.rand(1, frames, size, size, generator=generator).to(device) * 2 - 1
    diffusion.loss(x, generator).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    guide = Guide(lambda x0, t: x0.mean((2, 3)).var(1), 1.0)
    drawn = diffusion.sample((1, frames, size, size), generator, 3, guide=guide)
    if not bool(torch.isfinite(drawn).all()):
        raise ArithmeticError("the pixel U-Net gave values that are not finite")
    return clock() - started


def acceptance() -> list[Row]:
    """Both sizes, or the reason why not."""
    small = once(32, 24, "cpu")
    say(f"pixel U-Net at 32 x 32 x 24 on the CPU: {small:.1f} s")
    rows = [Row("pixel U-Net, 32 x 32 x 24: a training step and a guided clip, CPU s", small, "runs", True)]
    name = "pixel U-Net, 128 x 128 x 189 on a GPU: a training step and a guided clip"
    if not torch.cuda.is_available():
        return [*rows, Row(name, "not measured: no GPU", "runs", True)]
    return [*rows, Row(name, f"{once(128, 189, 'cuda'):.1f} s", "runs", True)]
