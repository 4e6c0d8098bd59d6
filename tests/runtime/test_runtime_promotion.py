"""From candidate to commit and back: shadow, orders, blending, probation, rollback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bci_align.config import ChecksConfig, PromotionConfig, SafetyConfig
from bci_align.models.read_in import ReadIn
from bci_align.runtime.decode_loop import DecodeLoop
from bci_align.runtime.promotion import Promotion
from bci_align.runtime.shadow import Comparison
from bci_align.runtime.slots import MOST_BEHIND
from bci_align.streams.contract import END, START, Decoded, Flags, TrialEvent

from .fakes import LeakyPipeline, read_in
from .test_runtime_decode_loop import BIN_S, SCALE, bin_at, counts, feed, new_loop, values

pytestmark = pytest.mark.computes

QUICK = PromotionConfig(shadow_bins=20, probation_bins=50)


def like(r: ReadIn, generation: int = 1, factor: float = 1.0) -> ReadIn:
    """A read-in that decodes much as ``r`` does, ``factor`` times as strongly."""
    rng = np.random.default_rng(generation)
    weight = factor * (r.weight + 0.02 * rng.standard_normal(r.weight.shape))
    return ReadIn(r.mean, r.gain, weight.astype(np.float32), (factor * r.bias).astype(np.float32))


def loop_of(**promotion: Any) -> DecodeLoop:
    return new_loop(promotion=PromotionConfig.model_validate(QUICK.model_dump() | promotion))[0]


def offline(x: NDArray[np.float32], r: ReadIn) -> NDArray[np.float64]:
    return LeakyPipeline().run(x, r)


def told(loop: DecodeLoop) -> list[tuple[str, int]]:
    return [(n["report"], n["generation"]) for n in loop.news()]


def generations(out: list[Decoded]) -> list[int]:
    return [s.generation for s in out]


def test_shadow_swap_probation_commit() -> None:
    loop = loop_of()
    x = counts(200)
    assert loop.state == Promotion.COLLECT
    feed(loop, x, 0, 30)
    loop.offer(like(read_in(0)), 1)
    assert (loop.state, loop.warming) == (Promotion.SHADOW, True)
    loop.idle(100)
    assert (loop.state, loop.warming) == (Promotion.SHADOW, False)
    out = feed(loop, x, 30, 200)
    assert generations(out) == [0] * 20 + [1] * 150
    assert np.array_equal(values(out[20:]), offline(x, like(read_in(0)))[50:])
    news = loop.news()
    assert [n["report"] for n in news] == ["warm", "shadow", "swapped", "probation", "committed"]
    assert (news[1]["passed"], news[1]["bins"]) == (True, 20)
    assert {c["name"] for c in news[1]["checks"]} == {
        "spread of output 0", "spread of output 1", "share of bins clamped", "largest jump",
    }  # fmt: skip
    assert (news[4]["bin"], news[4]["to"]) == (99, 1)
    assert loop.state == Promotion.COMMIT


@pytest.mark.parametrize(("factor", "why"), [(30.0, "spread of output"), (0.001, "spread of output")])
def test_a_candidate_that_fails_its_shadow_never_leads(factor: float, why: str) -> None:
    loop = loop_of(most_jump=1e3, most_clamped=1)
    x = counts(100)
    feed(loop, x, 0, 30)
    loop.offer(like(read_in(0), factor=factor), 1)
    loop.idle(100)
    out = feed(loop, x, 30, 100)
    assert generations(out) == [0] * 70
    assert np.array_equal(values(out), offline(x, read_in(0))[30:])
    news = loop.news()
    assert [n["report"] for n in news] == ["warm", "shadow", "dropped"]
    assert news[2]["reason"].startswith(f"in shadow, {why}")
    assert loop.state == Promotion.REFUSE


def test_the_shadow_ends_before_a_swap_between_trials() -> None:
    loop = loop_of()
    x = counts(200)
    feed(loop, x, 0, 30)
    loop.offer(like(read_in(0)), 1)
    loop.idle(100)
    loop.on_event(TrialEvent(40 * BIN_S, START))
    loop.on_event(TrialEvent(80 * BIN_S + 0.001, END, True))
    assert generations(feed(loop, x, 30, 90)) == [0] * 51 + [1] * 9


def test_without_leave_it_waits_for_the_order() -> None:
    loop = loop_of(automatic=False)
    x = counts(200)
    assert not loop.promote()
    feed(loop, x, 0, 30)
    loop.offer(like(read_in(0)), 1)
    loop.idle(100)
    assert generations(feed(loop, x, 30, 100)) == [0] * 70
    assert loop.state == Promotion.PROMOTE
    assert loop.promote()
    assert generations(feed(loop, x, 100, 101)) == [1]


def test_an_order_before_the_shadow_is_over_stands_until_then() -> None:
    loop = loop_of(automatic=False)
    x = counts(200)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    assert loop.promote()
    assert generations(feed(loop, x, 0, 30)) == [0] * 20 + [1] * 10


def test_an_ordered_rollback_within_probation_is_as_if_nothing_had_been() -> None:
    loop = loop_of()
    x = counts(200)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    feed(loop, x, 0, 40)
    loop.on_event(TrialEvent(40 * BIN_S, START))
    feed(loop, x, 40, 45)
    assert loop.rollback()
    assert generations(feed(loop, x, 45, 50)) == [1] * 5  # not within a trial
    loop.on_event(TrialEvent(50 * BIN_S + 0.001, END, True))
    out = feed(loop, x, 50, 60)
    assert generations(out) == [1] + [0] * 9
    assert [bool(s.flags & Flags.ROLLED_BACK) for s in out] == [False, True] + [False] * 8
    assert np.array_equal(values(out[1:]), offline(x, read_in(0))[51:60])
    back = loop.news()[-1]
    assert (back["report"], back["generation"], back["to"], back["bin"], back["reason"]) == ("rolled_back", 1, 0, 51, "ordered")
    assert loop.state == Promotion.ROLLBACK
    assert not loop.rollback()


def test_an_ordered_rollback_after_the_commit_warms_the_earlier_one_first() -> None:
    loop = loop_of(probation_bins=5)
    x = counts(900)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    feed(loop, x, 0, 600)
    assert loop.state == Promotion.COMMIT
    assert loop.rollback()
    assert loop.warming
    out = feed(loop, x, 600, 900)
    first = generations(out).index(0)
    assert 130 <= first <= 135  # 400 bins at three more than come in
    assert np.array_equal(values(out[first:]), offline(x[200:], read_in(0))[400 + first :])
    assert not loop.rollback()


def test_a_rollback_without_an_earlier_generation() -> None:
    loop = loop_of()
    feed(loop, counts(10), 0, 10)
    assert not loop.rollback()


class _Turning(LeakyPipeline):
    """From its bin ``at`` on, generation 1 (bias 7 in its last unit) gives ``value`` beside what it should."""

    def __init__(self, at: int, value: float, alternate: bool = False) -> None:
        super().__init__()
        self._at, self._value, self._alternate = at, value, alternate

    def state0(self) -> Any:
        return super().state0(), np.zeros(1)

    def step(self, state: Any, counts: Any, read_in: ReadIn) -> tuple[Any, NDArray[np.float64], bool]:
        inner, y, clamped = super().step(state[0], counts, read_in)
        n = int(state[1][0])
        if read_in.bias[-1] == 7 and n >= self._at:
            y = y + self._value * (-1 if self._alternate and n % 2 else 1)
        return (inner, state[1] + 1), y, clamped


def turned(value: float, at: int = 60, alternate: bool = False, **promotion: Any) -> tuple[list[Decoded], list[dict[str, Any]]]:
    """Generation 1 leads from bin 20; what it gives changes at bin ``at``, within the trial from bin 50 to 79."""
    config = PromotionConfig.model_validate({"shadow_bins": 20, "probation_bins": 500} | promotion)
    loop = DecodeLoop(_Turning(at, value, alternate), read_in(0), 0, BIN_S, scale=SCALE, promotion=config)
    r = like(read_in(0))
    r.bias[-1] = 7
    loop.offer(r, 1)
    loop.idle(1)
    loop.on_event(TrialEvent(50 * BIN_S, START))
    loop.on_event(TrialEvent(80 * BIN_S - 0.001, END, True))
    out = feed(loop, counts(200), 0, 200)
    return out, loop.news()


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "its output or its state is not finite"), (1e3, "largest jump: expected at most 6")]
)
def test_a_leader_that_goes_wild_is_taken_back_at_once(value: float, reason: str) -> None:
    out, news = turned(value)
    assert generations(out) == [0] * 20 + [1] * 41 + [0] * 139
    assert out[61].flags & Flags.ROLLED_BACK
    assert out[61].flags & Flags.IN_TRIAL
    assert np.isfinite(values(out)).all()
    forgotten = [60] if np.isnan(value) else []  # a bin that the leader could not decode is forgotten by all
    assert np.array_equal(values(out[61:]), offline(np.delete(counts(200), forgotten, 0), read_in(0))[-139:])
    back = news[-1]
    assert (back["report"], back["bin"]) == ("rolled_back", 61)
    assert back["reason"].startswith(reason)


def test_a_leader_that_is_merely_wrong_is_taken_back_between_trials() -> None:
    out, news = turned(50.0, at=21, alternate=True, most_jump=1e3)
    first = generations(out).index(0, 20)
    assert first == 120  # after the first look, at 100 bins
    assert news[-1]["reason"].startswith("spread of output")
    assert not all(c["passed"] for c in news[-1]["checks"])


def test_a_candidate_made_from_what_was_taken_back_is_dropped() -> None:
    loop = loop_of()
    x = counts(200)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    feed(loop, x, 0, 30)
    loop.offer(like(read_in(0), 2), 2)
    loop.rollback()
    feed(loop, x, 30, 100)
    assert loop.incumbent.generation == 0
    assert told(loop)[-2:] == [("rolled_back", 1), ("dropped", 2)]


def test_the_next_candidate_waits_for_the_end_of_probation() -> None:
    loop = loop_of()
    x = counts(300)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    feed(loop, x, 0, 25)
    loop.offer(like(read_in(0), 2), 2)
    out = feed(loop, x, 25, 300)
    assert generations(out) == [1] * 45 + [2] * 230  # 20 + 50 bins
    assert np.array_equal(values(out[45:]), offline(x, like(read_in(0), 2))[70:])


def test_blending_moves_the_output_from_the_one_to_the_other() -> None:
    loop = loop_of(blend_bins=4)
    x = counts(60)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    out = feed(loop, x, 0, 60)
    old, new = offline(x, read_in(0)), offline(x, like(read_in(0)))
    share = np.array([4, 3, 2, 1])[:, None] / 5
    assert np.array_equal(values(out[20:24]), share * old[20:24] + (1 - share) * new[20:24])
    assert np.array_equal(values(out[24:]), new[24:])
    assert [k for k, s in enumerate(out) if s.flags & Flags.BLENDING] == [20, 21, 22, 23]
    assert generations(out) == [0] * 20 + [1] * 40


def test_blending_does_not_wait_for_a_generation_that_nobody_stepped() -> None:
    loop = loop_of(blend_bins=30, shadow_bins=0)
    x = counts(60)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    out = feed(loop, x, 0, 60, idle=0)
    assert [k for k, s in enumerate(out) if s.flags & Flags.BLENDING] == list(range(30))  # stepped by the blending itself


def test_an_acceleration_limit_smooths_the_swap() -> None:
    limit = 25.0
    loop, _ = new_loop(promotion=QUICK, safety=SafetyConfig(max_acceleration=limit))
    x = counts(60)
    loop.offer(like(read_in(0), factor=2.0), 1)
    loop.idle(1)
    y = values(feed(loop, x, 0, 60))
    assert np.linalg.norm(np.diff(y, axis=0), axis=1).max() <= limit * BIN_S * (1 + 1e-9)


def test_a_follower_that_nobody_steps_takes_bounded_memory() -> None:
    loop = loop_of()
    x = np.tile(counts(100), (30, 1))
    loop.offer(like(read_in(0)), 1)
    for k in range(3000):
        loop.on_bin(bin_at(k, x[k]))
    follower = loop.promoter._candidate
    assert follower is not None
    assert len(follower.behind) <= MOST_BEHIND
    loop.idle(10000)
    assert all(f.level for f in loop.promoter.followers)


def test_a_state_that_starts_anew_does_so_for_all() -> None:
    """A gap too long to be filled: whoever follows sees what the leader sees from there on."""
    loop, _ = new_loop(promotion=QUICK, checks=ChecksConfig(gap="fill", fill_most=3))
    x = counts(200)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    out = feed(loop, x, 0, 10) + feed(loop, x, 100, 200)
    first = generations(out).index(1)
    assert first == 20
    assert np.array_equal(values(out[first:]), offline(x[100:], like(read_in(0)))[10:])
    assert np.array_equal(values(out[10:20]), offline(x[100:], read_in(0))[:10])


def test_bins_filled_in_are_seen_by_all() -> None:
    loop, _ = new_loop(promotion=QUICK, checks=ChecksConfig(gap="fill"))
    x = counts(60)
    loop.offer(like(read_in(0)), 1)
    loop.idle(1)
    out = feed(loop, x, 0, 10) + feed(loop, x, 13, 60)
    x[10:13] = read_in(0).mean
    first = generations(out).index(1)
    assert np.array_equal(values(out[first:]), offline(x, like(read_in(0)))[first + 3 :])
    assert np.array_equal(values(out[:first]), np.delete(offline(x, read_in(0)), [10, 11, 12], 0)[:first])


def test_an_incumbent_gone_wild_is_no_yardstick() -> None:
    """Drift made the old one wild: the new one, as spread as the source day, must not be refused for that."""
    rng = np.random.default_rng(0)
    c = Comparison(np.ones(2), PromotionConfig())
    for _ in range(200):
        c.add(rng.standard_normal(2), False, 50 * rng.standard_normal(2), True)
    assert all(check["passed"] for check in c.checks())
    dead = Comparison(np.ones(2), PromotionConfig())
    for _ in range(200):
        dead.add(np.zeros(2), False, rng.standard_normal(2), False)
    assert not all(check["passed"] for check in dead.checks())


def test_a_rest_is_no_difference() -> None:
    c = Comparison(np.ones(2), PromotionConfig())
    for _ in range(50):
        c.add(np.zeros(2), False, np.full(2, 1e-5), False)
    assert all(check["passed"] for check in c.checks())
