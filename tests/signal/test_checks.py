"""Every fault of a bin by its name, its policy, and no fault where there is none."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bci_align.config import ChecksConfig
from bci_align.models.read_in import ReadIn
from bci_align.signal.checks import NEW_COUNT, WINDOW, Checked, Checks
from bci_align.signal.stuck import silence, unchanged_since
from bci_align.streams.contract import Bin, Flags

BIN_S = 0.02
C = 6
MEAN = np.array([0.5, 1.0, 0.2, 2.0, 0.05, 0.0], np.float32)


def read_in() -> ReadIn:
    sd = np.sqrt(np.maximum(MEAN, 0.05))
    gain = np.where(MEAN > 0, 1.0 / sd, 0.0).astype(np.float32)
    return ReadIn(MEAN, gain, np.ones((C, 2), np.float32), np.zeros(2, np.float32))


def counts(bins: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(MEAN, (bins, C)).astype(np.float32)


def run(items: list[Bin], **config: Any) -> list[Checked]:
    checks = Checks(read_in(), BIN_S, ChecksConfig(**config))
    state, out = checks.state0(), []
    for item in items:
        before = pickle.dumps(state)
        new, found = checks.step(state, item)
        assert before == pickle.dumps(state)  # nothing in place
        state = new
        out.append(found)
    return out


def at(seq: int, x: NDArray[np.float32] | None = None, shift: float = 0.0, arrived: float = math.nan) -> Bin:
    return Bin(seq, (seq + 1) * BIN_S + shift, counts(1, seq)[0] if x is None else x, arrived)


def flags(found: list[Checked]) -> list[int]:
    return [f.flags for f in found]


def test_a_clean_stream_is_used_as_it_is() -> None:
    x = counts(500)
    found = run([at(k, x[k], arrived=50.0 + k * BIN_S) for k in range(500)])
    assert set(flags(found)) == {0}
    assert all(f.counts is not None and f.counts.tobytes() == x[k].tobytes() for k, f in enumerate(found))


def test_a_gap_is_counted() -> None:
    found = run([at(k) for k in (3, 4, 7, 8)])
    assert flags(found) == [0, 0, Flags.GAP, 0]
    assert (found[2].missing, found[2].fill, found[2].anew) == (2, 0, False)


def test_a_gap_is_filled_up_to_a_point() -> None:
    found = run([at(k) for k in (3, 6, 17)], gap="fill", fill_most=5)
    assert [(f.missing, f.fill, f.anew) for f in found] == [(0, 0, False), (2, 2, False), (10, 0, True)]


@pytest.mark.parametrize(("policy", "zero"), [("decay", False), ("zero", True)])
def test_a_fault_that_the_encoder_must_not_see(policy: str, zero: bool) -> None:
    found = run([at(k) for k in (3, 5, 6)], gap=policy)
    assert found[1].counts is None
    assert found[1].zero is zero
    assert found[2].counts is not None


def test_what_came_before_is_told_from_what_came_late() -> None:
    found = run([at(k) for k in (0, 1, 1, 4, 2, 3, 2, 0, 5)])
    d, o = Flags.DUPLICATE, Flags.OUT_OF_ORDER
    assert flags(found) == [0, 0, d, Flags.GAP, o, o, o, d, 0]
    assert [f.left_out for f in found] == [False, False, True, False, True, True, True, True, False]


@pytest.mark.parametrize(
    ("last", "shift"), [(5 * WINDOW, 0.0), (5 * WINDOW, 1e3), (20, 5.0)], ids=["far", "newer", "near and newer"]
)
def test_a_sender_that_counts_anew_is_believed_after_some_bins(last: int, shift: float) -> None:
    items = [at(k) for k in range(last + 1)] + [at(k, shift=shift) for k in range(NEW_COUNT + 3)]
    found = run(items)[last + 1 :]
    assert [f.left_out for f in found] == [True] * (NEW_COUNT - 1) + [False] * 4
    assert found[NEW_COUNT - 1].flags & Flags.RESTARTED
    assert found[NEW_COUNT - 1].anew
    assert flags(found[NEW_COUNT:]) == [0] * 3


def test_old_bins_sent_again_are_no_new_count() -> None:
    found = run([at(k) for k in [*range(40), *range(20, 40), 40]])[40:]
    assert flags(found) == [Flags.DUPLICATE] * 20 + [0]


def test_one_wild_number_costs_some_bins_and_no_more() -> None:
    found = run([at(k) for k in [*range(100), 2**62, *range(100, 110)]])[100:]
    assert found[0].flags & Flags.GAP
    assert [f.left_out for f in found[1:]] == [True] * (NEW_COUNT - 1) + [False] * 6


@pytest.mark.parametrize(("shift", "jump"), [(0.02, False), (0.04, True), (-0.04, True), (math.nan, True), (math.inf, True)])
def test_a_time_stamp_that_jumps(shift: float, jump: bool) -> None:
    found = run([at(0), at(1), at(2, shift=shift), at(3, shift=shift if math.isfinite(shift) else 0.0)])
    assert flags(found) == [0, 0, Flags.TIME_JUMP if jump else 0, 0]
    assert math.isfinite(found[2].t)


def test_time_goes_with_the_numbers_over_a_gap() -> None:
    assert flags(run([at(0), at(50)])) == [0, Flags.GAP]


@pytest.mark.parametrize(
    ("value", "name", "flag"),
    [
        (np.nan, "non_finite", Flags.NON_FINITE),
        (np.inf, "non_finite", Flags.NON_FINITE),
        (-np.inf, "non_finite", Flags.NON_FINITE),
        (-1, "negative", Flags.NEGATIVE),
        (2.1e4, "implausible", Flags.IMPLAUSIBLE),
        (3e38, "implausible", Flags.IMPLAUSIBLE),
    ],
)
@pytest.mark.parametrize("policy", ["hold", "fill", "decay", "zero"])
def test_bad_counts_by_name_and_policy(value: float, name: str, flag: Flags, policy: str) -> None:
    x = counts(3)
    x[1, 2] = value
    found = run([at(k, x[k]) for k in range(3)], **{name: policy})
    assert flags(found) == [0, flag | Flags.BAD_COUNTS, 0]
    assert np.flatnonzero(found[1].culprits[int(flag)]).tolist() == [2]
    seen = found[1].counts
    if policy == "hold":
        assert np.array_equal(seen, x[0])
    elif policy == "fill":
        x[1, 2] = MEAN[2]
        assert np.array_equal(seen, x[1])
    else:
        assert seen is None
        assert found[1].zero is (policy == "zero")


def test_the_strictest_policy_wins() -> None:
    x = counts(2)
    x[1, 0], x[1, 1] = np.nan, -1
    assert np.array_equal(run([at(0, x[0]), at(1, x[1])], non_finite="fill")[1].counts, x[0])
    assert run([at(0, x[0]), at(1, x[1])], negative="decay")[1].counts is None
    assert run([at(0, x[0]), at(1, x[1])], negative="decay", non_finite="zero")[1].zero
    assert np.array_equal(run([at(0, x[0]), at(1, x[1])], negative="fill", non_finite="fill")[1].counts, [*MEAN[:2], *x[1, 2:]])


def test_a_flood_on_many_channels_is_implausible_and_on_few_is_not() -> None:
    x = counts(3)
    x[1, :4], x[2, :2] = 90.0, 90.0
    assert flags(run([at(k, x[k]) for k in range(3)])) == [0, Flags.IMPLAUSIBLE | Flags.BAD_COUNTS, 0]


def test_counts_of_another_shape_never_reach_the_encoder() -> None:
    x = counts(1)[0]
    found = run([at(0, x), at(1, np.ones(C + 1, np.float32)), at(2)])
    assert found[1].flags == Flags.MALFORMED | Flags.BAD_COUNTS
    assert np.array_equal(found[1].counts, x)


def test_counts_in_other_types_are_counts() -> None:
    found = run([at(0, counts(1)[0].astype(np.int16)), at(1, np.full(C, 1e300))])  # type: ignore[arg-type]
    assert flags(found) == [0, Flags.NON_FINITE | Flags.BAD_COUNTS]


def silent_from(first: int, bins: int, channel: int) -> list[Checked]:
    x = counts(bins)
    x[first:, channel] = 0
    return run([at(k, x[k]) for k in range(bins)], silent_s=2.0)


def test_a_channel_that_falls_silent_is_found_when_the_time_is_up() -> None:
    found = silent_from(50, 400, 3)
    first = next(k for k, f in enumerate(found) if f.flags)
    assert 100 <= first - 50 + 1 <= 105  # silent_s; the last bins before may have been empty by chance
    assert all(f.flags == Flags.SILENT for f in found[first:])
    assert np.flatnonzero(found[first].culprits[int(Flags.SILENT)]).tolist() == [3]
    assert found[first].counts is not None


def test_a_slow_channel_and_one_that_never_spoke_are_not_accused() -> None:
    expected = silence(MEAN.astype(float), 1.0 / np.asarray(read_in().gain, float).clip(1e-9))
    assert expected[4] == pytest.approx(-math.log(1e-9) / 0.05, rel=0.01)
    found = silent_from(0, 410, 4)
    assert not any(f.flags for f in found)
    assert silent_from(0, 430, 4)[-1].flags == Flags.SILENT
    assert np.isinf(silence(np.array([0.0, 0.1]), np.array([1.0, np.inf]))).all()


def test_a_channel_that_bursts_may_be_silent_for_longer() -> None:
    steady, bursting = silence(np.array([0.5, 0.5]), np.sqrt(np.array([0.5, 5.0])))
    assert bursting > 3 * steady


def test_a_silent_channel_that_speaks_again() -> None:
    x = counts(300)
    x[:200, 3] = 0
    x[200, 3] = 1
    found = run([at(k, x[k]) for k in range(300)], silent_s=2.0)
    assert [k for k, f in enumerate(found) if f.flags] == list(range(99, 200))


@pytest.mark.parametrize("ceiling", [127.0, 255.0, 3.0])
def test_a_channel_that_sits_at_one_count(ceiling: float) -> None:
    x = counts(100)
    x[20:90, 1] = ceiling
    found = run([at(k, x[k]) for k in range(100)], saturated="fill", most_hz=1e5)
    assert [k for k, f in enumerate(found) if f.flags] == list(range(20 + 49, 90))
    assert {f.flags for f in found} == {0, Flags.SATURATED}
    seen = found[80].counts
    assert seen is not None
    assert seen[1] == MEAN[1]
    assert np.array_equal(np.delete(seen, 1), np.delete(x[80], 1))


def test_a_late_bin_and_no_accusation_of_a_clock_that_drifts() -> None:
    rng = np.random.default_rng(0)
    n = 5000
    lag = 0.003 + 50e-6 * BIN_S * np.arange(n) + 0.001 * rng.random(n)  # 50 ppm between two clocks
    lag[3000] += 0.03
    found = run([at(k, arrived=1e5 + (k + 1) * BIN_S + lag[k]) for k in range(n)])
    assert [k for k, f in enumerate(found) if f.flags] == [3000]
    assert found[3000].flags == Flags.LATE


def test_a_way_that_became_longer_is_forgotten() -> None:
    n = 12000
    found = run([at(k, arrived=(k + 1) * BIN_S + (0.03 if k > 100 else 0.0)) for k in range(n)])
    late = [k for k, f in enumerate(found) if f.flags & Flags.LATE]
    assert late[0] == 101
    assert late[-1] < 101 + 0.01 / 2e-4 / BIN_S + 2


def test_a_step_of_the_senders_clock_makes_nothing_late() -> None:
    items = [at(k, shift=-100.0 if k >= 20 else 0.0, arrived=(k + 1) * BIN_S) for k in range(40)]
    assert [k for k, f in enumerate(run(items)) if f.flags & Flags.LATE] == []


ODD = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, 127.0, -1.0]))
BINS = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 40), st.integers(-(2**62), 2**62)),
        st.one_of(st.floats(-1, 5), st.floats()),
        st.lists(ODD, min_size=C, max_size=C),
        st.floats(),
    ),
    max_size=30,
)
POLICY = st.sampled_from(["hold", "fill", "decay", "zero"])


@settings(max_examples=80, deadline=None)
@given(BINS, POLICY, POLICY, POLICY)
def test_whatever_comes_the_encoder_sees_sensible_counts(
    bins: list[tuple[int, float, list[float], float]], gap: str, bad: str, stuck: str
) -> None:
    config = {
        "gap": gap, "non_finite": bad, "negative": bad, "implausible": bad,
        "silent": stuck, "saturated": stuck, "saturated_bins": 2, "silent_s": 0.02,
    }  # fmt: skip
    items = [Bin(seq, t, np.array(x, np.float32), arrived) for seq, t, x, arrived in bins]
    found = run(items, **config)
    for f in found:
        assert f.left_out or math.isfinite(f.t)
        if f.counts is not None:
            assert f.counts.dtype == np.float32
            assert ((f.counts >= 0) & (f.counts <= 1e6 * BIN_S)).all()
    again = run(items, **config)
    for f, g in zip(found, again, strict=True):
        assert (f.flags, f.left_out, f.missing, f.fill) == (g.flags, g.left_out, g.missing, g.fill)
        assert (f.counts is None) == (g.counts is None)
        assert f.counts is None or (g.counts is not None and f.counts.tobytes() == g.counts.tobytes())


@pytest.mark.parametrize("bins", [1, 2, 49])
def test_a_look_now_and_then_finds_what_a_look_at_every_bin_would(bins: int) -> None:
    x = np.random.default_rng(bins).poisson(0.1, (bins + 1, 40)).astype(np.float32)
    x[-1, 3] = np.nan  # equal to nothing, not even to itself
    since = before = np.arange(40)
    trail: Any = (x[0], ())
    for k in range(1, bins + 1):
        since = np.where(x[k] != x[k - 1], 100 + k, since)
        trail = (x[k], trail)
    assert (unchanged_since(trail, 100 + bins, before) == since).all()


def test_every_count_is_told_from_what_cannot_be_one() -> None:
    checks = Checks(read_in(), BIN_S, ChecksConfig(flood_sd=3.0, flooded=0.01, most_hz=500.0))
    flood = checks._flood[0]
    negative_nan = np.array([0xFFC00001], np.uint32).view(np.float32)[0]
    usual = (0.0, -0.0, 1e-45, 1.0, flood)
    at_fault = {Flags.IMPLAUSIBLE: (np.nextafter(flood, np.float32(99)), 10.0, 10.1, 3e38), Flags.NEGATIVE: (-1e-45, -1.0)}
    at_fault[Flags.NON_FINITE] = (np.inf, -np.inf, np.nan, negative_nan)
    for flag, values in {Flags.NONE: usual, **at_fault}.items():
        for value in values:
            x = np.zeros(C, np.float32)
            x[0] = value
            assert checks.step(checks.state0(), at(0, x))[1].flags & ~Flags.BAD_COUNTS == flag, value
