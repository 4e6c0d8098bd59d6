"""The ideal observer finds what a simulated day was made of, and its covariances are the generator's."""

import numpy as np
import pytest

from bci_align.interpretation.data import FactorDay
from bci_align_sim.mixed import Mixed, mixed_day, processes
from benchmarks.interpretation_ideal import covariances, ideal

pytestmark = pytest.mark.computes


def test_covariances_are_those_of_the_generator() -> None:
    array = Mixed(hidden=1)
    velocity, _, grip, hidden = covariances(12, array)
    x = processes(40_001, 1, array.length, np.random.default_rng(0))[:, 0]
    v = np.diff(x)
    for told, y in ((velocity, v / v.std()), (grip, x), (hidden, x)):
        lags = [np.mean(y[: len(y) - k] * y[k:]) for k in (0, 3, 8)]
        assert told[0, [0, 3, 8]] == pytest.approx(lags, abs=0.06)


def test_it_tells_more_of_a_louder_array_and_nothing_of_another() -> None:
    told = []
    for seed, rate in ((5, 0.3), (5, 3.0)):
        array = Mixed(rate=rate)
        day = FactorDay.of(mixed_day(5, trials=40, bins=15, array=array), None, 0.5, 0)
        told.append(np.diag(ideal(day, seed, array)["r2"]))
    assert (told[1] > told[0]).all() and (told[1] > 0.85).all()
    other = np.diag(ideal(FactorDay.of(mixed_day(5, trials=40, bins=15), None, 0.5, 0), 6)["r2"])
    assert (other < 0.5).all()
