"""Rivals that move the read-in by gradient until today's latents look like the source day's: MMD, Gaussian KL, adversarial.

All three start from re-normalisation and share one loop; they differ in the distance between two clouds of latents alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_align.alignment.rivals.protocol import checked
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.diffusion.windows import pad
from bci_align.errors import AlignmentError
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

STEPS = 300
LEARNING_RATE = 1e-3
BATCH = 32
"""Trials of each day in a step."""
BINS = 512
"""Bins of each day in a step of MMD, whose cost is their square."""
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the Gaussian kernels, in units of the source latents' median squared distance."""
LAG = 4
"""Bins between the two latents that the discriminator sees at once: one latent alone would say nothing of the dynamics."""
FLATTEN = 1.0
"""Weight of the discriminator's R1 penalty."""
ADVERSARIAL_RATE = 3e-4
"""Learning rate of the read-in against a discriminator, which learns at ``LEARNING_RATE`` and must keep up."""
UNITS = 64
"""Hidden units of each of the discriminator's two layers."""


@dataclass(frozen=True)
class Latents:
    """Latents ``z`` (n, T, d) of padded trials; ``inside`` (n, T) is true in a trial's own bins, false in run-in and padding."""

    z: Tensor
    inside: Tensor

    def bins(self) -> Tensor:
        """All bins of the trials (m, d)."""
        return self.z[self.inside]

    def pairs(self) -> Tensor:
        """All pairs of latents ``LAG`` bins apart (m, 2 d)."""
        both = self.inside[:, :-LAG] & self.inside[:, LAG:]
        return torch.cat([self.z[:, :-LAG][both], self.z[:, LAG:][both]], 1)


Distance = Callable[[Latents, Latents], Tensor]
"""What a step minimises over the read-in: a scalar for ``(target, source)`` latents of one batch."""


