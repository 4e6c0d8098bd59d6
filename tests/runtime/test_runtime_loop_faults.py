"""The decode loop when bins, the stream or the sender misbehave, and when the operator steps in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_align.config import ChecksConfig, PromotionConfig, SafetyConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.streams.contract import END, START, Bin, Decoded, Flags, Link, TrialEvent

from .fakes import LeakyPipeline, read_in
from .test_runtime_decode_loop import BIN_S, SCALE, counts, decode, feed, new_loop, values

pytestmark = pytest.mark.computes

LOST, BACK = Link("lost", "the stream is gone"), Link("back", "the stream is back")
OTHER = Link("mismatch", "expected 5 channels, found 4")


def timed(k: int, x: Any = None, t0: float = 0.0) -> Bin:
    """Bin ``k``, arrived 1 s of our clock after its end on the sender's."""
    return Bin(k, t0 + (k + 1) * BIN_S, counts(1, seed=k)[0] if x is None else x, 1.0 + (k + 1) * BIN_S)


def ticks(loop: DecodeLoop, start: float, stop: float, every: float = 0.005) -> list[Decoded]:
    found = [loop.tick(start + n * every) for n in range(round((stop - start) / every))]
    return [s for s in found if s is not None]


def faults(loop: DecodeLoop) -> dict[str, int]:
    return {(f.name or ""): int(loop.faults[f.bit_length() - 1]) for f in Flags if loop.faults[f.bit_length() - 1]}


def episodes(loop: DecodeLoop) -> list[tuple[str, int]]:
    return [(n["fault"], n["bin"]) for n in loop.news() if n["report"] == "fault_episode"]


def test_faults_are_counted_by_bin_and_told_by_episode() -> None:
    loop, _ = new_loop()
    x = counts(300)
    for k in (100, 101, 120, 200):  # 49 bins without are less than a second: one episode
        x[k, 1] = np.nan
    feed(loop, x, 0, 300)
    assert faults(loop) == {"NON_FINITE": 4, "BAD_COUNTS": 4}
    assert episodes(loop) == [("non_finite", 100), ("non_finite", 200)]
    assert loop.episodes[8] == 2
    assert loop.bad == 4


def test_an_episode_names_channels_and_another_channel_is_another_one() -> None:
    loop, _ = new_loop()
    x = counts(200)
    x[50:150, 3] = 7
    x[80:150, 0] = 9
    feed(loop, x, 0, 200)
    told = [n for n in loop.news() if n["report"] == "fault_episode"]
    assert [(n["fault"], n["bin"], n["channels"]) for n in told] == [("saturated", 99, [3]), ("saturated", 129, [0, 3])]
    assert told[0]["sentence"] == "bin 99: channels sit at one count above zero (1 channels: 3)"


def test_missing_bins_count_one_by_one() -> None:
    loop, _ = new_loop()
    x = counts(30)
    feed(loop, x, 0, 5)
    feed(loop, x, 15, 20)
    assert (loop.gaps, faults(loop)) == (10, {"GAP": 10})


@pytest.mark.parametrize("policy", ["decay", "zero"])
def test_a_bin_that_is_not_seen_changes_no_state(policy: str) -> None:
    loop, pipeline = new_loop(checks=ChecksConfig.model_validate({"non_finite": policy}))
    x = counts(40)
    broken = x.copy()
    broken[20:23, 0] = np.nan
    out = values(feed(loop, broken, 0, 40))
    expected = LeakyPipeline().run(np.delete(x, [20, 21, 22], 0), read_in(0))
    assert np.array_equal(np.delete(out, [20, 21, 22], 0), expected)
    share = 0.0 if policy == "zero" else math.exp(-0.2)
    assert out[20:23] == pytest.approx(out[19] * share ** np.array([[1], [2], [3]]))
    assert pipeline.steps == 37


