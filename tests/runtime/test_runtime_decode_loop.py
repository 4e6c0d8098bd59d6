"""The decode loop: every bin decoded once, by the right generation, from a state that offline stepping reproduces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bci_align.bundle.store import Bundle
from bci_align.config import PromotionConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.slots import HISTORY
from bci_align.session.types import Session
from bci_align.streams.contract import END, START, Bin, Decoded, Flags, TrialEvent

from .fakes import LeakyPipeline, read_in, small_session, stream

pytestmark = pytest.mark.computes

BIN_S = 0.02


def counts(bins: int, channels: int = 5, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(1.0, (bins, channels)).astype(np.float32)


def bin_at(k: int, x: NDArray[np.float32]) -> Bin:
    return Bin(k, (k + 1) * BIN_S, x)


AT_ONCE = PromotionConfig(shadow_bins=0, probation_bins=0)
"""A candidate leads as soon as it has caught up, and for good."""

SCALE = (10.0, 10.0)


def new_loop(**config: Any) -> tuple[DecodeLoop, LeakyPipeline]:
    """A loop without shadow or probation, if ``config`` does not say otherwise."""
    pipeline = LeakyPipeline()
    return DecodeLoop(pipeline, read_in(0), 0, BIN_S, scale=SCALE, **{"promotion": AT_ONCE} | config), pipeline


def decode(loop: DecodeLoop, item: Bin) -> Decoded:
    """Decode a bin that gives a sample."""
    sample = loop.on_bin(item)
    assert sample is not None
    return sample


def feed(loop: DecodeLoop, x: NDArray[np.float32], start: int, stop: int, idle: int = 4) -> list[Decoded]:
    out = []
    for k in range(start, stop):
        out.append(decode(loop, bin_at(k, x[k])))
        loop.idle(idle)
    return out


def values(samples: list[Decoded]) -> NDArray[np.float64]:
    return np.array([s.values for s in samples])


def test_without_a_candidate_it_is_offline_stepping() -> None:
    loop, pipeline = new_loop()
    x = counts(100)
    out = feed(loop, x, 0, 100)
    assert np.array_equal(values(out), LeakyPipeline().run(x, read_in(0)))
    assert [s.seq_in for s in out] == list(range(100))
    assert {s.generation for s in out} == {0}
    assert pipeline.steps == 100


def test_a_candidate_catches_up_in_bounded_steps_and_then_decodes_as_if_it_always_had() -> None:
    loop, pipeline = new_loop()
    x = counts(1200)
    feed(loop, x, 0, 1000)
    loop.offer(read_in(1), 1)
    assert loop.warming
    before = pipeline.steps
    loop.idle(4)
    assert pipeline.steps == before + 4
    out = feed(loop, x, 1000, 1200, idle=4)  # gains three bins per bin: warm after 400 / 3
    first = next(i for i, s in enumerate(out) if s.generation == 1)
    assert 130 <= first <= 135
    assert out[first].flags & Flags.SWAPPED
    assert sum(bool(s.flags & Flags.SWAPPED) for s in out) == 1
    news = loop.news()
    assert [n["report"] for n in news] == ["warm", "swapped", "committed"]
    assert news[1] == {"report": "swapped", "generation": 1, "bin": 1000 + first, "warm_from_seq": 1000 - HISTORY}
    expected = LeakyPipeline().run(x[1000 - HISTORY :], read_in(1))[HISTORY + first :]
    assert np.array_equal(values(out[first:]), expected)
    assert np.array_equal(values(out[:first]), LeakyPipeline().run(x, read_in(0))[1000 : 1000 + first])


def test_the_live_bin_never_pays_for_the_candidate() -> None:
    loop, pipeline = new_loop()
    x = counts(600)
    feed(loop, x, 0, 500)
    loop.offer(read_in(1), 1)
    for k in range(500, 600):
        before = pipeline.steps
        loop.on_bin(bin_at(k, x[k]))
        assert pipeline.steps == before + 1
        loop.idle(2)
        assert pipeline.steps <= before + 3


def test_a_candidate_waits_for_the_end_of_the_trial() -> None:
    loop, _ = new_loop()
    x = counts(100)
    feed(loop, x, 0, 10)
    loop.on_event(TrialEvent(10 * BIN_S, START))
    loop.on_bin(bin_at(10, x[10]))
    loop.offer(read_in(1), 1)
    loop.idle(100)
    assert not loop.warming
    out = feed(loop, x, 11, 20)
    loop.on_event(TrialEvent(20 * BIN_S + 0.001, END, True))
    out += feed(loop, x, 20, 23)
    assert [s.generation for s in out] == [0] * 10 + [1] * 2  # the bin with the end in it is still the trial's
    assert [bool(s.flags & Flags.IN_TRIAL) for s in out] == [True] * 10 + [False] * 2
    assert np.array_equal(values(out[10:]), LeakyPipeline().run(x, read_in(1))[21:23])


def contiguous(loop: DecodeLoop, x: NDArray[np.float32], edges: list[float], late: int = 0) -> list[Decoded]:
    """Trials without a pause, from edge to edge; a candidate comes after bin 11. Events come ``late`` bins after their bin."""
    out = []
    for k in range(len(x)):
        for n, t in enumerate(edges):
            if int(t / BIN_S + 1e-6) + late == k:
                if n:
                    loop.on_event(TrialEvent(t, END, True))
                loop.on_event(TrialEvent(t, START))
        out.append(decode(loop, bin_at(k, x[k])))
        if k == 11:
            loop.offer(read_in(1), 1)
        loop.idle(100)
    return out


@pytest.mark.parametrize(("edge", "late"), [(20.5, 0), (20.0, 0), (20.5, 1)])
def test_between_contiguous_trials_there_is_a_swap(edge: float, late: int) -> None:
    """No bin is outside of a trial: the swap comes behind the one that two trials share, also if that is known a bin late."""
    loop, _ = new_loop()
    x = counts(40)
    out = contiguous(loop, x, [2.5 * BIN_S, 10.5 * BIN_S, edge * BIN_S], late)
    assert all(s.flags & Flags.IN_TRIAL for s in out[4:])
    assert [s.seq_in for s in out if s.flags & Flags.SWAPPED] == [21]
    assert [s.generation for s in out] == [0] * 21 + [1] * 19
    assert np.array_equal(values(out[21:]), LeakyPipeline().run(x, read_in(1))[21:])


def test_a_boundary_that_has_gone_by_is_none() -> None:
    loop, _ = new_loop()
    out = contiguous(loop, counts(40), [2.5 * BIN_S, 10.5 * BIN_S, 20.5 * BIN_S], late=2)
    assert {s.generation for s in out} == {0}


def test_within_a_trial_there_is_no_swap() -> None:
    loop, _ = new_loop()
    out = contiguous(loop, counts(60), [2.5 * BIN_S, 10.5 * BIN_S])
    assert {s.generation for s in out} == {0}


def test_an_event_ahead_of_its_bin_takes_effect_with_its_bin() -> None:
    loop, _ = new_loop()
    x = counts(30)
    loop.on_event(TrialEvent(10 * BIN_S, START))
    loop.on_event(TrialEvent(12 * BIN_S, END, True))
    out = feed(loop, x, 0, 20)
    assert [s.seq_in for s in out if s.flags & Flags.IN_TRIAL] == [10, 11, 12]


def test_a_candidate_before_the_first_bin_decodes_from_the_first_bin() -> None:
    loop, _ = new_loop()
    loop.offer(read_in(1), 1)
    loop.idle(1)
    x = counts(20)
    out = feed(loop, x, 0, 20)
    assert {s.generation for s in out} == {1}
    assert np.array_equal(values(out), LeakyPipeline().run(x, read_in(1)))
    assert loop.news()[1]["warm_from_seq"] == 0


def test_the_generation_before_is_kept() -> None:
    loop, _ = new_loop()
    x = counts(50)
    feed(loop, x, 0, 10)
    for generation in (1, 2):
        loop.offer(read_in(generation), generation)
        loop.idle(100)
        feed(loop, x, 10 * generation, 10 * generation + 10)
        kept = loop.promoter.slots[1 - loop.promoter.live]
        assert loop.incumbent.generation == generation
        assert kept is not None
        assert kept.generation == generation - 1
        assert np.array_equal(kept.read_in.weight, read_in(generation - 1).weight)


def test_a_newer_candidate_replaces_one_that_waits() -> None:
    loop, _ = new_loop()
    feed(loop, counts(10), 0, 10)
    loop.offer(read_in(1), 1)
    loop.idle(3)
    loop.offer(read_in(2), 2)
    loop.idle(100)
    out = feed(loop, counts(20), 10, 12)
    assert {s.generation for s in out} == {2}
    assert [(n["report"], n["generation"]) for n in loop.news()] == [
        ("dropped", 1),
        ("warm", 2),
        ("swapped", 2),
        ("committed", 2),
    ]


def test_gaps_are_flagged_and_counted() -> None:
    loop, _ = new_loop()
    x = counts(30)
    out = [decode(loop, bin_at(k, x[k])) for k in (3, 4, 7, 8, 20)]
    assert [s.seq_in for s in out if s.flags & Flags.GAP] == [7, 20]
    assert loop.gaps == 2 + 11
    assert np.array_equal(values(out), LeakyPipeline().run(x[[3, 4, 7, 8, 20]], read_in(0)))


@pytest.mark.parametrize(("seq", "flag"), [(5, Flags.DUPLICATE), (4, Flags.DUPLICATE), (2, Flags.OUT_OF_ORDER)])
def test_no_bin_is_decoded_twice(seq: int, flag: Flags) -> None:
    loop, pipeline = new_loop()
    x = counts(10)
    feed(loop, np.delete(x, 2, 0), 0, 2)
    feed(loop, x, 3, 6)
    assert loop.on_bin(bin_at(seq, x[seq])) is None
    assert pipeline.steps == 5
    assert [s.flags for s in feed(loop, x, 6, 8)] == [flag, 0]


def test_clamped_outputs_are_flagged() -> None:
    loop, _ = new_loop()
    x = counts(20)
    x[10:] = 15
    out = feed(loop, x, 0, 20)
    assert not out[5].flags & Flags.CLAMPED
    assert out[15].flags & Flags.CLAMPED


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_offers_and_trials(seed: int) -> None:
    """Whatever comes when: each bin once, no swap inside a trial, and every generation's outputs those of offline stepping."""
    rng = np.random.default_rng(seed)
    s = small_session(seed, bins=900)
    x = s.counts.astype(np.float32)
    loop = DecodeLoop(LeakyPipeline(), read_in(0), 0, s.bin_s, scale=SCALE, promotion=AT_ONCE)
    offers = {int(k): n + 1 for n, k in enumerate(np.sort(rng.choice(900, 6, replace=False)))}
    out, swaps = [], []
    for item in stream(s, 3.21):
        if isinstance(item, TrialEvent):
            loop.on_event(item)
            continue
        out.append(decode(loop, item))
        if item.seq in offers:
            loop.offer(read_in(offers[item.seq]), offers[item.seq])
        for _ in range(int(rng.integers(0, 3))):
            loop.idle(int(rng.integers(1, 40)))
        swaps += [n for n in loop.news() if n["report"] == "swapped"]
    assert [d.seq_in for d in out] == list(range(900))
    assert swaps
    inside = np.zeros(900, bool)
    for i in range(len(s.trials)):
        inside[slice(*s.trial_bins(i))] = True
    assert [bool(d.flags & Flags.IN_TRIAL) for d in out] == inside.tolist()
    last_bins = {s.trial_bins(i)[1] - 1 for i in range(len(s.trials))}
    ends = [w["bin"] for w in swaps[1:]] + [900]
    for swap, end in zip(swaps, ends, strict=True):
        first, begin, generation = int(swap["bin"]), int(swap["warm_from_seq"]), int(swap["generation"])
        assert not inside[first] or first - 1 in last_bins
        assert {d.generation for d in out[first:end]} == {generation}
        expected = LeakyPipeline().run(x[begin:end], read_in(generation))[first - begin :]
        assert np.array_equal(values(out[first:end]), expected)