@checked
def mmd(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """Maximum mean discrepancy between the latents' bins, Gaussian kernels of several widths."""
    generator = torch.Generator().manual_seed(seed)

    def prepare(day: Latents) -> Distance:
        scale = median_distance(_some(day.bins(), generator))
        return lambda target, source: mmd_squared(_some(target.bins(), generator), _some(source.bins(), generator), scale)

    return _move(bundle, source, trials, seed, prepare)


@checked
def gaussian_kl(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """KL divergence from the source latents' Gaussian to the target latents', bins taken as independent."""

    def prepare(day: Latents) -> Distance:
        reference = day.bins()
        return lambda target, _: kl_of_gaussians(target.bins(), reference)

    return _move(bundle, source, trials, seed, prepare)


@checked
def adversarial(bundle: Bundle, source: UnlabelledTrials, trials: UnlabelledTrials, seed: int) -> ReadIn:
    """A discriminator learns to tell today's pairs (z_t, z_t+k) from the source day's while the read-in learns to fool it."""
    return _move(bundle, source, trials, seed, lambda day: _Adversary(day.z.shape[2]), ADVERSARIAL_RATE)


def median_distance(bins: Tensor) -> float:
    """Median squared distance between ``bins`` (n, d): the usual scale of a Gaussian kernel."""
    return max(float(torch.pdist(bins).square().median()), 1e-6)


def mmd_squared(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Squared maximum mean discrepancy (biased, >= 0) of bins ``x`` (n, d) and ``y`` (m, d), mean over ``BANDWIDTHS * scale``."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return torch.stack([torch.exp(-square / (w * scale)).mean() for w in BANDWIDTHS]).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def kl_of_gaussians(x: Tensor, y: Tensor) -> Tensor:
    """KL(N_x || N_y) in nats, each Gaussian fitted on bins ``x`` (n, d) and ``y`` (m, d)."""
    (m_x, s_x), (m_y, s_y) = _gaussian(x), _gaussian(y)
    inverse, off = torch.linalg.inv(s_y), m_y - m_x
    return 0.5 * ((inverse @ s_x).trace() + off @ inverse @ off - x.shape[1] + torch.logdet(s_y) - torch.logdet(s_x))


class _Adversary:
    """One step of the discriminator per call, then the read-in's loss against it (non-saturating).

    The discriminator is held flat where the source day lies (R1 penalty, Mescheder et al. 2018). Without it and at the read-in's
    usual rate the two drive each other away: on simulated days the latents ended easier to tell apart than they began.
    """

    def __init__(self, latents: int) -> None:
        self.net = discriminator(2 * latents)
        self.optimiser = torch.optim.Adam(self.net.parameters(), LEARNING_RATE, betas=(0.5, 0.9))

    def __call__(self, target: Latents, source: Latents) -> Tensor:
        fake, real = target.pairs(), source.pairs().requires_grad_()
        # A mean over each day: as many votes for either, however many bins its batch has.
        logit = self.net(real)
        loss = F.softplus(-logit).mean() + F.softplus(self.net(fake.detach())).mean()
        (slope,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
        loss = loss + 0.5 * FLATTEN * slope.square().sum(1).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return F.softplus(-self.net(fake)).mean()


def discriminator(inputs: int) -> nn.Sequential:
    """Give an untrained network of inputs (n, inputs) -> logit of "source day" (n, 1)."""
    return nn.Sequential(
        nn.Linear(inputs, UNITS), nn.LeakyReLU(0.2), nn.Linear(UNITS, UNITS), nn.LeakyReLU(0.2), nn.Linear(UNITS, 1)
    )


def encode(model: SourceModel, padded: Tensor, inside: Tensor) -> Latents:
    """Latents of padded trials (n, T, C) whose own bins are ``inside`` (n, T)."""
    return Latents(model(padded)[0], inside)


def stack(trials: UnlabelledTrials) -> tuple[Tensor, Tensor]:
    """Pad trials to (n, T, C) and tell the bins that are a trial's own, without run-in and padding (n, T)."""
    padded, lengths = pad(trials.counts)
    bins = torch.arange(padded.shape[1])
    return padded, (bins >= torch.tensor(trials.run_in)[:, None]) & (bins < torch.tensor(lengths)[:, None])


def _move(
    bundle: Bundle,
    source: UnlabelledTrials,
    trials: UnlabelledTrials,
    seed: int,
    prepare: Callable[[Latents], Distance],
    rate: float = LEARNING_RATE,
) -> ReadIn:
    """Adam on the read-in's weight and bias over batches drawn from either day independently; the last step is the result.

    ``prepare`` gets the source day's latents once and gives the distance.
    """
    model = bundle.models()[0].requires_grad_(False)
    with torch.no_grad():
        reference = encode(model, *stack(source))
    model.set_read_in(renormalise(bundle.read_in, trials))
    moved = [model.readin.weight.requires_grad_(True), model.readin.bias.requires_grad_(True)]
    padded, inside = stack(trials)
    usable = []
    for what, own in (("calibration trials", inside), ("source trials", reference.inside)):
        usable.append(np.flatnonzero(own.sum(1).numpy() > LAG))
        if not len(usable[-1]):
            raise AlignmentError(f"{what}: expected trials of more than {LAG} bins, found {int(own.sum(1).max())} at most")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        distance = prepare(reference)
        optimiser = torch.optim.Adam(moved, rate)
        for step in range(STEPS):
            rows, mates = (rng.choice(n, min(BATCH, len(n)), replace=False) for n in usable)
            today = encode(model, padded[rows], inside[rows])
            loss = distance(today, Latents(reference.z[mates], reference.inside[mates]))
            if not torch.isfinite(loss):
                raise AlignmentError(f"the rival's loss became {float(loss)} in step {step + 1}; it offers nothing")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.read_in()


def _some(bins: Tensor, generator: torch.Generator) -> Tensor:
    """At most ``BINS`` of the bins, at random."""
    return bins[torch.randperm(len(bins), generator=generator)[:BINS]]


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / len(x) + 1e-4 * torch.eye(x.shape[1])
