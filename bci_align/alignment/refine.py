"""Refinement of the read-in by gradient, under the frozen diffusion prior (ERDiff) and a term against collapse.

One step takes a window from each of a batch of trials and descends

    prior's term + kl * KL(target latents || source latents) + pull / n^3 * |w - w_0|^2,        n the number of trials

and, where asked for, ``sinkhorn`` times the Sinkhorn divergence to the source's latents (ERDiff's other regulariser) and
``reconstruction`` times what today's spikes cost under a Poisson head that is fitted to them beforehand and trained along,
where the prior's term is one of three (``AlignConfig.objective``):

``denoising``
    ERDiff's own, E w(t) |eps - eps_theta(a Z + s eps, t)|^2, differentiated through the denoiser.
``score``
    the same descent direction without the denoiser's Jacobian, (eps_theta - eps) . Z (Poole et al. 2023, Eq. 3): the denoiser is
    only evaluated, which is most of a step's cost, and an unmodelled Jacobian's noise is not followed.
``difference``
    (eps_theta - eps_phi) . Z with phi a small denoiser that tracks today's latents: the gradient of the KL divergence between the
    two *diffused* distributions (Wang et al. 2023, ProlificDreamer, Eq. 6), which keeps entropy where likelihood seeks the mode.

The likelihood term alone draws every trial into the densest part of the prior; the KL is what that costs. The pull keeps a
handful of trials from moving what they say nothing about.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.objective import gaussian_kl_to_source, reconstruction, sinkhorn, target_spike_head
from bci_align.config import AlignConfig
from bci_align.diffusion.process import Diffusion
from bci_align.errors import AlignmentError
from bci_align.models.denoiser import LatentDenoiser
from bci_align.models.encoder import SourceModel

CLEAN_HALF = 0.5
"""Share of the schedule from which noise levels are drawn: beyond, nearly nothing of the latents is left to judge."""
TRACKER = {"width": 16, "blocks": 1}
"""The denoiser that tracks today's latents: small, for it is trained anew every time."""
WARM = 100
"""Steps in which the tracker learns the latents as they are, before they move."""
CLOUD = 512
"""Most bins of each side that the Sinkhorn divergence compares in one step: its cost grows with their square."""

PriorTerm = Callable[[Tensor], Tensor]
"""From windows of latents (m, window, d) to a scalar whose gradient is the prior's term's."""


def moved(model: SourceModel, what: str) -> list[Tensor]:
    """Parameters that alignment may move: ``read-in``, ``affine`` (the latent head alone), or ``whole`` (read-in, core, head)."""
    read_in, head = list(model.readin.parameters()), list(model.core.mean.parameters())
    chosen = {"read-in": read_in, "affine": head, "whole": [*read_in, *model.core.gru.parameters(), *head]}[what]
    return [p.requires_grad_(True) for p in chosen]


def refine(
    model: SourceModel,
    prior: Diffusion,
    block: Block,
    window: int,
    config: AlignConfig,
    seed: int,
    source: Tensor,
    progress: Callable[[], None] | None = None,
) -> None:
    """Take ``config.steps`` steps on ``block``, in place. ``progress()`` is called after each.

    ``source`` (n, d): the source day's latents, of which the Sinkhorn divergence takes a sample. Raises
    :class:`AlignmentError` if the loss ceases to be finite.
    """
    parameters = moved(model, config.moves)
    start = [p.detach().clone() for p in parameters]
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    spikes = Spikes(model, block) if config.reconstruction else None
    trained = parameters + (list(spikes.head.parameters()) if spikes else [])
    optimiser = torch.optim.Adam(trained, config.learning_rate)
    term = _term(config, prior, generator)
    if isinstance(term, Difference):
        for _ in range(WARM):
            with torch.no_grad():
                z, _ = _windows(model, block, window, config.batch, rng)
            term.track(z)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1))
    for step in range(config.steps):
        z, x = _windows(model, block, window, config.batch, rng)
        pull = sum((p - q).square().sum() for p, q in zip(parameters, start, strict=True))
        loss = term(z) + config.kl * gaussian_kl_to_source(z.flatten(0, 1)) + config.pull / len(block) ** 3 * pull
        if config.sinkhorn:
            loss = loss + config.sinkhorn * sinkhorn(_some(z.flatten(0, 1), rng), _some(source, rng))
        if spikes:
            loss = loss + config.reconstruction * spikes(z, x)
        if not torch.isfinite(loss):
            raise AlignmentError(f"the alignment loss became {float(loss.detach())} in step {step + 1}; no candidate is offered")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if progress:
            progress()
    for p in parameters:
        p.requires_grad_(False)


