"""The film of one factor: unguided, guided, naive manipulation, classifier-free, and what the guide changed, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bci_align.diffusion.guide import Condition, Guide
from bci_align.errors import InterpretationError
from bci_align.interpretation.clips import Filming, device_of, told
from bci_align.interpretation.guide import factor_guide
from bci_align.threads import one_thread

Array = NDArray[np.float32]

PANELS = ("unguided", "guided", "naive", "classifier-free")
SIDE = 128
"""Pixels of a panel's shorter side."""
GAP, STRIP = 8, 18


@dataclass(frozen=True)
class Film:
    """Clips (n, L, H, W) in 0..1 by panel; unguided and guided begin at the same noise."""

    clips: dict[str, Array]


def noise(filming: Filming, clips: int, seed: int) -> Tensor:
    """The noise (n, L, ...) that all films of ``seed`` begin at."""
    return torch.randn(clips, *filming.sample_shape(), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw(filming: Filming, x: Tensor, guide: Guide | None = None, cond: Condition | None = None) -> Array:
    """Draw clips (n, L, H, W) in 0..1 from noise ``x`` (n, L, ...) by DDIM."""
    sample = filming.diffusion.sample(
        tuple(x.shape), torch.Generator().manual_seed(0), filming.config.strides, x_T=x, guide=guide, cond=cond
    )
    if not bool(torch.isfinite(sample).all()):
        raise InterpretationError(f"film: the guided clip ceased to be finite; lower film.scale, now {filming.config.scale:g}")
    return filming.to_frames(sample).clamp(0, 1).cpu().numpy()


def led(filming: Filming, chosen: int, clips: int) -> Tensor:
    """Factors (n, L, D) in which ``chosen`` does what it does in a lively real clip and all others rest at their mean."""
    z = torch.zeros(clips, filming.length, filming.factors)
    z[:, :, chosen] = filming.lead[:, chosen].cpu()
    return z


def guide_to(filming: Filming, chosen: int) -> Guide:
    """The guide of Eq. 8 that activates factor ``chosen``, with the settings that ``filming`` was trained with."""
    config = filming.config
    return factor_guide(
        lambda x0: filming.encoder(filming.to_codes(x0)), chosen, config.temperature, config.scale, filming.caps[chosen]
    )


@one_thread()
def make_film(
    filming: Filming, chosen: int, clips: int = 1, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Film:
    """Draw ``clips`` clips of factor ``chosen`` in all four ways.

    Naive manipulation is the frame regression of :func:`led`'s factors, the same for every clip; classifier-free guidance draws
    clips under the same factors.
    """
    device = device_of(filming.config)
    filming = filming.to(device)
    x, z = noise(filming, clips, seed).to(device), led(filming, chosen, clips).to(device)
    made: dict[str, Array] = {}

    def tell() -> None:
        if progress:
            progress(len(made), len(PANELS))

    made["unguided"] = draw(filming, x)
    tell()
    made["guided"] = draw(filming, x, guide_to(filming, chosen))
    tell()
    with torch.no_grad():
        made["naive"] = filming.codec.decode(filming.regressor(z)).clamp(0, 1).cpu().numpy()
    tell()
    null = torch.zeros_like(told(z))
    made["classifier-free"] = draw(filming, x, cond=Condition(told(z), null, filming.config.free_weight))
    tell()
    return Film(made)


def compose(film: Film, factor: str) -> NDArray[np.uint8]:
    """Lay a film's panels side by side, one row per clip: frames (L, H', W', 3).

    The last panel is guided minus unguided: orange where the guide brightened a pixel, blue where it darkened it.
    """
    change = film.clips["guided"] - film.clips["unguided"]
    n, length, height, width = change.shape
    times = max(SIDE // min(height, width), 1)
    panels = [_grey(film.clips[name], times) for name in PANELS] + [_signed(change, times)]
    titles = [*PANELS, "guided - unguided"]
    h, w = height * times, width * times
    font = ImageFont.load_default(size=12)
    out = np.full((length, STRIP + n * (h + GAP) + GAP, len(panels) * (w + GAP) + GAP, 3), 255, np.uint8)
    label = Image.new("RGB", (out.shape[2], STRIP), "white")
    for k, title in enumerate(titles):
        shown = f"{factor}: {title}" if title == "guided" else title
        ImageDraw.Draw(label).text((GAP + k * (w + GAP), 2), shown, fill="black", font=font)
        for i in range(n):
            top, left = STRIP + GAP // 2 + i * (h + GAP), GAP + k * (w + GAP)
            out[:, top : top + h, left : left + w] = panels[k][i]
    out[:, :STRIP] = np.asarray(label)
    return out


def _grow(a: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    return a.repeat(times, axis=2).repeat(times, axis=3)


def _grey(clips: Array, times: int) -> NDArray[np.uint8]:
    return _grow(np.repeat((clips * 255).round().astype(np.uint8)[..., None], 3, axis=-1), times)


def _signed(change: Array, times: int) -> NDArray[np.uint8]:
    up, down = np.clip(change, 0, 1)[..., None], np.clip(-change, 0, 1)[..., None]
    orange, blue = np.array([0.84, 0.37, 0.0]), np.array([0.0, 0.45, 0.70])
    shown = 1 - up * (1 - orange) - down * (1 - blue)
    return _grow((np.clip(shown, 0, 1) * 255).round().astype(np.uint8), times)
