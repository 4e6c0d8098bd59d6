"""Films of a real day: isometric day 0, an arm that the force moves and bars for three groups of muscles, by a tracker of pixels.

The behaviours share much (the muscles make the force), so that a film of one factor can leave the others' no more alone than the
clips themselves do: how lively the others are in real clips in which the filmed behaviour is as lively stands beside.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.cli.common import table
from bci_align.interpretation.film import make_film
from bci_align.interpretation.scene import BAR, render
from bci_align.interpretation.train import train_model
from benchmarks.common import Row, say
from benchmarks.interpretation_factors import isometric_emg
from benchmarks.interpretation_film import selectivity

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

SEED = 0
CLIPS = 12
HAND = 0.6
"""Brightness above which a pixel is the hand's: the arm's is 0.5 at most."""
LIVELY = 0.1
"""Share of the real clips in which the filmed behaviour varies most: those a guided clip is compared with."""


def track(clips: Array, bars: int) -> Floats:
    """Hand's column and row, pixels, its speed, pixels per frame, and the bars' heights, 0..1: (n, L - 1, 3 + bars)."""
    size = clips.shape[2]
    bright = np.clip(clips[..., :size].astype(np.float64) - HAND, 0, None) + 1e-9
    at, mass = np.arange(size), bright.sum((2, 3))
    hand = np.stack([(bright.sum(2) * at).sum(-1) / mass, (bright.sum(3) * at).sum(-1) / mass], axis=-1)
    speed = np.linalg.norm(np.diff(hand, axis=1), axis=-1, keepdims=True)
    heights = [clips[..., size + BAR * k + 1 : size + BAR * (k + 1)].astype(np.float64).mean((2, 3)) for k in range(bars)]
    return np.concatenate([hand[:, 1:], speed, np.stack(heights, axis=-1)[:, 1:]], axis=-1)


def variances(clips: Array, bars: int) -> Floats:
    """Variance over time (n, 3 + bars) of everything tracked in every clip."""
    return np.asarray(track(clips, bars).var(1))


def lively(seen: Floats, chosen: int) -> Floats:
    """Variances (B,) in the real clips in which ``chosen`` varies most, over those in all real clips, of ``seen`` (n, B)."""
    most = np.argsort(seen[:, chosen])[-max(round(LIVELY * len(seen)), 1) :]
    return np.asarray(seen[most].mean(0) / seen.mean(0))


def run(quick: bool) -> dict[str, Any]:
    """Train on the day and film every labelled factor: variance ratios (B, B) of chosen x seen, by way of filming."""
    session, config = isometric_emg(SEED)
    if quick:
        short = config.factors.model_copy(update={"updates": 60}), config.film.model_copy(update={"updates": 80, "strides": 20})
        config = config.model_copy(update={"factors": short[0], "film": short[1]})
    with tempfile.TemporaryDirectory() as folder:
        model = train_model(session, config, SEED, Path(folder) / "factors")
    assert model.filming is not None and model.manifest.film is not None and model.manifest.film.scene is not None
    scene, length = model.manifest.film.scene, model.filming.length
    names, bars = model.day.names, len(scene.levels)
    real = [f[:length] for f, out in zip(render(session, model.day, scene), model.day.held_out, strict=True) if out]
    seen = variances(np.stack([f for f in real if len(f) == length]), bars)
    ratios: dict[str, list[Floats]] = {"real": [lively(seen, k) for k in range(len(names))]}
    for chosen in range(len(names)):
        shown = make_film(model.filming, chosen, 4 if quick else CLIPS, SEED).clips
        plain = variances(shown.pop("unguided"), bars).mean(0)
        for way, clips in shown.items():
            ratios.setdefault(way, []).append(variances(clips, bars).mean(0) / plain)
        say(f"real film of {names[chosen]}: selectivity {selectivity(ratios['guided'][-1], chosen):.1f}")
    return {"names": names, "ratios": ratios, "training": model.manifest.training, "record": model.manifest.film.record}


def show(found: dict[str, Any]) -> str:
    """Selectivity of every way of filming, in a table, and what the guide does to each behaviour."""
    names, ratios = found["names"], found["ratios"]
    rows: list[tuple[str, ...]] = [("film of a factor of isometric day 0, S by tracker", *names)]
    for way in ("guided", "naive", "classifier-free", "real"):
        title = f"real clips, liveliest {LIVELY:.0%} of the behaviour" if way == "real" else way
        rows.append((title, *(f"{selectivity(r, k):.1f}" for k, r in enumerate(ratios[way]))))
    matrix: list[tuple[str, ...]] = [("variance ratio, guided film of", *names)]
    matrix += [(n, *(f"{v:.2f}" for v in r)) for n, r in zip(names, ratios["guided"], strict=True)]
    seen = ", ".join(f"{n} {v:.2f}" for n, v in zip(names, found["record"]["encoder_r2"], strict=False))
    codec = found["record"]["codec_r2"]
    return f"\n{table(rows)}\n\n{table(matrix)}\nframe encoder R2 on held-out trials: {seen}; codec {codec:.3f}"


def acceptance(found: dict[str, Any]) -> list[Row]:
    """Whether every factor's film moves its own behaviour most; the goal of 5 was set for independent behaviours."""
    worst = min(selectivity(r, k) for k, r in enumerate(found["ratios"]["guided"]))
    return [Row("film of a real day: selectivity, worst factor (behaviours share much)", worst, "> 1", worst > 1)]
