"""What the demo is made of: its sizes, the marker of its directory, its decision in words."""

from __future__ import annotations

from typing import Any

from bci_align.config import AlignConfig, DriftConfig, GateConfig, Strict, TrainConfig

MARKER = ".bci_align_demo"
"""A directory with this file in it was made by the demo, which may replace it. It lists what is of the demo's, line by line."""


class Sizes(Strict):
    """How much is simulated and trained: ``trials`` of day 0 and day K, and how many of day K's to calibrate on."""

    trials: tuple[int, int] = (160, 130)
    calibration: int = 50
    bin_s: float = 0.05
    channels: int = 96
    train: TrainConfig = TrainConfig(epochs=60, prior_epochs=30)
    align: AlignConfig = AlignConfig()
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()


def decision(result: dict[str, Any]) -> str:
    """The day's decision as one sentence."""
    verdict = result["verdict"]
    if result["swap_bin"] is not None:
        return f"gate accepted ({verdict['reason']}); swap at bin {result['swap_bin']}"
    if verdict is not None and not verdict.get("accepted"):
        return f"gate refused ({verdict['reason']}); no swap, the source generation went on"
    why = "; ".join(result["notes"]) or "no candidate was offered: no swap"
    hint = " (this machine needs a lower --speed, or --speed max)" if "recording ended" in why else ""
    return why + hint
