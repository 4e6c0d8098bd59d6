"""Self-labelling: where labels are, that they are drawn towards movements that were made, and what learning them may move."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bci_align.alignment.block import Block, encode
from bci_align.alignment.selflabel import project, self_label
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import AlignConfig
from bci_align.diffusion.process import Diffusion
from bci_align.models.encoder import SourceModel
from bci_align.session.types import Session, UnlabelledTrials, unlabelled


@pytest.fixture(scope="module")
def trials(small_bundle: Bundle, small_days: tuple[Session, Session]) -> UnlabelledTrials:
    return unlabelled(small_days[1], small_days[1].rewarded()[:25], small_bundle.manifest.run_in)


@pytest.fixture(scope="module")
def block(small_bundle: Bundle, trials: UnlabelledTrials) -> Block:
    return Block.of(trials, renormalise(small_bundle.read_in, trials))


@pytest.fixture(scope="module")
def movement(small_bundle: Bundle) -> Diffusion:
    return small_bundle.movement_prior()


@pytest.fixture(scope="module")
def window(small_bundle: Bundle) -> int:
    return small_bundle.manifest.prior.window


def decoded(bundle: Bundle, block: Block) -> Tensor:
    model, _ = bundle.models()
    with torch.no_grad():
        return model.kinematics(encode(model, block.x))


def labels(movement: Diffusion, y: Tensor, block: Block, window: int, seed: int, level: float = 0.25) -> tuple[Tensor, Tensor]:
    return project(movement, y, block, window, level, torch.Generator().manual_seed(seed))


def test_labels_cover_every_bin_of_long_trials_and_nothing_else(
    small_bundle: Bundle, movement: Diffusion, block: Block, trials: UnlabelledTrials, window: int
) -> None:
    y = decoded(small_bundle, block)
    found, where = labels(movement, y, block, window, 0)
    assert found.shape == y.shape
    long = torch.tensor(block.lengths) >= window
    assert long.sum() > 10
    assert torch.equal(where, block.inside & long[:, None])
    assert torch.isfinite(found).all()
    # One trial is cut to less than a window: it has no labels, and the others keep theirs.
    cut = replace(trials, counts=(trials.counts[0][: window - 1], *trials.counts[1:]), run_in=(0, *trials.run_in[1:]))
    shorter = Block.of(cut, small_bundle.read_in)
    _, where = labels(movement, decoded(small_bundle, shorter), shorter, window, 0)
    assert not where[0].any()
    assert torch.equal(where[1:], shorter.inside[1:] & long[1:, None])


def test_the_same_draws_give_the_same_labels(small_bundle: Bundle, movement: Diffusion, block: Block, window: int) -> None:
    y = decoded(small_bundle, block)
    first, second, other = (labels(movement, y, block, window, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_labels_are_nearer_to_the_movement_than_what_was_projected(
    small_bundle: Bundle, small_days: tuple[Session, Session], movement: Diffusion, window: int
) -> None:
    """True movement of the source day with errors on it: projection takes errors off, and leaves clean movement nearly alone."""
    day, run_in = small_days[0], small_bundle.manifest.run_in
    assert day.kinematics is not None
    chosen = day.rewarded()[:30]
    block = Block.of(unlabelled(day, chosen, run_in), small_bundle.read_in)
    true = torch.zeros(*block.x.shape[:2], 2)
    for i, trial in enumerate(chosen):
        stop = day.trial_bins(int(trial))[1]
        true[i, : block.lengths[i]] = torch.from_numpy(
            (day.kinematics[stop - block.lengths[i] : stop] / np.array(small_bundle.manifest.scale)).astype(np.float32)
        )
    wrong = true + 0.6 * torch.randn(true.shape, generator=torch.Generator().manual_seed(3))

    def error(y: Tensor) -> float:
        return float((y - true)[where].square().mean())

    found, where = labels(movement, wrong, block, window, 0)
    assert error(found) < 0.9 * error(wrong)  # a prior that was trained for seconds
    assert error(labels(movement, true, block, window, 0)[0]) < 0.2 * error(wrong)


def fitted(bundle: Bundle, block: Block, config: AlignConfig, seed: int = 0) -> SourceModel:
    model, _ = bundle.models()
    model.requires_grad_(False)
    reference = decoded(bundle, Block.of(bundle.source_trials(), bundle.source_read_in()))
    self_label(model, bundle.movement_prior(), block, bundle.manifest.prior.window, reference.flatten(0, 1), config, seed)
    return model


def test_only_what_may_move_moves_and_a_seed_gives_the_same(small_bundle: Bundle, block: Block) -> None:
    config = AlignConfig(label_rounds=1)
    before, _ = small_bundle.models()
    one, two, other = (fitted(small_bundle, block, config, seed) for seed in (0, 0, 1))
    moved = {k for k, v in one.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert moved == {"readin.weight", "readin.bias"}
    assert torch.equal(one.readin.weight, two.readin.weight)
    assert not torch.equal(one.readin.weight, other.readin.weight)
    assert not any(p.requires_grad for p in one.parameters())


def test_no_rounds_do_nothing_and_rounds_are_told(small_bundle: Bundle, block: Block) -> None:
    before, _ = small_bundle.models()
    assert torch.equal(fitted(small_bundle, block, AlignConfig(label_rounds=0)).readin.weight, before.readin.weight)
    told: list[int] = []
    model, _ = small_bundle.models()
    reference = decoded(small_bundle, block)[block.inside]
    window, config = small_bundle.manifest.prior.window, AlignConfig(label_rounds=2)
    self_label(model, small_bundle.movement_prior(), block, window, reference, config, 0, lambda: told.append(1))
    assert len(told) == 2


def test_batches_of_short_trials_alone_do_no_harm(small_bundle: Bundle, trials: UnlabelledTrials, window: int) -> None:
    """Trials of less than a window have no labels; a batch of nothing else has nothing to teach."""
    counts = tuple(
        t if i < 6 else t[r : r + window - 1] for i, (t, r) in enumerate(zip(trials.counts, trials.run_in, strict=True))
    )
    few = replace(trials, counts=counts, run_in=tuple(r if i < 6 else 0 for i, r in enumerate(trials.run_in)))
    model = fitted(small_bundle, Block.of(few, small_bundle.read_in), AlignConfig(label_rounds=1, batch=2))
    assert torch.isfinite(model.readin.weight).all()
