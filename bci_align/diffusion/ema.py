"""An exponential moving average of a module's weights: what is sampled from after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Average of the floating-point entries of ``module``'s state; other entries are copied as they are.

    After n updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that a short training is not an average over its
    random start.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected at least 0 and less than 1, found {decay}")
        self.decay, self.updates = decay, 0
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards ``module``'s present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for k, v in module.state_dict().items():
            if v.is_floating_point():
                self.average[k].lerp_(v, 1 - decay)
            else:
                self.average[k].copy_(v)

    def copy_to(self, module: nn.Module) -> None:
        """Put the average into ``module``."""
        module.load_state_dict(self.average)

    def state(self) -> dict[str, Tensor]:
        """Give everything that :meth:`load` needs, as tensors by name."""
        return {"updates": torch.tensor(self.updates), **{f"average.{k}": v for k, v in self.average.items()}}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.updates = int(state["updates"])
        self.average = {k: state[f"average.{k}"].clone() for k in self.average}
