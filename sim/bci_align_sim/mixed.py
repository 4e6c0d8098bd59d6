"""A day on which every channel is mixed: each carries all behaviours and processes that no label knows.

The ground truth for :mod:`bci_align.interpretation`: independent behaviours, none of which has a channel of its own (mixed
selectivity, Rigotti et al. 2013, Nature 497:585), so that a factor which carries one behaviour alone has to be found.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from bci_align.config import Strict
from bci_align.session.types import TIME_TOLERANCE_S, Session, Trials, validate
from bci_align_sim.task import channel_labels
from bci_align_sim.tuning import FloatArray

NAMES = ("vx", "vy", "grip")
UNITS = ("cm/s", "cm/s", "a.u.")
SPEED_CM_S = 8.0
"""Standard deviation of each velocity; the grip's is 1."""


class Mixed(Strict):
    """The array and what it hears. Times in bins."""

    neurons: int = Field(40, ge=4, description="channels")
    hidden: int = Field(2, ge=0, description="processes that drive the channels and are no behaviour")
    length: float = Field(4.0, gt=0, description="correlation length of every process (SD of a Gaussian), bins")
    rate: float = Field(1.5, gt=0, description="mean spikes per bin")
    depth: float = Field(0.45, gt=0, description="standard deviation of the log rate that all processes make together")


class Wear(Strict):
    """What happens to the array between two days; all zero is no drift."""

    gain_sd: float = Field(0.2, ge=0, description="standard deviation of the log of each channel's rate factor")
    turned: float = Field(0.1, ge=0, le=1, description="share of channels with fresh loadings")


def processes(bins: int, count: int, length: float, rng: np.random.Generator) -> FloatArray:
    """Independent smooth Gaussian processes (bins, count) of variance 1: white noise under a Gaussian of SD ``length`` bins."""
    reach = int(np.ceil(4 * length))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / length) ** 2)
    kernel /= np.sqrt(np.square(kernel).sum())
    noise = rng.standard_normal((bins + 2 * reach, count))
    return np.stack([np.convolve(noise[:, i], kernel, mode="valid") for i in range(count)], axis=1)


def loadings(seed: int, array: Mixed) -> tuple[FloatArray, FloatArray]:
    """Loadings (D, C) on all processes, behaviours first, and log rates at rest (C,), of an array on day 0.

    The log rate is ``base + depth * processes @ loading / sqrt(D)``.
    """
    rng = np.random.default_rng([seed, 0])
    loading = rng.standard_normal((len(NAMES) + array.hidden, array.neurons))
    return loading, np.log(array.rate) + 0.3 * rng.standard_normal(array.neurons)


def mixed_day(
    seed: int,
    trials: int = 1000,
    bins: int = 25,
    bin_s: float = 0.05,
    array: Mixed | None = None,
    wear: Wear | None = None,
    day: int = 0,
    name: str = "mixed",
) -> Session:
    """One day of ``trials`` rewarded trials end to end, ``bins`` each, with ``vx``, ``vy`` (cm/s) and ``grip`` as kinematics.

    ``seed`` draws the array; ``day`` draws what is done on it, and with ``wear`` how the array has changed since day 0. The
    velocities are those of a hand whose position is a stationary process, so that it stays near the centre.
    """
    array = array or Mixed()
    worn_rng, rng = (np.random.default_rng([seed, *k]) for k in ((1, day), (2, day)))
    total = trials * bins
    d = len(NAMES) + array.hidden
    loading, base = loadings(seed, array)
    if wear is not None:
        fresh = worn_rng.permutation(array.neurons) < round(wear.turned * array.neurons)
        loading = np.where(fresh, worn_rng.standard_normal(loading.shape), loading)
        base = base + wear.gain_sd * worn_rng.standard_normal(array.neurons)
    position = processes(total + 1, 2, array.length, rng)
    velocity = np.diff(position, axis=0)
    others = processes(total, d - 2, array.length, rng)
    u = np.concatenate([velocity / velocity.std(0), others], axis=1)
    log_rate = base + array.depth * u @ loading / np.sqrt(d)
    counts = rng.poisson(np.exp(np.minimum(log_rate, np.log(50.0)))).astype(np.int32)
    start: FloatArray = np.arange(trials) * np.float64(bins * bin_s)
    session = Session(
        counts=counts,
        bin_s=bin_s,
        channels=channel_labels(array.neurons),
        trials=Trials(
            start, np.full(trials, np.nan), start + (bins * bin_s - 2 * TIME_TOLERANCE_S), np.ones(trials, dtype=np.bool_)
        ),
        kinematics=(u[:, : len(NAMES)] * np.array([SPEED_CM_S, SPEED_CM_S, 1.0])).astype(np.float32),
        kinematics_names=NAMES,
        kinematics_units=UNITS,
        name=name,
        meta={"origin": "bci_align_sim: mixed selectivity", "seed": str(seed), "day": str(day)},
    )
    return validate(session, name)
