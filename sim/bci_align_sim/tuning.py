"""What the neurons of a simulated subject are tuned to: the parameters of one day, and the firing rates they give.

The rate of a channel is linear in the movement and rectified (Moran & Schwartz 1999, J Neurophysiol 82:2676, their
non-directional speed and cosine-times-speed terms; the linear position gradient of Georgopoulos, Caminiti & Kalaska 1984,
Exp Brain Res 54:446)::

    rate = gain * rectify(baseline + speed * |v| + depth * |v| * cos(angle(v) - pd) + position . p)

so that at a fixed speed it is the cosine tuning of Georgopoulos et al. 1982 (J Neurosci 2:1527).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SOFT_HZ = 0.2
"""Softness of the rectifier: a channel driven exactly to zero still fires this many spikes per second."""

BASELINE_HZ = (2.0, 30.0)
"""Range of baseline rates of channels that are not silent (log-normal between)."""

SHARED = 3
"""Dimensions of the noise that the channels share."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """Parameters of C channels on one day; every array has C rows.

    A channel is a threshold crossing, not a sorted unit: where several units are heard on one electrode the fields hold
    their sum (shallower tuning, burstier spike train).
    """

    baseline_hz: FloatArray
    """(C,) rate at rest in the centre, Hz."""
    depth_hz: FloatArray
    """(C,) depth of the cosine tuning, Hz per cm/s of speed."""
    pd_rad: FloatArray
    """(C,) preferred direction, radians."""
    speed_hz: FloatArray
    """(C,) directionless speed term, Hz per cm/s."""
    position_hz: FloatArray
    """(C, 2) position gradient, Hz per cm."""
    gain: FloatArray
    """(C,) factor on the whole rate; drift between days acts here."""
    lead_s: FloatArray
    """(C,) how far the cortex runs ahead of the movement, seconds, never negative."""
    history: FloatArray
    """(C, 2) effect of one own spike on the log rate, decaying fast and slowly (see :mod:`bci_align_sim.subject`)."""
    shared: FloatArray
    """(C, SHARED) loadings of the log rate on the shared noise."""
    alive: NDArray[np.bool_]
    """(C,) False for a dead channel, which never fires."""

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.baseline_hz)

    @classmethod
    def draw(cls, channels: int = 96, seed: int | np.random.SeedSequence = 0, silent: float = 0.04) -> Tuning:
        """Draw a fresh array of ``channels`` channels; ``silent`` is the expected share that hardly ever fires."""
        rng = np.random.default_rng(seed)
        c = channels
        baseline = np.clip(rng.lognormal(np.log(9.0), 0.6, c), *BASELINE_HZ)
        quiet = rng.random(c) < silent
        baseline = np.where(quiet, 0.1, baseline)

        # Up to four units per electrode; each one's share of the rate weighs its own preferred direction in the sum.
        units = np.minimum(1 + rng.poisson(0.7, c), 4)
        share = rng.gamma(2.0, size=(c, 4)) * (np.arange(4) < units[:, None])
        share /= share.sum(1, keepdims=True)
        unit_depth = rng.lognormal(np.log(0.048), 0.5, (c, 4))
        vector = (share * unit_depth * np.exp(1j * rng.uniform(-np.pi, np.pi, (c, 4)))).sum(1)

        # A posture gradient of its own direction: position and velocity preferences are only loosely related in M1.
        posture = rng.normal(0.0, 0.02, (c, 2))
        refractory = np.stack([rng.uniform(-1.2, -0.5, c), rng.uniform(-0.10, 0.0, c)], axis=1)
        bursty = np.stack([rng.uniform(0.05, 0.25, c), rng.uniform(0.0, 0.06, c)], axis=1)
        return cls(
            baseline_hz=baseline,
            depth_hz=baseline * np.abs(vector),
            pd_rad=np.angle(vector),
            speed_hz=baseline * rng.normal(0.008, 0.012, c),
            position_hz=baseline[:, None] * posture,
            gain=np.ones(c),
            lead_s=np.clip(rng.normal(0.10, 0.03, c), 0.04, 0.16),
            history=np.where((units == 1)[:, None], refractory, bursty),
            shared=rng.normal(0.0, 0.10, (c, SHARED)),
            alive=np.ones(c, dtype=np.bool_),
        )

    def rates(self, position: FloatArray, velocity: FloatArray) -> FloatArray:
        """Firing rates for a movement that the channels express at once (no lead, no history, no noise).

        ``position`` (T, 2) cm from the centre, ``velocity`` (T, 2) cm/s; returns (T, C) Hz, never negative.

        Only additions, products and square roots: these round alike for one row and for many, so that a stepped run and a
        vectorised one give the same bits.
        """
        x, y = position[:, :1], position[:, 1:]
        vx, vy = velocity[:, :1], velocity[:, 1:]
        drive = self.baseline_hz + self.speed_hz * np.sqrt(vx * vx + vy * vy)
        drive = drive + self.depth_hz * (np.cos(self.pd_rad) * vx + np.sin(self.pd_rad) * vy)
        drive = drive + self.position_hz[:, 0] * x + self.position_hz[:, 1] * y
        rectified = 0.5 * (drive + np.sqrt(drive * drive + 4.0 * SOFT_HZ**2))
        return np.asarray(np.where(self.alive, self.gain * rectified, 0.0), dtype=np.float64)

    def with_rows(self, rows: NDArray[np.bool_], other: Tuning) -> Tuning:
        """A copy whose channels where ``rows`` (C,) is True are taken, whole, from ``other``."""
        taken = {}
        for f in fields(self):
            ours, theirs = getattr(self, f.name), getattr(other, f.name)
            taken[f.name] = np.where(rows.reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)
        return replace(self, **taken)
