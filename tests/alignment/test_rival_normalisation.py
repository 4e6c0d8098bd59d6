from dataclasses import replace

import numpy as np
import pytest

from bci_align.alignment.rivals.normalisation import RunningNormaliser, none, renormalise, running
from bci_align.bundle.store import Bundle
from bci_align.session.types import Session, UnlabelledTrials, unlabelled

Days = tuple[Session, Session]


@pytest.fixture(scope="module")
def source(small_bundle: Bundle, small_days: Days) -> UnlabelledTrials:
    return unlabelled(small_days[0], small_days[0].rewarded(), small_bundle.manifest.run_in)


def drifted(trials: UnlabelledTrials, channels: int) -> tuple[UnlabelledTrials, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    gain = rng.uniform(1.0, 2.0, channels).astype(np.float32)
    offset = rng.uniform(0.0, 1.0, channels).astype(np.float32)
    return replace(trials, counts=tuple(t * gain + offset for t in trials.counts)), gain, offset


def test_nothing_changes_nothing(small_bundle: Bundle, source: UnlabelledTrials) -> None:
    assert none(small_bundle, source, source, 0) is small_bundle.read_in


def test_gain_and_offset_are_taken_back(small_bundle: Bundle, source: UnlabelledTrials) -> None:
    today, _, _ = drifted(source, len(source.channels))
    read_in = renormalise(small_bundle, source, today, 0)
    undrifted = renormalise(small_bundle, source, source, 0)
    mapping = running(small_bundle, source, today, 0)
    x, y = np.concatenate(source.bodies()), np.concatenate(today.bodies())
    wanted = undrifted.apply(x)
    np.testing.assert_allclose(read_in.apply(y), wanted, atol=1e-3)
    # The running statistics begin at the same values and have hardly moved after a few bins.
    np.testing.assert_allclose(small_bundle.read_in.apply(mapping(y[:5])), wanted[:5], atol=0.1)
    assert np.abs(small_bundle.read_in.apply(y[:5]) - wanted[:5]).max() > 0.5


def test_running_statistics_are_those_of_an_exponential_window_and_forget_a_jump(small_bundle: Bundle) -> None:
    c, rng = len(small_bundle.read_in.mean), np.random.default_rng(1)
    counts = rng.poisson(3.0, (3000, c)).astype(np.float32)
    counts[1000:] = 2 * counts[1000:] + 4  # the array jumps
    live = replace(small_bundle.read_in, gain=np.ones(c, np.float32))
    mapping = RunningNormaliser(live, np.full(c, 3.0), np.full(c, 3.0), rate=0.01)
    activity = mapping(counts) - live.mean
    before, jumped, after = activity[:1000], activity[1000:1050], activity[2000:]
    assert abs(before.mean()) < 0.1
    assert jumped.mean() > 1
    assert abs(after.mean()) < 0.1
    assert after.std() == pytest.approx(1.0, abs=0.1)
    weights = np.append(0.99**3000, 0.01 * 0.99 ** np.arange(2999, -1, -1))
    values = np.concatenate([np.full((1, c), 3.0), counts])
    mean = weights @ values
    variance = weights @ (values - mean) ** 2 + weights[0] * 3.0  # what the start stands for has a variance of its own
    np.testing.assert_allclose(activity[-1], (counts[-1] - mean) / np.sqrt(variance), rtol=1e-3, atol=1e-3)
