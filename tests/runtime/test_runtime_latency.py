"""Histograms of durations: what they promise is 3 % and no memory that grows."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bci_align.runtime.latency import BUCKETS, FIRST_S, RATIO, STAGES, Latency, bucket, edge, quantile


def fresh() -> Latency:
    return Latency(bytearray(Latency.nbytes()))


@given(st.floats(FIRST_S, 9.9))
def test_a_duration_lies_in_its_bucket(seconds: float) -> None:
    i = bucket(seconds)
    assert edge(i - 1) * (1 - 1e-9) <= seconds <= edge(i) * (1 + 1e-9)
    assert edge(i) / edge(i - 1) < 1.0301


def test_the_ends() -> None:
    assert bucket(0.0) == bucket(-1.0) == 0
    assert bucket(1e9) == BUCKETS - 1
    assert edge(BUCKETS - 1) == math.inf
    assert edge(BUCKETS - 2) >= 10.0


def test_quantiles_are_right_to_three_percent() -> None:
    values = np.random.default_rng(0).lognormal(-8, 1.0, 5000)
    latency = fresh()
    for v in values:
        latency.add(1, float(v))
    found = latency.summary()["step"]
    assert found["count"] == 5000
    for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")):
        true = float(np.sort(values)[math.ceil(q * 5000) - 1])
        assert true * (1 - 1e-9) <= found[name] <= true * RATIO * (1 + 1e-9)
    assert math.isclose(found["max"], float(values.max()), abs_tol=1e-9)
    assert math.isclose(latency.sum_s(1), float(values.sum()), rel_tol=1e-3)
    assert all(latency.summary()[s]["count"] == 0 for s in STAGES if s != "step")


def test_nothing_counted_and_times_that_nobody_knows() -> None:
    latency = fresh()
    latency.add(0, math.nan)
    assert latency.counts(0).sum() == 0
    assert quantile(latency.counts(0), 0.99) == 0.0
    assert latency.summary()["receive"] == {"count": 0, "p50": 0, "p99": 0, "p99.9": 0, "max": 0}
