"""The decode loop against counts, candidates and a network that misbehave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.config import ChecksConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.slots import Seen
from bci_align.session.types import Session
from bci_align.streams.contract import Bin, Flags

from .fakes import LeakyPipeline, read_in
from .test_runtime_decode_loop import AT_ONCE, BIN_S, SCALE, bin_at, counts, decode, feed, new_loop, values

pytestmark = pytest.mark.computes


def test_a_candidate_that_gives_nonsense_is_dropped_before_it_decodes() -> None:
    loop, _ = new_loop()
    x = counts(40)
    feed(loop, x, 0, 20)
    good = read_in(1)
    loop.offer(ReadIn(good.mean, good.gain * np.float32(np.nan), good.weight, good.bias), 1)
    assert not loop.warming
    with np.errstate(over="ignore", invalid="ignore"):
        loop.offer(ReadIn(good.mean, good.gain, good.weight * np.float32(3e38), good.bias * np.float32(3e38)), 2)
        loop.idle(100)
    out = feed(loop, x, 20, 40)
    assert {s.generation for s in out} == {0}
    reasons = [(n["report"], n["generation"]) for n in loop.news()]
    assert reasons == [("dropped", 1), ("dropped", 2)]


def test_bad_counts_never_reach_the_encoder() -> None:
    loop, _ = new_loop()
    x = counts(30)
    broken = x.copy()
    broken[10, 2], broken[11, 0], broken[12, 1] = np.nan, -1.0, np.inf
    stand_in = x.copy()
    stand_in[10:13] = x[9]
    out = feed(loop, broken, 0, 30)
    assert [s.seq_in for s in out if s.flags & Flags.BAD_COUNTS] == [10, 11, 12]
    assert np.array_equal(values(out), LeakyPipeline().run(stand_in, read_in(0)))
    assert loop.bad == 3
    assert decode(loop, Bin(30, 0.62, np.ones(4, np.float32))).flags == Flags.BAD_COUNTS | Flags.MALFORMED


def test_one_absurd_count_does_not_poison_what_follows(bundle: Bundle, days: tuple[Session, Session]) -> None:
    """Finite as it is, it overflowed in the network, and every later bin was NaN."""
    x = days[1].counts[:60].astype(np.float32)
    broken, stand_in = x.copy(), x.copy()
    broken[10, 0], stand_in[10] = 3e38, x[9]
    pipeline = bundle.pipeline()
    out = feed(DecodeLoop(pipeline, bundle.read_in, 0, bundle.manifest.bin_s, scale=bundle.manifest.scale), broken, 0, 60)
    assert [s.seq_in for s in out if s.flags & Flags.BAD_COUNTS] == [10]
    assert np.array_equal(values(out), pipeline.run(stand_in, bundle.read_in))


def test_the_most_counts_are_believed() -> None:
    most = 1e3 * BIN_S
    loop, _ = new_loop(checks=ChecksConfig(most_hz=1e3, flood_sd=1e6))
    assert decode(loop, bin_at(0, np.full(5, most, np.float32))).flags == 0
    assert decode(loop, bin_at(1, np.full(5, most * 1.01, np.float32))).flags == Flags.BAD_COUNTS | Flags.IMPLAUSIBLE


class _Overflowing(LeakyPipeline):
    """Gives NaN in the output, or in the state only, for a bin whose first count is 7."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def step(self, state: Any, counts: Any, read_in: ReadIn) -> tuple[Any, NDArray[np.float64], bool]:
        new, y, clamped = super().step(state[1], counts, read_in)
        nan = np.full(2, np.nan)
        if counts[0] == 7:
            return (np.zeros(1), nan), nan if self._where == "output" else y, clamped
        return (np.zeros(1), new), y, clamped

    def state0(self) -> Any:
        return np.zeros(1), super().state0()


@pytest.mark.parametrize("where", ["output", "state"])
def test_a_network_that_overflows_keeps_its_state_and_sends_zeros(where: str) -> None:
    loop = DecodeLoop(_Overflowing(where), read_in(0), 0, BIN_S, scale=SCALE, promotion=AT_ONCE)
    x = np.minimum(counts(40), 5)
    broken = x.copy()
    broken[20, 0], broken[21, 1] = 7, np.nan
    out = feed(loop, broken, 0, 40)
    assert [s.seq_in for s in out if s.flags & Flags.BAD_COUNTS] == [20, 21]
    assert loop.bad == 2
    assert not out[20].values.any()
    seen = np.concatenate([x[:20], x[19:20], x[22:]])  # bin 20 never was; bin 19 stands in for bin 21
    assert np.array_equal(np.delete(values(out), 20, 0), LeakyPipeline().run(seen, read_in(0)))
    loop.offer(read_in(1), 1)  # a candidate does not see it either
    loop.idle(100)
    assert decode(loop, bin_at(40, x[0])).generation == 1


def test_a_candidate_whose_state_overflows_is_dropped() -> None:
    loop = DecodeLoop(_Overflowing("state"), read_in(0), 0, BIN_S, scale=SCALE, promotion=AT_ONCE)
    x = np.minimum(counts(40), 5)
    feed(loop, x, 0, 20)
    loop.offer(read_in(1), 1)
    loop.idle(100)
    loop.promoter._candidate.behind.append(Seen(20, np.full(5, 7, np.float32)))  # type: ignore[union-attr]
    loop.idle(1)
    assert [n["report"] for n in loop.news()] == ["warm", "dropped"]


def test_bad_counts_before_any_good_ones() -> None:
    loop, _ = new_loop()
    sample = decode(loop, bin_at(0, np.full(5, np.nan, np.float32)))
    assert sample.flags & Flags.BAD_COUNTS
    assert np.array_equal(sample.values, LeakyPipeline().run(read_in(0).mean[None], read_in(0))[0])
