"""One training loop for every diffusion model of the project."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bci_align.diffusion.ema import Ema
from bci_align.diffusion.process import Diffusion, Noised


@dataclass(frozen=True)
class Conditioning:
    """Where the condition of a conditional net comes from while it is trained.

    ``encoder`` computes it from the batch's samples ``x0`` (B, ...) and is trained along; None: ``draw`` gives it beside the
    samples. A share ``drop`` of the batch is told ``null`` (...) instead: what classifier-free guidance needs.
    """

    encoder: nn.Module | None = None
    drop: float = 0.0
    null: Tensor | None = None

    def of(self, x0: Tensor, given: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """Condition (B, ...) of the batch ``x0``."""
        cond = given if self.encoder is None else self.encoder(x0)
        if self.drop > 0:
            if cond is None or self.null is None:
                raise ValueError("dropping a condition: expected one and a null condition, found none")
            silent = (torch.rand(len(cond), generator=generator) < self.drop).to(cond.device)
            cond = torch.where(silent.reshape(-1, *([1] * (cond.ndim - 1))), self.null.to(cond), cond)
        return cond


class Checkpoint(Protocol):
    """Where a training that may be interrupted keeps its state, every number of it as a tensor by name."""

    def load(self) -> dict[str, Tensor] | None:
        """Give what was saved last, None at a first start."""
        ...

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep ``state``; called after every epoch, and free to skip some."""
        ...


def fit(
    diffusion: Diffusion,
    draw: Callable[[], Tensor | tuple[Tensor, Tensor]],
    epochs: int,
    generator: torch.Generator,
    learning_rate: float = 3e-3,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
    *,
    conditioning: Conditioning | None = None,
    extra: Callable[[Noised], Tensor] | None = None,
    ema: float | None = None,
    checkpoint: Checkpoint | None = None,
    whole: bool = False,
) -> list[float]:
    """Train ``diffusion`` in place and give the mean loss of every epoch.

    ``draw()`` gives one epoch's samples (n, ...), or samples and conditions (n, ...), and is called anew each epoch, so it may
    cut fresh windows. AdamW, one-cycle learning rate, gradient norm at most 1. ``progress(done, total)`` is called after every
    epoch.

    ``extra`` is added to the denoising loss: a scalar of the batch as the net saw it. With ``ema`` (its decay) the averaged
    weights are in ``diffusion``, and in the encoder, at the end. With ``checkpoint`` a training that was interrupted goes on and
    ends at the same bits as one that was not, provided that ``draw`` always gives the same samples. With ``whole`` every batch is
    full: the samples that are left over, others in every epoch, wait for the next one; ``draw`` must give a batch at least.
    """
    conditioning = conditioning or Conditioning()
    trained = nn.ModuleDict({"diffusion": diffusion})
    if conditioning.encoder is not None:
        trained["encoder"] = conditioning.encoder
    optimiser = torch.optim.AdamW(trained.parameters(), learning_rate)
    average = Ema(trained, ema) if ema is not None else None
    saved = checkpoint.load() if checkpoint else None
    first = 0 if saved is None else int(saved["epoch"])
    history: list[float] = [] if saved is None else saved["history"].tolist()
    schedule = None
    for epoch in range(first, epochs):
        drawn = draw()
        x, given = drawn if isinstance(drawn, tuple) else (drawn, None)
        if schedule is None:
            total = epochs * (len(x) // batch if whole else math.ceil(len(x) / batch))
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=total)
            if saved is not None:
                _restore(saved, trained, optimiser, schedule, average, generator)
        losses = []
        order = torch.randperm(len(x), generator=generator)
        for rows in torch.split(order[: len(x) // batch * batch] if whole else order, batch):
            cond = conditioning.of(x[rows], None if given is None else given[rows], generator)
            if extra is None:
                loss = diffusion.loss(x[rows], generator, cond=cond)
            else:
                seen = diffusion.noised(x[rows], generator, cond)
                loss = (seen.eps_hat - seen.eps).square().mean() + extra(seen)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if average is not None:
                average.update(trained)
            losses.append(float(loss.detach()))
        history.append(sum(losses) / len(losses))
        if checkpoint:
            checkpoint.save(_state(epoch + 1, history, trained, optimiser, schedule, average, generator))
        if progress:
            progress(epoch + 1, epochs)
    if average is not None:
        if schedule is None and saved is not None:  # all epochs were done before the interruption
            average.load(_named(saved, "average"))
        average.copy_to(trained)
    elif schedule is None and saved is not None:
        trained.load_state_dict(_named(saved, "net"))
    return history


def _state(
    epoch: int,
    history: list[float],
    trained: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    average: Ema | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Everything that the next epoch depends on."""
    group = optimiser.param_groups[0]
    out = {
        "epoch": torch.tensor(epoch),
        "history": torch.tensor(history, dtype=torch.float64),
        "steps": torch.tensor(schedule.last_epoch),
        "rates": torch.tensor([group["lr"], *group["betas"]], dtype=torch.float64),
        "generator": generator.get_state(),
    }
    out |= {f"net.{k}": v for k, v in trained.state_dict().items()}
    for i, values in optimiser.state_dict()["state"].items():
        out |= {f"optimiser.{i}.{k}": v for k, v in values.items()}
    if average is not None:
        out |= {f"average.{k}": v for k, v in average.state().items()}
    return out


def _restore(
    saved: dict[str, Tensor],
    trained: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    average: Ema | None,
    generator: torch.Generator,
) -> None:
    trained.load_state_dict(_named(saved, "net"))
    state = optimiser.state_dict()
    of = range(len(state["param_groups"][0]["params"]))
    state["state"] = {i: {k: v.clone() for k, v in _named(saved, f"optimiser.{i}").items()} for i in of}
    rate, first, second = saved["rates"].tolist()
    state["param_groups"][0] |= {"lr": rate, "betas": (first, second)}
    optimiser.load_state_dict(state)
    steps = int(saved["steps"])
    schedule.load_state_dict({"last_epoch": steps, "_step_count": steps + 1})
    if average is not None:
        average.load(_named(saved, "average"))
    generator.set_state(saved["generator"])


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
