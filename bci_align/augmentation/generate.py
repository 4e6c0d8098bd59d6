"""New trials from a space of codes: towards targets by navigation, or from the prior over codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from bci_align.augmentation.encoding import Encoding
from bci_align.augmentation.navigate import AXES, Navigator, sense, start_from, turned
from bci_align.augmentation.spaces import Space
from bci_align.augmentation.spikes import SpikeModel, poisson
from bci_align.augmentation.trials import Array, Index, TrialSet

Floats = NDArray[np.float64]
MOST_COMPONENTS = 8
MOST_SHARED = 4
"""Gains that neurons share, looked for in what the codes leave over."""


@dataclass(frozen=True)
class CodePrior:
    """A Gaussian mixture over codes: ``weights`` (k,), ``means`` (k, L), ``covariances`` (k, L, L)."""

    weights: Floats
    means: Floats
    covariances: Floats

    @classmethod
    def fit(cls, codes: Array, seed: int = 0) -> CodePrior:
        """Fit with as many components, up to eight, as the Bayesian information criterion asks for; covariances are tied."""
        best, lowest = None, np.inf
        for k in range(1, min(MOST_COMPONENTS, len(codes) // 4) + 1):
            mixture = GaussianMixture(k, covariance_type="tied", reg_covar=1e-3, random_state=seed, max_iter=200, tol=1e-2)
            mixture.fit(codes.astype(np.float64))
            if (bic := mixture.bic(codes.astype(np.float64))) < lowest:
                best, lowest = mixture, bic
        assert best is not None
        return cls(best.weights_, best.means_, np.repeat(best.covariances_[None], len(best.means_), 0))

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """``n`` codes (n, L)."""
        which = rng.choice(len(self.weights), n, p=self.weights / self.weights.sum())
        spread = np.linalg.cholesky(self.covariances)[which]
        return (self.means[which] + np.einsum("nij,nj->ni", spread, rng.standard_normal(self.means[which].shape))).astype(
            np.float32
        )


@dataclass(frozen=True)
class Generator:
    """Everything that makes trials: a ``space`` of codes, the ``navigator`` in it, how spikes scatter, a ``prior`` over codes.

    ``spikes`` scatter around the rates of a code, with what neurons share, ``edited`` around a trial's own smoothed rates (which
    hold some of its scatter already, so that what is drawn around them is narrower). ``gain`` (C,) puts each channel's generated
    rates at the mean that its training trials have. With an ``encoding`` trials for a target take their spikes from it, by their
    kinematics.
    """

    space: Space
    navigator: Navigator
    spikes: SpikeModel
    edited: SpikeModel
    prior: CodePrior
    gain: Floats
    encoding: Encoding | None = None

    @classmethod
    def fit(
        cls,
        space: Space,
        trials: TrialSet,
        before: int,
        seed: int = 0,
        support: float = 0.99,
        recorded: TrialSet | None = None,
        encoding: Encoding | None = None,
    ) -> Generator:
        """Fit what is beside the space on its training ``trials``, and how spikes scatter on those ``recorded`` (default: all).

        Counts that were carried over from an earlier day are scaled: they are no longer whole, and scatter as no neuron does.
        """
        codes = space.encode(trials)
        rates, _ = space.decode(codes, seed)
        gain = (trials.rates.mean((0, 1)) + 1e-3) / (rates.mean((0, 1)) + 1e-3)
        navigator = Navigator.fit(codes, trials, before, support)
        real = trials if recorded is None else recorded
        edited = SpikeModel.fit(real.counts, real.rates)
        spikes = SpikeModel.fit(real.counts, space.decode(space.encode(real), seed)[0] * gain, MOST_SHARED)
        return cls(space, navigator, spikes, edited, CodePrior.fit(codes, seed), gain, encoding)

    def of_codes(self, codes: Array, target: Floats, seed: int, plain: bool = False, shared: bool = False) -> TrialSet:
        """Trials of ``codes`` (n, L) said to be for ``target`` (n, D); ``plain`` draws Poisson spikes.

        ``seed`` decides the sample's noise (one for all with ``shared``) and the spikes.
        """
        rates, kinematics = self.space.decode(codes, seed, shared)
        rates = (rates * self.gain).astype(np.float32)
        return TrialSet(_drawn(rates, self.spikes, seed, plain), rates, kinematics, target)

    def towards(self, trials: TrialSet, targets: Floats, count: int, seed: int, plain: bool = False) -> tuple[TrialSet, Array]:
        """``count`` trials for each of ``targets`` (m, D), and their codes: those of real ``trials`` moved along the target axes.

        Whether ``targets`` are in support is asked before (:meth:`Navigator.check`), of the generator that a user's trials come
        from: its twin knows fewer targets, and has to be tried on those, too.
        """
        rows, to = start_from(trials, targets, count, np.random.default_rng(seed))
        codes = self.navigator.to_target(self.space.encode(trials)[rows], trials.target[rows], to)
        return self.moved(trials, rows, codes, to, seed, plain), codes

    def moved(
        self, trials: TrialSet, rows: Index, codes: Array, to: Floats, seed: int, plain: bool = False, turn: bool = True
    ) -> TrialSet:
        """Real ``trials`` (the ``rows`` of them) moved to ``codes`` (n, L) and the targets ``to`` (n, D).

        They are edits: what a trial is beyond its code stays (the noise that it is decoded from), only its spikes are drawn anew,
        around the edit's rates, or around those that the encoding gives to the edit's kinematics. Where there is an encoding and
        the task looks the same in every direction, the kinematics are the real trial's, turned to the target; unless ``turn`` is
        False, for codes that were moved otherwise, too.
        """
        way = sense(trials) if turn and self.navigator.centre_out() else None
        if self.encoding is not None and way is not None:
            return self.encoded(turned(trials, rows, to, way, self.encoding.origin), to, seed, plain)
        rates, kinematics = self.space.edit(trials, rows, codes, seed)
        if self.encoding is not None:
            return self.encoded(kinematics, to, seed, plain)
        if self.space.exact:
            return TrialSet(_drawn(rates, self.edited, seed, plain), rates, kinematics, to)
        rates = (rates * self.gain).astype(np.float32)
        return TrialSet(_drawn(rates, self.spikes, seed, plain), rates, kinematics, to)

    def encoded(self, kinematics: Array, target: Floats, seed: int, plain: bool = False) -> TrialSet:
        """Trials of ``kinematics`` (n, T, K) for ``target`` (n, D), rates and scatter of spikes from the encoding.

        A code moved to a target that has no trials continues rates along a line, and rates are not lines.
        """
        assert self.encoding is not None
        rates = self.encoding.rates(kinematics)
        return TrialSet(_drawn(rates, self.encoding.spikes, seed, plain), rates, kinematics, target)

    def target_of(self, codes: Array) -> Floats:
        """Target (n, D) for which ``codes`` (n, L) are likeliest, other variables free (codes Gaussian around their mean)."""
        nav = self.navigator
        varying = np.isfinite(nav.sd)
        b = nav.directions[varying]
        z = (codes - nav.centre) @ nav.precision @ b.T @ np.linalg.inv(b @ nav.precision @ b.T + np.eye(len(b)))
        value = np.tile(nav.mean, (len(codes), 1))
        value[:, varying] += z * nav.sd[varying]
        return value[:, [nav.names.index(f"target {axis}") for axis in AXES[: nav.targets.shape[1]]]]


def _drawn(rates: Array, spikes: SpikeModel, seed: int, plain: bool) -> Array:
    rng = np.random.default_rng(seed)
    return poisson(rates, rng) if plain else spikes.draw(rates, rng)