def test_samples_go_on_when_no_bin_comes() -> None:
    loop, _ = new_loop()
    assert loop.tick(0.0) is None
    out = [decode(loop, timed(k)) for k in range(10)]
    end = 1.0 + 10 * BIN_S
    assert ticks(loop, end, end + 0.099) == []
    stale = ticks(loop, end + 0.1, end + 0.6)
    assert 24 <= len(stale) <= 26
    assert {s.flags for s in stale} == {Flags.STALE}
    assert {s.seq_in for s in stale} == {9}
    assert np.diff([s.t for s in stale]) == pytest.approx(BIN_S, abs=0.006)
    norms = [float(np.linalg.norm(s.values)) for s in [out[-1], *stale]]
    assert np.array(norms[1:]) / norms[:-1] == pytest.approx(math.exp(-0.2))
    assert episodes(loop) == [("stale", 9)]
    assert faults(loop) == {"STALE": len(stale)}
    assert decode(loop, timed(10)).flags & ~Flags.LATE == 0


@pytest.mark.parametrize("policy", ["hold", "zero"])
def test_a_stale_stream_by_policy(policy: str) -> None:
    loop, _ = new_loop(checks=ChecksConfig.model_validate({"stale": policy}))
    last = [decode(loop, timed(k)) for k in range(10)][-1]
    stale = ticks(loop, 2.0, 2.5)
    assert stale
    expected = last.values if policy == "hold" else np.zeros(2)
    assert all(np.array_equal(s.values, expected) for s in stale)


def test_nothing_is_published_without_bins_where_that_is_not_wanted() -> None:
    loop, _ = new_loop(checks=ChecksConfig(stale_s=0))
    decode(loop, timed(0))
    assert ticks(loop, 1.0, 9.0, 0.1) == []


def test_bins_whose_arrival_is_not_known() -> None:
    loop, _ = new_loop()
    decode(loop, Bin(0, BIN_S, counts(1)[0]))
    assert loop.tick(500.0) is None
    assert loop.tick(500.2) is not None


def test_a_lost_stream_that_comes_back() -> None:
    loop, _ = new_loop()
    x = counts(60)
    feed(loop, x, 0, 10)
    loop.on_link(LOST)
    assert {s.flags for s in ticks(loop, 2.0, 3.0)} == {Flags.STALE | Flags.LOST}
    loop.on_link(BACK)
    out = feed(loop, x, 40, 60)
    assert out[0].flags == Flags.GAP | Flags.RESTARTED
    assert {s.flags for s in out[1:]} == {0}
    assert np.array_equal(values(out), LeakyPipeline().run(x[40:60], read_in(0)))
    news = [n for n in loop.news() if n["report"] == "fault_episode"]
    assert [n["fault"] for n in news] == ["lost", "stale", "gap", "restarted"]
    assert news[0]["sentence"] == "the stream is gone"


def test_every_change_of_the_connection_is_told_however_soon_it_follows() -> None:
    loop, _ = new_loop()
    x = counts(40)
    other = Link("mismatch", "expected 5 channels, found 6")
    for k, link in enumerate((LOST, BACK, LOST, OTHER, other, BACK)):
        feed(loop, x, 5 * k, 5 * k + 5)
        loop.on_link(link)
    told = [n["sentence"] for n in loop.news() if n["report"] == "fault_episode" and n["fault"] in ("lost", "mismatch")]
    assert told == [LOST.sentence, LOST.sentence, OTHER.sentence, other.sentence]


def test_another_sender_counts_and_times_as_it_likes() -> None:
    loop, _ = new_loop()
    x = counts(60)
    feed(loop, x, 30, 60)
    loop.on_link(LOST)
    loop.on_link(Link("back", "another sender", restarted=True))
    out = [decode(loop, Bin(k, 1e6 + k * BIN_S, x[k])) for k in range(10)]
    assert [s.flags for s in out] == [Flags.RESTARTED] + [0] * 9
    assert np.array_equal(values(out), LeakyPipeline().run(x[:10], read_in(0)))
    assert loop.gaps == 0


