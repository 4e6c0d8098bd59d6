"""What unlabelled trials say for a read-in: the numbers on which the gate decides, each blind to a different kind of mistake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.objective import gaussian_kl_to_source
from bci_align.alignment.tuning import left_over, measure, to_outputs, tuning
from bci_align.bundle.store import Bundle
from bci_align.diffusion.process import Diffusion
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from bci_align.threads import one_thread

DIVISIONS = 4
"""Random divisions of the channels into halves."""
DRAWS = 8
"""Windows per trial and noises over which the denoising loss is averaged."""


@dataclass(frozen=True)
class Evidence:
    """Label-free evidence for one read-in on one block of trials.

    ``prior_loss``: denoising loss of the latents under the frozen prior (infinite where no trial fills its window).
    ``kl``: Gaussian KL of the latents to the source's, nats. ``information``: variance of the channels' normalised counts that
    the latents of the *other* channels explain, summed over channels. ``slope`` (C, d): every channel's tuning, measured the same
    way; ``to_outputs`` (C, K): its tuning to each decoded output.
    ``diversity``: geometric mean spread between trials' mean decoded movement, in source SDs: what one direction lacks.
    ``left_over`` (n, C): what the latents leave unexplained of every trial's channels, in standard errors of independent bins.
    ``halves``: correlation of what two halves of the channels decode, each without the other: what is true is heard in both.
    ``outputs`` (n, K): decoded movement of all trials' bins, source SDs, by the linear head.
    """

    prior_loss: float
    kl: float
    information: float
    slope: Tensor
    to_outputs: Tensor
    diversity: float
    left_over: Tensor
    halves: float
    outputs: Tensor


@one_thread()
@torch.no_grad()
def evidence(bundle: Bundle, read_in: ReadIn, trials: UnlabelledTrials, encoder: SourceModel | None = None) -> Evidence:
    """Collect the evidence for ``read_in`` on ``trials``; ``encoder`` where more than the read-in moved."""
    model, prior = bundle.models()
    if encoder is not None:
        model.core.load_state_dict(encoder.core.state_dict())
    model.set_read_in(read_in)
    block = Block.of(trials, read_in)
    z = encode(model, block.x)
    y = model.kinematics(z)
    measured = measure(model, block)
    found = tuning(measured)
    variance = block.x[block.inside].var(0)
    unexplained = torch.minimum(found.variance, variance)
    means = torch.stack([y[i, block.inside[i]].mean(0) for i in range(len(block))])
    spread = torch.linalg.eigvalsh(torch.cov(means.T).reshape(y.shape[2], -1)) if len(block) > 1 else torch.zeros(1)
    return Evidence(
        prior_loss=_prior_loss(model, prior, block, bundle.manifest.prior.window),
        kl=float(gaussian_kl_to_source(z[block.inside])),
        information=float((variance - unexplained).sum()),
        slope=found.slope,
        to_outputs=to_outputs(measured, model.kinematics.weight),
        diversity=float(spread.clamp(min=0).sqrt().log().mean().exp()),
        left_over=left_over(measured),
        halves=_halves(model, block),
        outputs=y[block.inside],
    )


def _halves(model: SourceModel, block: Block) -> float:
    """Mean over random divisions of the channels; the half that decodes is doubled, since the core knows the drive of all."""
    rng, channels = np.random.default_rng(0), block.x.shape[2]
    found = []
    for _ in range(DIVISIONS):
        kept = torch.zeros(channels)
        kept[torch.from_numpy(rng.permutation(channels)[: channels // 2])] = 2
        a, b = (model.kinematics(encode(model, block.x * k))[block.inside] for k in (kept, 2 - kept))
        found.append(likeness(a, b))
    return float(np.mean(found))


def _prior_loss(model: SourceModel, prior: Diffusion, block: Block, window: int) -> float:
    """Denoising loss with always the same windows and noise; lower is likelier."""
    rows = block.fill(window)
    if not rows:
        return float("inf")
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(DRAWS):
        chunks, burn = block.chunks(window, rng, rows)
        losses.append(float(prior.loss(encode(model, chunks)[:, burn:], generator)))
    return float(np.mean(losses))


def common(left_over: Tensor) -> float:
    """Variance between trials along their largest common deviation, ``left_over`` (n, C), over what independent noise would give.

    A few for trials of one day. Calibration trials of two days, or of a day that changes as it goes, deviate in many channels at
    once: the eigenvalue stands out. (Marchenko and Pastur's edge: 1967, Mat Sb 72:507.)
    """
    heard = left_over[:, left_over.abs().sum(0) > 0]
    n, channels = heard.shape
    if n < 2 or not channels:
        return 0.0
    centred = heard - heard.mean(0)
    largest = float(torch.linalg.eigvalsh(centred @ centred.T / channels)[-1])
    return float(largest / (1 + np.sqrt(n / channels)) ** 2)


def agreement(today: Tensor, source: Tensor) -> float:
    """Cosine of all channels' tunings (C, d), taken together, with those of the source channels that they are matched to.

    Near 0 where channels are other channels (another wiring, another animal) or say nothing; 1 where nothing changed.
    """
    size = float(today.norm() * source.norm())
    return float((today * source).sum()) / size if size > 0 else 0.0


def likeness(a: Tensor, b: Tensor) -> float:
    """Correlation of two decoded movements (n, K) around their means, all outputs together; 0 where one does not move."""
    return agreement(a - a.mean(0), b - b.mean(0))
