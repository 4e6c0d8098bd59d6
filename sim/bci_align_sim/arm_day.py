"""A recurrent network that was trained to reach with a two-link arm, and a recorded day of its spikes.

The setting of GNOCCHI's synthetic data in small: the network is told a target on a grid and the go cue, feels the hand, the
joints' angles and their speeds, and excites six muscles. Its units' activity gives the rates of the neurons that are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bci_align.session.types import Session, Trials
from bci_align.threads import one_thread
from bci_align_sim import arm

MIDDLE_M = (0.0, 0.42)
"""Middle of the grid, m from the shoulder."""
SPACING_M = 0.04
DT_S = 0.025
BINS, GO = 48, 14
"""Bins of a trial, and the bin of its go cue in the recording (in training it varies)."""
UNITS = 64
LEAK = 0.4
INPUTS = 2 + 1 + 2 + 2 + 2


def grid(points: int = 5) -> NDArray[np.float64]:
    """Targets (points^2, 2), m from the middle of the grid."""
    line = (np.arange(points) - (points - 1) / 2) * SPACING_M
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


class Controller(nn.Module):
    """Leaky rectified units (B, UNITS) between what is felt and what the muscles are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(INPUTS, UNITS)
        self.among = nn.Linear(UNITS, UNITS, bias=False)
        self.out = nn.Linear(UNITS, 6)
        nn.init.orthogonal_(self.among.weight, 0.8)
        nn.init.constant_(self.out.bias, -2.0)

    def forward(self, potential: Tensor, felt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next potential, rates (B, UNITS), excitations (B, 6) in 0 to 1."""
        rate = torch.relu(potential)
        potential = (1 - LEAK) * potential + LEAK * (self.among(rate) + self.inside(felt))
        rate = torch.relu(potential)
        return potential, rate, torch.sigmoid(self.out(rate))


def reach(
    net: Controller, start: Tensor, target: Tensor, go: Tensor, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Let ``net`` reach from ``start`` to ``target`` (B, 2), m from the middle, at the bins ``go`` (B,): rates, hand (B, T, ...).

    ``noise`` is the standard deviation of what is added to the potentials.
    """
    middle = start.new_tensor(MIDDLE_M)
    state = arm.at_rest(start + middle)
    potential = start.new_zeros(len(start), UNITS)
    rest = state.angle
    rates, hands = [], []
    for t in range(BINS):
        gone = (t >= go).float()[:, None]
        place = arm.hand(state.angle) - middle
        felt = torch.cat([target * 10, gone, place * 10, (state.angle - rest.mean(0)) * 2, state.speed * 0.3], 1)
        potential, rate, excitation = net(potential + noise * torch.randn(potential.shape, generator=generator), felt)
        state = arm.step(state, excitation, DT_S)
        rates.append(rate)
        hands.append(arm.hand(state.angle) - middle)
    return torch.stack(rates, 1), torch.stack(hands, 1)


@one_thread()
def train_controller(
    seed: int, updates: int = 500, batch: int = 48, progress: Callable[[int, int], None] | None = None
) -> Controller:
    """Train a controller to hold until the go cue and to be at the target half a second later; from ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Controller()
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=updates)
    half = 2.5 * SPACING_M
    for i in range(updates):
        start, target = ((torch.rand(2, batch, 2, generator=generator) * 2 - 1) * half).unbind()
        go = torch.randint(8, 20, (batch,), generator=generator)
        rates, hands = reach(net, start, target, go, 0.02, generator)
        since = torch.arange(BINS) - go[:, None]
        before, after = (since < 2).float(), ((since - 6) / 10).clamp(0, 1)
        miss = (hands - start[:, None]).norm(dim=2) * before + (hands - target[:, None]).norm(dim=2) * after
        drift = hands.diff(dim=1).norm(dim=2) * ((since[:, 1:] > 20) | (since[:, 1:] < 0)).float()
        loss = (100 * miss).mean() + 30 * drift.mean() + 0.02 * rates.square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress:
            progress(i + 1, updates)
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class ArmDay:
    """A recorded day and what none has: true ``rates`` (n, T, C) in spikes per bin, and each trial's ``start`` (n, 2), cm."""

    session: Session
    rates: NDArray[np.float32]
    start: NDArray[np.float64]


@one_thread()
def record_arm_day(net: Controller, trials: int = 300, seed: int = 0, mean_hz: float = 15.0, points: int = 5) -> ArmDay:
    """Record ``trials`` reaches between random points of the grid: the units that are ever active, ``mean_hz`` on average.

    Every trial is a stretch of its own. Positions and targets in cm from the middle; bins of :data:`DT_S`.
    """
    rng = np.random.default_rng(seed)
    places = grid(points)
    start = rng.integers(0, len(places), trials)
    target = (start + rng.integers(1, len(places), trials)) % len(places)
    s, t = (torch.from_numpy(places[i]).float() for i in (start, target))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        rates, hands = reach(net, s, t, torch.full((trials,), GO), 0.05, generator)
    active = rates.mean((0, 1)) > 0.02 * rates.mean()
    r = rates[..., active].numpy()
    r = r * (mean_hz * DT_S / r.mean((0, 1)))
    counts = rng.poisson(r).astype(np.int32).reshape(-1, r.shape[2])
    begin = np.asarray(np.arange(trials) * BINS * DT_S, np.float64)
    events = Trials(
        begin,
        np.asarray(begin + (GO + 1e-3) * DT_S, np.float64),
        np.asarray(begin + (BINS - 0.5) * DT_S, np.float64),
        np.ones(trials, bool),
        100 * places[target],
    )
    session = Session(
        counts,
        DT_S,
        tuple(f"unit{i}" for i in np.flatnonzero(active.numpy())),
        events,
        (100 * hands.numpy()).reshape(-1, 2).astype(np.float32),
        ("x", "y"),
        ("cm", "cm"),
        name=f"arm{seed}",
        meta={"origin": "bci_align_sim.arm_day: a recurrent network reaching with a two-link arm"},
        breaks=tuple(int(i) * BINS for i in range(1, trials)),
    )
    return ArmDay(session, r.astype(np.float32), 100 * places[start])