@pytest.mark.parametrize("how", ["sender", "decoder"])
def test_after_a_restart_nothing_is_promoted_before_a_trial_mark(how: str) -> None:
    loop, _ = new_loop()
    x = counts(60)
    feed(loop, x, 0, 10)
    if how == "sender":
        loop.on_link(Link("back", "another sender", restarted=True))
    else:
        loop.restarted()
    loop.offer(read_in(1), 1)
    loop.idle(100)
    assert {s.generation for s in feed(loop, x, 10, 30)} == {0}
    loop.on_event(TrialEvent(30 * BIN_S + 0.001, END, True))
    assert [s.generation for s in feed(loop, x, 30, 33)] == [1] * 3


def test_another_stream_means_zero_until_the_right_one_is_back() -> None:
    loop, pipeline = new_loop()
    x = counts(60)
    feed(loop, x, 0, 10)
    loop.on_link(OTHER)
    stale = ticks(loop, 1.0, 1.5)
    assert 24 <= len(stale) <= 26  # at once, not after stale_s
    assert {s.flags for s in stale} == {Flags.STALE | Flags.MISMATCH}
    assert not any(s.values.any() for s in stale)
    sample = decode(loop, Bin(10, 11 * BIN_S, x[10]))
    assert sample.flags & Flags.MISMATCH
    assert not sample.values.any()
    assert pipeline.steps == 10
    loop.on_link(BACK)
    assert feed(loop, x, 11, 13)[1].values.any()
    assert episodes(loop)[0] == ("mismatch", 9)


def test_freeze_and_resume() -> None:
    loop, _ = new_loop()
    x = counts(60)
    feed(loop, x, 0, 10)
    loop.freeze()
    loop.freeze()
    out = feed(loop, x, 10, 20)
    assert {s.flags for s in out} == {Flags.FROZEN}
    assert not values(out).any()
    assert all(not s.values.any() and s.flags & Flags.FROZEN for s in ticks(loop, 5.0, 6.0))
    loop.resume()
    out = feed(loop, x, 20, 30)
    assert {s.flags for s in out} == {0}
    assert np.array_equal(values(out), LeakyPipeline().run(x[:30], read_in(0))[20:])
    assert [(n["report"], n["bin"]) for n in loop.news() if n["report"] != "fault_episode"] == [("frozen", 9), ("resumed", 19)]


def test_after_resume_the_output_ramps_up_where_that_is_wanted() -> None:
    x = counts(60)
    loop, _ = new_loop(promotion=PromotionConfig(blend_bins=3))
    loop.freeze()
    feed(loop, x, 0, 20)
    loop.resume()
    out = values(feed(loop, x, 20, 30))
    expected = LeakyPipeline().run(x[:30], read_in(0))[20:]
    assert out[:3] == pytest.approx(expected[:3] * np.array([[1], [2], [3]]) / 4)
    assert np.array_equal(out[3:], expected[3:])
    loop, _ = new_loop(safety=SafetyConfig(max_acceleration=50.0))
    loop.freeze()
    feed(loop, x, 0, 20)
    loop.resume()
    out = values(feed(loop, x, 20, 60))
    assert np.linalg.norm(out[0]) <= 1.0 + 1e-9
    assert np.linalg.norm(np.diff(out, axis=0), axis=1).max() <= 1.0 + 1e-9


def test_zero_is_zero_whatever_the_limit_of_acceleration() -> None:
    loop, _ = new_loop(checks=ChecksConfig(negative="zero"), safety=SafetyConfig(max_acceleration=50.0))
    x = counts(40)
    x[30, 0] = -1
    out = values(feed(loop, x, 0, 40))
    assert out[29].any()
    assert not out[30].any()


def test_a_new_state_settles_first() -> None:
    loop, _ = new_loop(safety=SafetyConfig(settle_bins=5))
    x = counts(40)
    out = values(feed(loop, x, 0, 20))
    loop.on_link(BACK)
    out = np.concatenate([out, values(feed(loop, x, 20, 40))])
    assert np.flatnonzero(~out.any(1)).tolist() == [*range(5), *range(20, 25)]


