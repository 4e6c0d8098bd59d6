"""Blocks of trials: normalised, padded, and cut so that no window leaves its trial."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bci_align.alignment.block import BURN, Block, encode
from bci_align.bundle.store import Bundle
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials

WINDOW = 8


def numbered(lengths: tuple[int, ...], run_in: tuple[int, ...]) -> UnlabelledTrials:
    """Trials whose two channels say which trial and which bin it is, the first from 1 on: padding is 0."""
    counts = tuple(np.stack([np.full(n, i + 1), np.arange(n)], 1).astype(np.float32) for i, n in enumerate(lengths))
    return UnlabelledTrials(counts, run_in, 0.05, ("trial", "bin"))


def plain(channels: int = 2) -> ReadIn:
    zero, one = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return ReadIn(zero, one, np.zeros((channels, 4), np.float32), np.zeros(4, np.float32))


def test_counts_are_normalised_and_only_a_trials_own_bins_count() -> None:
    read_in = replace(plain(), mean=np.array([1, 2], np.float32), gain=np.array([3, 0.5], np.float32))
    block = Block.of(numbered((6, 9), (2, 0)), read_in)
    assert len(block) == 2
    assert block.x.shape == (2, 9, 2)
    torch.testing.assert_close(block.x[1, :, 0], torch.full((9,), 3.0))
    torch.testing.assert_close(block.x[1, :, 1], (torch.arange(9) - 2) / 2)
    assert block.inside[0].nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert block.inside[1].all()


def test_chunks_lie_inside_their_trials_and_every_place_is_reached() -> None:
    lengths, run_in = (30, 25, 22, 12), (12, 14, 11, 10)
    block, rng = Block.of(numbered(lengths, run_in), plain()), np.random.default_rng(0)
    first: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
    for _ in range(300):
        chunks, burn = block.chunks(WINDOW, rng, block.fill(WINDOW))
        assert burn == BURN
        assert chunks.shape == (3, burn + WINDOW, 2)  # the last trial's body is too short
        for i, chunk in enumerate(chunks):
            assert set(chunk[:, 0].tolist()) == {i + 1}
            bins = chunk[:, 1].int().tolist()
            assert bins == list(range(bins[0], bins[0] + burn + WINDOW))
            assert bins[burn] >= run_in[i] and bins[-1] < lengths[i]
            first[i + 1].add(bins[burn])
    assert first == {i + 1: set(range(run_in[i], lengths[i] - WINDOW + 1)) for i in range(3)}


@pytest.mark.parametrize(("run_in", "burn"), [((0, 30), 0), ((4, 30), 4), ((25, 30), BURN)])
def test_the_burn_is_what_every_long_trial_has(run_in: tuple[int, int], burn: int) -> None:
    trials = numbered((run_in[0] + WINDOW, run_in[1] + WINDOW, WINDOW - 1), (*run_in, 0))  # the last one is short: it has no say
    block = Block.of(trials, plain())
    assert block.fill(WINDOW) == [0, 1]
    chunks, found = block.chunks(WINDOW, np.random.default_rng(0), [0, 1])
    assert found == burn
    assert chunks[:, burn, 1].tolist() == list(run_in)  # each body fills the window exactly: there is no other place


def test_rows_choose_trials() -> None:
    block, rng = Block.of(numbered((20, 20, 20), (2, 2, 2)), plain()), np.random.default_rng(0)
    assert block.chunks(WINDOW, rng, [2, 0])[0][:, 0, 0].tolist() == [3, 1]
    assert block.fill(40) == []


def test_encode_takes_what_the_block_has_normalised(small_bundle: Bundle) -> None:
    trials = small_bundle.source_trials()
    model, _ = small_bundle.models()
    block = Block.of(trials, small_bundle.read_in)
    with torch.no_grad():
        whole = model(torch.from_numpy(trials.counts[3])[None])[0]
        torch.testing.assert_close(encode(model, block.x[3:4])[:, : len(trials.counts[3])], whole, atol=1e-5, rtol=1e-4)