def test_warming_is_enough_for_the_real_pipeline(bundle: Bundle, days: tuple[Session, Session]) -> None:
    x = days[1].counts.astype(np.float32)
    rng = np.random.default_rng(0)
    r = bundle.read_in
    other = ReadIn(r.mean * 0.8, r.gain * 1.2, r.weight + 0.05 * rng.standard_normal(r.weight.shape).astype(np.float32), r.bias)
    pipeline = bundle.pipeline()
    loop = DecodeLoop(pipeline, r, 0, bundle.manifest.bin_s, scale=bundle.manifest.scale, promotion=AT_ONCE)
    out = feed(loop, x, 0, 900)
    loop.offer(other, 1)
    out += feed(loop, x, 900, 1100)
    first = next(i for i, d in enumerate(out) if d.generation == 1)
    whole = pipeline.run(x[:1100], other)
    exact = pipeline.run(x[900 - HISTORY : 1100], other)
    assert np.array_equal(values(out[:first]), pipeline.run(x[:first], r))
    assert np.array_equal(values(out[first:]), exact[first - 900 + HISTORY :])
    assert np.abs(values(out[first:]) - whole[first:]).max() < 1e-4


def test_keeping_the_real_step_warm_changes_no_bit(bundle: Bundle, days: tuple[Session, Session]) -> None:
    out = []
    for warm in (False, True):
        pipeline = bundle.pipeline()
        loop = DecodeLoop(pipeline, bundle.read_in, 0, BIN_S, scale=pipeline.scale)
        samples = []
        for k, x in enumerate(days[1].counts[:200].astype(np.float32)):
            if k == 60:
                other = bundle.read_in
                loop.offer(ReadIn(other.mean, other.gain, other.weight * np.float32(1.1), other.bias), 1)
            samples.append(decode(loop, Bin(k, (k + 1) * BIN_S, x)))
            loop.idle(4)
            for _ in range(k % 3 if warm else 0):
                loop.keep_warm()
        out.append([(s.values.tobytes(), s.generation, int(s.flags)) for s in samples])
    assert out[0] == out[1]
    assert {g for _, g, _ in out[0]} == {0, 1}
