"""What happens to an implanted array between two days, in named parts with sizes.

The parts are those seen in chronic recordings: units lost and gained and amplitudes that wander (Downey et al. 2018, J Neural
Eng 15:046016), rate changes that dominate decoding loss (Perge et al. 2013, J Neural Eng 10:036004), tuning that shifts (Rokni et
al. 2007, Neuron 54:653), and contacts that die.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from bci_align.config import Strict
from bci_align_sim.tuning import Tuning

SILENT_HZ = 0.1
"""Lowest baseline a shift can leave."""


class Drift(Strict):
    """Sizes of the parts; all zero is no drift, the defaults are the demonstration's day K."""

    turnover: float = Field(0.2, ge=0, le=1, description="share of channels whose unit is replaced by a fresh one")
    gain_sd: float = Field(0.4, ge=0, le=3, description="standard deviation of the log of each channel's rate factor")
    rotation_deg: float = Field(20.0, ge=0, le=180, description="standard deviation of each preferred direction's turn, degrees")
    baseline_sd_hz: float = Field(4.0, ge=0, le=50, description="standard deviation of each baseline's shift, Hz")
    dead: float = Field(0.05, ge=0, le=1, description="share of channels that fall silent for good")

    @classmethod
    def level(cls, x: float) -> Drift:
        """All parts scaled together: 0 none, 0.5 the default, 1 heavy."""
        return cls(turnover=0.4 * x, gain_sd=0.8 * x, rotation_deg=40.0 * x, baseline_sd_hz=8.0 * x, dead=0.1 * x)


def apply(tuning: Tuning, drift: Drift, seed: int) -> Tuning:
    """The same array on a later day.

    Each part draws from its own random stream under ``seed``: changing one size leaves what the others do as it was, and a
    larger size moves the same channels further. Shares are exact to the channel (rounded).
    """
    streams = np.random.SeedSequence(seed).spawn(6)
    turnover, gain, rotation, baseline, dead = (np.random.default_rng(s) for s in streams[:5])
    c = tuning.channels

    replaced = turnover.permutation(c) < round(drift.turnover * c)
    day = tuning.with_rows(replaced, Tuning.draw(c, streams[5]))

    factor = np.exp(drift.gain_sd * gain.standard_normal(c))
    angle = np.deg2rad(drift.rotation_deg) * rotation.standard_normal(c)
    shift = drift.baseline_sd_hz * baseline.standard_normal(c)
    cos, sin = np.cos(angle), np.sin(angle)
    px, py = day.position_hz.T
    return replace(
        day,
        gain=day.gain * factor,
        # Wrapped by the smallest turn, so that an angle of zero leaves the preferred direction's bits alone.
        pd_rad=day.pd_rad + angle - 2 * np.pi * np.round((day.pd_rad + angle) / (2 * np.pi)),
        # A unit's two preferences turn together: it is the unit that changed its place in the circuit.
        position_hz=np.stack([cos * px - sin * py, sin * px + cos * py], axis=1),
        baseline_hz=np.where(shift == 0, day.baseline_hz, np.maximum(day.baseline_hz + shift, SILENT_HZ)),
        alive=day.alive & ~(dead.permutation(c) < round(drift.dead * c)),
    )