def test_messages_that_nobody_understood() -> None:
    loop, _ = new_loop()
    x = counts(10)
    feed(loop, x, 0, 3)
    loop.malformed(0)
    loop.malformed(4)
    assert [s.flags for s in feed(loop, x, 3, 6)] == [Flags.MALFORMED, 0, 0]
    assert faults(loop) == {"MALFORMED": 4}
    assert episodes(loop) == [("malformed", 2)]


def test_a_decoder_that_was_restarted_says_so() -> None:
    loop, _ = new_loop()
    loop.restarted()
    assert [s.flags for s in feed(loop, counts(10), 5, 8)] == [Flags.RESTARTED, 0, 0]


VALUE = st.one_of(st.integers(0, 9).map(float), st.sampled_from([np.nan, np.inf, -1.0, 127.0, 1e6, 3e38]))
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("bin"), st.integers(-3, 3), st.lists(VALUE, min_size=5, max_size=5)),
        st.tuples(st.just("run"), st.integers(1, 12), st.integers(0, 99)),
        st.tuples(st.just("link"), st.sampled_from([LOST, BACK, OTHER, Link("back", "anew", True)])),
        st.tuples(st.just("tick"), st.floats(0.0, 0.5)),
        st.tuples(st.just("event"), st.sampled_from([START, END]), st.floats(-0.1, 0.1)),
        st.tuples(st.just("offer"), st.integers(0, 5), st.sampled_from([1.0, 0.01, 100.0, math.nan, 1e38])),
        st.tuples(st.just("idle"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["freeze", "resume", "promote", "rollback", "restarted"])),
        st.tuples(st.just("malformed"), st.integers(0, 3)),
        st.tuples(st.just("jump"), st.integers(-(2**40), 2**40)),
    ),
    max_size=40,
)
POLICY = st.sampled_from(["hold", "fill", "decay", "zero"])


def play(
    calls: list[tuple[Any, ...]], checks: ChecksConfig, safety: SafetyConfig, promotion: PromotionConfig, warm: bool = False
) -> tuple[Any, ...]:
    """Everything that comes out of ``calls``, as bytes and reports; kept ``warm`` between them or not."""
    loop = DecodeLoop(LeakyPipeline(), read_in(0), 0, BIN_S, scale=SCALE, checks=checks, safety=safety, promotion=promotion)
    out: list[Decoded | None] = []
    seq, t, now, generation = 0, 0.0, 100.0, 0
    for name, *args in calls:
        if name in ("bin", "run"):
            step, bins = (args[0], [np.array(args[1], np.float32)]) if name == "bin" else (1, counts(args[0], seed=args[1]))
            for x in bins:
                seq, t, now = seq + step, t + BIN_S, now + BIN_S
                out.append(loop.on_bin(Bin(seq, t, np.asarray(x), now)))
                loop.idle(2)
                if warm:
                    loop.keep_warm()
        elif name == "tick":
            now += args[0]
            out.append(loop.tick(now))
        elif name == "event":
            loop.on_event(TrialEvent(t + args[1], args[0], True))
        elif name == "offer":
            generation += 1
            r = read_in(args[0])
            loop.offer(ReadIn(r.mean, r.gain, r.weight * np.float32(args[1]), r.bias), generation)
        elif name == "link":
            loop.on_link(args[0])
        elif name == "jump":
            seq += args[0]
        else:
            getattr(loop, name)(*args)
        if warm:
            loop.keep_warm()
    samples = [s for s in out if s is not None]
    for s in samples:
        assert np.isfinite(s.values).all()
        assert math.isfinite(s.t)
        assert safety.max_speed is None or np.linalg.norm(s.values) <= safety.max_speed * (1 + 1e-9)
        if s.flags & (Flags.FROZEN | Flags.MISMATCH):
            assert not s.values.any()
    assert (loop.faults >= 0).all()
    raw = [(s.seq_in, s.t, s.values.tobytes(), s.generation, int(s.flags)) for s in samples]
    return raw, repr(loop.news()), loop.faults.tolist(), loop.episodes.tolist(), loop.state


