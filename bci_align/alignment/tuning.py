"""What each channel is tuned to today, measured without labels, and the read-in weights that follow from it.

The core and the prior know the movement through the latents; a channel's tuning is its regression on the latents that the *other*
channels give. That needs no labels, and the channel's own spikes cannot vouch for themselves. On the source day the same
measurement gives tunings ``B_s``, and one linear map ``K`` takes a channel's tuning to its read-in row. A channel whose tuning
today differs from the source day's by more than chance gets the row that its new tuning asks for:

    w_today = w_source + (B_today - B_source) / v_today K,        v_today today's residual variance

The change is an empirical-Bayes estimate: each channel's prior is a mixture of "as it was" and normal changes of several sizes,
weighed by the evidence, and a direction of latent space that today's few trials never visited is left alone. A unit that was
gained has no source tuning: it starts from zero and gets the row of what it turns out to be tuned to. Ours; the estimate of the
change is Bayesian linear regression (MacKay 1992, Neural Computation 4:415), the design effect of correlated bins is the
cluster-robust one (Liang & Zeger 1986).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bci_align.alignment.block import Block, encode
from bci_align.models.encoder import SourceModel

GROUPS = 8
"""Channels are left out in so many groups: a pass through the core for each."""
SMOOTH = 2
"""Bins on either side over which latents are averaged: tuning need not be causal, and averages are less noisy."""
RIDGE = 1e-2
"""Of the map from tuning to read-in row, in units of the mean squared tuning."""
SD_FLOOR = 0.2
"""Smallest residual variance of a normalised channel."""
CHANGES = (0.03, 0.06, 0.1, 0.17, 0.3, 0.5)
"""Standard deviations of a change of tuning per latent, in channel SDs per latent SD; as likely together as no change at all."""
LEAST_DESIGN_EFFECT = 3.0
"""Bins that count as one: more than chance says, for two days always differ a little in ways that are no channel's own."""

SURE = 0.99
"""Probability of a change above which a channel counts as changed."""


@dataclass(frozen=True)
class Measurement:
    """Per group of left-out channels: ``channels`` (g,), latents ``z`` (m, d), their counts ``x`` (m, g), trial (m,) of each bin.

    ``z`` and ``x`` are centred.
    """

    channels: Tensor
    z: Tensor
    x: Tensor
    trial: Tensor


@dataclass(frozen=True)
class Tuning:
    """``slope`` (C, d) channel SDs per latent SD and residual ``variance`` (C,), both per bin."""

    slope: Tensor
    variance: Tensor

    def signal(self) -> Tensor:
        """Slope over variance (C, d): what a channel says of each latent, by which a linear decoder would weigh it."""
        return self.slope / self.variance[:, None]


@torch.no_grad()
def measure(model: SourceModel, block: Block, groups: int = GROUPS) -> list[Measurement]:
    """Latents of ``block`` without each group of channels in turn, beside that group's normalised counts."""
    channels = block.x.shape[2]
    order = np.random.default_rng(0).permutation(channels)
    trial = torch.arange(len(block))[:, None].expand_as(block.inside)[block.inside]
    out = []
    for left_out in np.array_split(order, min(groups, channels)):
        index = torch.from_numpy(left_out)
        keep = torch.ones(channels)
        keep[index] = 0
        z = _smoothed(encode(model, block.x * keep))[block.inside]
        x = block.x[block.inside][:, index]
        out.append(Measurement(index, z - z.mean(0), x - x.mean(0), trial))
    return out


def _smoothed(z: Tensor) -> Tensor:
    kernel = torch.full((z.shape[2], 1, 2 * SMOOTH + 1), 1 / (2 * SMOOTH + 1))
    return F.conv1d(z.transpose(1, 2), kernel, padding=SMOOTH, groups=z.shape[2]).transpose(1, 2)


def _slopes(m: Measurement) -> Tensor:
    """Least squares (d, g), with a trace of ridge for latents that hardly move."""
    d = m.z.shape[1]
    return torch.linalg.solve(m.z.T @ m.z + 1e-3 * len(m.z) * torch.eye(d), m.z.T @ m.x)


def tuning(measured: list[Measurement]) -> Tuning:
    """Every channel's tuning by itself."""
    channels, d = sum(len(m.channels) for m in measured), measured[0].z.shape[1]
    slope, variance = torch.zeros(channels, d), torch.ones(channels)
    for m in measured:
        b = _slopes(m)
        slope[m.channels] = b.T
        variance[m.channels] = (m.x - m.z @ b).var(0).clamp(min=SD_FLOOR)
    return Tuning(slope, variance)


def to_outputs(measured: list[Measurement], head: Tensor) -> Tensor:
    """Every channel's tuning to each output (C, K) that the linear ``head`` (K, d) decodes from the *other* channels' latents."""
    out = torch.zeros(sum(len(m.channels) for m in measured), len(head))
    for m in measured:
        out[m.channels] = _slopes(Measurement(m.channels, m.z @ head.T, m.x, m.trial)).T
    return out