def _windows(model: SourceModel, block: Block, window: int, batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Latents (m, window, d) and normalised counts (m, window, C) of a batch of windows."""
    long = block.fill(window)
    chunks, burn = block.chunks(window, rng, rng.choice(long, min(batch, len(long)), replace=False).tolist())
    return encode(model, chunks)[:, burn:], chunks[:, burn:]


def _some(latents: Tensor, rng: np.random.Generator) -> Tensor:
    return latents[torch.from_numpy(rng.permutation(len(latents))[:CLOUD])]


class Spikes:
    """The latent model's reconstruction term on today's spikes: ``head`` starts as their Poisson regression on the latents."""

    def __init__(self, model: SourceModel, block: Block) -> None:
        self.heard = model.gain > 0
        self.mean, self.gain = model.mean[self.heard].clone(), model.gain[self.heard].clone()
        with torch.no_grad():
            latents = encode(model, block.x)[block.inside]
        self.head = target_spike_head(latents, self._counts(block.x[block.inside]))

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        """Nats per bin and channel of windows of latents (m, window, d) and normalised counts (m, window, C)."""
        return reconstruction(self.head, z, self._counts(x), [z.shape[1]] * len(z))

    def _counts(self, x: Tensor) -> Tensor:
        return x[..., self.heard] / self.gain + self.mean


def _term(config: AlignConfig, prior: Diffusion, generator: torch.Generator) -> PriorTerm:
    latest = max(round(CLEAN_HALF * prior.steps), 1)
    if config.objective == "denoising":
        return lambda z: config.prior * prior.loss(z, generator, weight=config.weight)
    if config.objective == "score":
        return lambda z: config.prior * score_term(prior, z, latest, generator)
    return Difference(prior, latest, config.prior, generator)


def score_term(prior: Diffusion, z: Tensor, latest: int, generator: torch.Generator) -> Tensor:
    """Scalar whose gradient in ``z`` (m, window, d) is (eps_theta(z_t, t) - eps) per element, t below ``latest``."""
    t = torch.randint(0, latest, (len(z),), generator=generator)
    eps = torch.randn(z.shape, generator=generator)
    with torch.no_grad():
        off = prior.net(prior.q_sample(z, t, eps), t) - eps
    return (off * z).mean()


class Difference:
    """The difference of two scores: the frozen prior's minus that of a small denoiser trained on today's latents as they move."""

    def __init__(self, prior: Diffusion, latest: int, weight: float, generator: torch.Generator) -> None:
        self.prior, self.latest, self.weight, self.generator = prior, latest, weight, generator
        self.tracker: Diffusion | None = None

    def __call__(self, z: Tensor) -> Tensor:
        tracker = self.track(z.detach())
        t = torch.randint(0, self.latest, (len(z),), generator=self.generator)
        noised = self.prior.q_sample(z.detach(), t, torch.randn(z.shape, generator=self.generator))
        with torch.no_grad():
            off = self.prior.net(noised, t) - tracker.net(noised, t)
        return self.weight * (off * z).mean()

    def track(self, z: Tensor) -> Diffusion:
        """Train the tracker by one step on ``z`` (m, window, d)."""
        if self.tracker is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.generator.initial_seed())
                self.tracker = Diffusion(LatentDenoiser(z.shape[2], TRACKER["width"], TRACKER["blocks"]), steps=self.prior.steps)
            self.optimiser = torch.optim.AdamW(self.tracker.parameters(), 3e-3)
        loss = self.tracker.loss(z, self.generator)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return self.tracker