@settings(max_examples=120, deadline=None)
@given(
    CALLS, POLICY, POLICY, st.sampled_from(["hold", "decay", "zero"]),
    st.sampled_from([None, 5.0]), st.sampled_from([None, 40.0]), st.integers(0, 6), st.integers(0, 20), st.integers(0, 4),
)  # fmt: skip
def test_any_sequence_of_calls_gives_finite_outputs_within_limits_twice(
    calls: list[tuple[Any, ...]], gap: str, bad: str, late: str, speed: float | None, acceleration: float | None,
    shadow: int, probation: int, blend: int,
) -> None:  # fmt: skip
    checks = ChecksConfig.model_validate(
        {"gap": gap, "non_finite": bad, "negative": bad, "implausible": bad, "saturated": bad, "silent": bad}
        | {"late": late, "time_jump": late, "stale": late, "saturated_bins": 3, "silent_s": 0.1, "fill_most": 3}
    )
    safety = SafetyConfig(max_speed=speed, max_acceleration=acceleration)
    promotion = PromotionConfig(shadow_bins=shadow, probation_bins=probation, blend_bins=blend, spread=(0.01, 100.0))
    with np.errstate(over="ignore", invalid="ignore"):  # candidates of 1e38 overflow in the stand-in for the network
        found = play(calls, checks, safety, promotion)
        assert found == play(calls, checks, safety, promotion)
        assert found == play(calls, checks, safety, promotion, warm=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 24), min_size=1, max_size=12), st.lists(st.integers(1, 6), max_size=6), st.integers(0, 12),
    st.integers(0, 30), st.integers(1, 4), st.integers(0, 1000),
)  # fmt: skip
def test_every_generation_decodes_as_offline_stepping_of_what_it_saw(
    offers: list[int], gaps: list[int], shadow: int, probation: int, idle: int, seed: int
) -> None:
    """Swaps, rollbacks, gaps filled in or not: from ``warm_from_seq`` on, live is offline to the bit."""
    config = PromotionConfig(shadow_bins=shadow, probation_bins=probation, spread=(1e-6, 1e6), most_jump=1e6, most_clamped=1)
    loop, _ = new_loop(promotion=config, checks=ChecksConfig(gap="fill", fill_most=4))
    rng = np.random.default_rng(seed)
    n = 60 * 12
    x = counts(n, seed=seed)
    out: list[Decoded] = []
    starts = {50 * (k + 1): g for k, g in enumerate(gaps) if g <= 4}
    at = {60 * k + offset: k + 1 for k, offset in enumerate(offers)}
    left, missing = 0, []
    for k in range(n):
        left = starts.get(k, left)
        if left:
            left -= 1
            missing.append(k)
        else:
            out.append(decode(loop, Bin(k, (k + 1) * BIN_S, x[k])))
        if k in at:
            loop.offer(read_in(at[k]), at[k])
        if rng.random() < 0.01:
            loop.rollback()
        loop.idle(idle)
    led = {s.seq_in: s.generation for s in out}
    for k in reversed(missing):  # a bin that is missing is the mean of who leads when the next one comes
        led[k] = led[k + 1]
        x[k] = read_in(led[k]).mean
    moves = [r for r in loop.news() if r["report"] in ("swapped", "rolled_back")]
    firsts = [0, *(r["bin"] for r in moves)]
    begins = [0, *(r["warm_from_seq"] for r in moves)]
    for first, begin, stop in zip(firsts, begins, [*firsts[1:], n], strict=True):
        part = [s for s in out if first <= s.seq_in < stop]
        assert len({s.generation for s in part}) == 1
        expected = LeakyPipeline().run(x[begin:stop], read_in(part[0].generation))
        assert np.array_equal(values(part), expected[[s.seq_in - begin for s in part]])