def left_over(measured: list[Measurement]) -> Tensor:
    """What the latents leave unexplained of every channel's mean in every trial (n, C), in standard errors.

    The slopes are those within trials, about each trial's own mean: a difference between trials that all channels share, two
    days in one block, would else be explained by the latents that share it. A channel without variance has zeros.
    """
    n, channels = int(measured[0].trial.max()) + 1, sum(len(m.channels) for m in measured)
    out = torch.zeros(n, channels)
    for m in measured:
        bins = torch.bincount(m.trial, minlength=n).clamp(min=1)[:, None]
        z, x = (torch.zeros(n, a.shape[1]).index_add_(0, m.trial, a) / bins for a in (m.z, m.x))
        within = Measurement(m.channels, m.z - z[m.trial], m.x - x[m.trial], m.trial)
        b = _slopes(within)
        variance = (within.x - within.z @ b).var(0).clamp(min=1e-9)
        out[:, m.channels] = (x - z @ b) * (bins / variance).sqrt()
    return out


def changed(measured: list[Measurement], before: Tuning) -> tuple[Tuning, Tensor]:
    """Today's tuning as an empirical-Bayes change from ``before``, and the probability (C,) that a channel changed at all."""
    slope, variance = before.slope.clone(), before.variance.clone()
    probability = torch.zeros(len(slope))
    sizes = torch.tensor(CHANGES)
    for m in measured:
        b = _slopes(m)
        residual = m.x - m.z @ b
        v = residual.var(0).clamp(min=SD_FLOOR)
        effect = _design_effect(m, residual, v)
        value, vector = torch.linalg.eigh(m.z.T @ m.z / effect)
        value = value.clamp(min=1e-6)[:, None]
        # Along each axis of the latents' scatter the score is normal with variance value * v, plus value^2 * size^2 if changed.
        score = vector.T @ (m.z.T @ (m.x - m.z @ before.slope[m.channels].T)) / effect
        spread = torch.stack([value * v + value.square() * s**2 for s in (0.0, *CHANGES)])
        evidence = -0.5 * (score.square() / spread + spread.log()).sum(1)
        evidence[1:] -= np.log(len(CHANGES))
        weight = torch.softmax(evidence, 0)
        change = sum(w * score / (value + v / s**2) for w, s in zip(weight[1:], sizes, strict=True))
        slope[m.channels] += (vector @ change).T
        variance[m.channels] = v
        probability[m.channels] = 1 - weight[0]
    return Tuning(slope, variance), probability


def changes(probability: Tensor) -> Tensor:
    """Say which channels have changed: all whose ``probability`` (C,) of it leaves no more than one chance in a hundred."""
    return probability > SURE


def _design_effect(m: Measurement, residual: Tensor, v: Tensor) -> Tensor:
    """How many bins count as one: the score's variance between trials over what independent bins would give."""
    n = int(m.trial.max()) + 1
    per_trial = torch.zeros(n, m.z.shape[1], residual.shape[1])
    per_trial.index_add_(0, m.trial, m.z[:, :, None] * residual[:, None, :])
    naive = m.z.square().sum(0)[:, None] * v
    effect = (per_trial.square().sum(0) / naive.clamp(min=1e-9)).mean()
    return effect.clamp(min=LEAST_DESIGN_EFFECT) * n / max(n - 1, 1)


def rows_of_tuning(source: Tuning, weight: Tensor, alive: Tensor) -> Tensor:
    """Linear map (d, H) from a channel's signal to its read-in row: ridge over the source's live channels, ``weight`` (C, H)."""
    f, d = source.signal()[alive], source.slope.shape[1]
    gram = f.T @ f
    return torch.linalg.solve(gram + RIDGE * gram.trace() / d * torch.eye(d), f.T @ weight[alive])


@dataclass(frozen=True)
class Source:
    """The source day's side of the transfer: tunings, read-in rows (C_s, H), and the map between them (d, H)."""

    tuning: Tuning
    weight: Tensor
    rows: Tensor

    @classmethod
    def of(cls, model: SourceModel, block: Block) -> Source:
        """Measure on the source day's own trials, ``model`` with the source day's read-in in it."""
        found = tuning(measure(model, block))
        weight = model.readin.weight.detach().T.clone()
        return cls(found, weight, rows_of_tuning(found, weight, model.gain > 0))


def transferred(model: SourceModel, block: Block, source: Source, matched: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Read-in rows (C_t, H) that today's tunings ask for, and each channel's probability (C_t,) of having changed.

    ``model`` holds the read-in by which today's latents are measured; ``matched`` (C_t,) is the source channel of each of
    today's, -1 for a unit that was gained. A channel that is not ``alive`` keeps a zero row.
    """
    have = matched >= 0
    d, h = source.tuning.slope.shape[1], source.weight.shape[1]
    slope, variance, anchor = torch.zeros(len(matched), d), torch.ones(len(matched)), torch.zeros(len(matched), h)
    slope[have], variance[have] = source.tuning.slope[matched[have]], source.tuning.variance[matched[have]]
    anchor[have] = source.weight[matched[have]]
    before = Tuning(slope, variance)
    today, probability = changed(measure(model, block), before)
    # The residual variance enters only with a change: otherwise noise alone would rescale every row.
    change = (today.slope - before.slope) / today.variance[:, None]
    rows = anchor + change @ source.rows
    rows[~alive] = 0
    return rows, probability
