"""Tuning transfer: which channels changed, what the change is, and what comes of it, on days whose truth is known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bci_align.alignment.block import Block
from bci_align.alignment.start import renormalise
from bci_align.alignment.tuning import Measurement, Source, Tuning, changed, measure, rows_of_tuning, transferred, tuning
from bci_align.bundle.store import Bundle
from bci_align.config import TrainConfig
from bci_align.evaluation.score import evaluate
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align.training import train_bundle
from bci_align_sim.day import simulate_days, simulate_tunings
from bci_align_sim.drift import Drift

C = 48
DRIFT = Drift(turnover=0.25, gain_sd=0.2, rotation_deg=0, baseline_sd_hz=1, dead=0)
"""A quarter of the units is replaced; the others change their rates, which re-normalisation takes back, and no tuning."""
CALIBRATION = 40


@dataclass(frozen=True)
class Turned:
    """A day with turnover: the source day's ``bundle``, the ``day``, and which channels hear another unit (C,)."""

    bundle: Bundle
    first: Session
    day: Session
    replaced: Tensor
    source: Source

    def trials(self, n: int) -> UnlabelledTrials:
        return unlabelled(self.day, self.day.rewarded()[:n], self.bundle.manifest.run_in)

    def transfer(self, trials: UnlabelledTrials) -> tuple[ReadIn, ReadIn, Tensor]:
        """Re-normalised, transferred as an alignment does, and the probability (C,) of a change."""
        start = renormalise(self.bundle.read_in, trials)
        model, _ = self.bundle.models()
        model.requires_grad_(False)
        model.set_read_in(start)
        for _ in range(2):
            rows, probability = transferred(
                model, Block.of(trials, start), self.source, torch.arange(C), torch.from_numpy(start.gain > 0)
            )
            model.readin.weight.data = rows.T.contiguous()
        return start, model.read_in(), probability

    def r2(self, read_in: ReadIn) -> float:
        return float(evaluate(replace(self.bundle, read_in=read_in), self.day, self.day.rewarded()[CALIBRATION:])["r2"])


def source_of(bundle: Bundle) -> Source:
    model, _ = bundle.models()
    return Source.of(model.requires_grad_(False), Block.of(bundle.source_trials(), bundle.source_read_in()))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Turned:
    first, day = simulate_days(seed=2, trials=(80, 60), drift=DRIFT, bin_s=0.05, channels=C)
    config = TrainConfig(epochs=30, prior_epochs=1, prior_width=8, hidden=32, latents=8, min_trials=10)
    bundle = train_bundle(first, config, 0, tmp_path_factory.mktemp("turned") / "b")
    before, after = simulate_tunings(seed=2, drift=DRIFT, channels=C)
    return Turned(bundle, first, day, torch.from_numpy(before.pd_rad != after.pd_rad), source_of(bundle))


def way(a: ReadIn, b: ReadIn) -> float:
    return float(np.linalg.norm(a.weight - b.weight) / np.linalg.norm(b.weight))


def test_replaced_units_are_found_and_the_others_are_not(turned: Turned) -> None:
    assert int(turned.replaced.sum()) == 12
    _, _, probability = turned.transfer(turned.trials(CALIBRATION))
    found, false = probability[turned.replaced], probability[~turned.replaced]
    assert float((found > 0.5).float().mean()) >= 0.5
    assert float((false > 0.5).float().mean()) <= 0.05
    better = (found[:, None] > false).float().mean()  # area under the curve: some of the replaced units hardly fire
    assert float(better) > 0.75


def test_the_transfer_raises_the_score_of_a_day_with_turnover(turned: Turned) -> None:
    start, moved, _ = turned.transfer(turned.trials(CALIBRATION))
    assert turned.r2(moved) > turned.r2(start) + 4
    np.testing.assert_array_equal(moved.mean, start.mean)
    np.testing.assert_array_equal(moved.bias, start.bias)


def test_two_trials_change_nearly_nothing(turned: Turned) -> None:
    start, moved, probability = turned.transfer(turned.trials(2))
    assert float(probability.max()) < 0.99
    whole, far, _ = turned.transfer(turned.trials(CALIBRATION))
    assert way(moved, start) < 0.5 * way(far, whole)
    assert abs(turned.r2(moved) - turned.r2(start)) < 3


def test_the_source_day_itself_asks_for_no_change(turned: Turned) -> None:
    """Trials of the same day, on which nothing was replaced."""
    trials = unlabelled(turned.first, turned.first.rewarded()[:CALIBRATION], turned.bundle.manifest.run_in)
    start, moved, probability = turned.transfer(trials)
    assert float(probability.max()) < 0.99
    assert way(moved, start) < 0.03


def test_the_order_of_trials_means_nothing(turned: Turned) -> None:
    trials = turned.trials(20)
    order = np.random.default_rng(0).permutation(20)
    other = replace(trials, counts=tuple(trials.counts[i] for i in order), run_in=tuple(trials.run_in[i] for i in order))
    (_, a, p), (_, b, q) = turned.transfer(trials), turned.transfer(other)
    np.testing.assert_allclose(a.weight, b.weight, atol=1e-3)
    torch.testing.assert_close(p, q, atol=1e-2, rtol=0)


def test_a_gained_unit_gets_the_row_of_what_it_is_tuned_to(turned: Turned) -> None:
    """A unit of the source day is presented as one that nobody has seen before; its row must come back from its tuning."""
    trials = turned.bundle.source_trials()
    start = renormalise(turned.bundle.read_in, trials)
    gained = int(turned.source.tuning.slope.norm(dim=1).argmax())
    matched, weight = torch.arange(C), start.weight.copy()
    matched[gained], weight[gained] = -1, 0
    model, _ = turned.bundle.models()
    model.set_read_in(replace(start, weight=weight))
    alive = torch.from_numpy(start.gain > 0)
    rows, probability = transferred(model, Block.of(trials, start), turned.source, matched, alive)
    asked = turned.source.tuning.signal()[gained] @ turned.source.rows
    row = rows[gained]
    assert float(row.norm()) > 0.5 * float(asked.norm()) > 0
    assert float(torch.cosine_similarity(row, asked, dim=0)) > 0.9
    assert float(probability[gained]) > 0.99
    others = torch.arange(C) != gained
    assert float((rows - turned.source.weight)[others].norm()) < 0.1 * float(turned.source.weight.norm())


def test_a_dead_channel_keeps_a_zero_row(turned: Turned) -> None:
    trials = turned.trials(CALIBRATION)
    dead = 7
    counts = tuple(t.copy() for t in trials.counts)
    for t in counts:
        t[:, dead] = 0
    silent = replace(trials, counts=counts)
    start = renormalise(turned.bundle.read_in, silent)
    model, _ = turned.bundle.models()
    model.set_read_in(start)
    alive = torch.from_numpy(start.gain > 0)
    alive[dead] = False
    rows, _ = transferred(model, Block.of(silent, start), turned.source, torch.arange(C), alive)
    assert not rows[dead].any()
    assert torch.isfinite(rows).all()
    assert float(rows[:dead].norm()) > 0


def test_latents_without_a_channel_do_not_hear_it(turned: Turned) -> None:
    """Its own spikes cannot vouch for a channel: whatever they are, the latents that it is measured by stay as they are."""
    model, _ = turned.bundle.models()
    block = Block.of(turned.bundle.source_trials(), turned.bundle.source_read_in())
    loud = replace(block, x=block.x.clone())
    loud.x[..., 5] += 3 * torch.randn(loud.x.shape[:2], generator=torch.Generator().manual_seed(0))
    for a, b in zip(measure(model, block), measure(model, loud), strict=True):
        assert torch.equal(a.channels, b.channels)
        assert torch.equal(a.z, b.z) == (5 in a.channels.tolist())
    assert sorted(int(c) for m in measure(model, block) for c in m.channels) == list(range(C))


def synthetic(slope: Tensor, trials: int, still: int | None = None, seed: int = 0) -> list[Measurement]:
    """Independent bins, 50 per trial, of channels with tuning ``slope`` (g, d) and unit noise; latent ``still`` hardly moves."""
    generator = torch.Generator().manual_seed(seed)
    n = 50 * trials
    z = torch.randn(n, slope.shape[1], generator=generator)
    if still is not None:
        z[:, still] *= 1e-4
    x = z @ slope.T + torch.randn(n, len(slope), generator=generator)
    return [Measurement(torch.arange(len(slope)), z - z.mean(0), x - x.mean(0), torch.arange(n) // 50)]


def test_tunings_are_those_that_made_the_counts() -> None:
    slope = 0.5 * torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    found = tuning(synthetic(slope, 100))
    torch.testing.assert_close(found.slope, slope, atol=0.06, rtol=0)
    torch.testing.assert_close(found.variance, torch.ones(10), atol=0.1, rtol=0)
    torch.testing.assert_close(found.signal(), found.slope / found.variance[:, None])


def test_a_change_is_found_at_its_size_and_chance_is_not() -> None:
    slope = 0.5 * torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    before, today = Tuning(slope, torch.ones(10)), slope.clone()
    today[:5] += torch.tensor([0.4, -0.4, 0.4, 0.0])
    found, probability = changed(synthetic(today, 40), before)
    assert (probability[:5] > 0.99).all()
    assert (probability[5:] < 0.5).all()
    torch.testing.assert_close(found.slope[:5], today[:5], atol=0.1, rtol=0)
    # What is taken for chance is not followed: the error is smaller than that of today's own regression.
    free = tuning(synthetic(today, 40)).slope[5:]
    assert float((found.slope[5:] - today[5:]).norm()) < 0.5 * float((free - today[5:]).norm())


def test_few_trials_move_a_tuning_less_than_many() -> None:
    slope = torch.zeros(6, 4)
    today = slope + 0.3
    steps = [float(changed(synthetic(today, n), Tuning(slope, torch.ones(6)))[0].slope.norm()) for n in (1, 4, 40)]
    assert steps == sorted(steps)
    assert steps[0] < 0.6 * float(today.norm())
    assert steps[2] == pytest.approx(float(today.norm()), rel=0.15)


def test_a_direction_that_was_never_visited_is_left_alone() -> None:
    slope = 0.5 * torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    today = slope + torch.tensor([0.5, -0.5, 0.5, 0.5])
    found, _ = changed(synthetic(today, 60, still=3), Tuning(slope, torch.ones(10)))
    torch.testing.assert_close(found.slope[:, 3], slope[:, 3], atol=1e-2, rtol=0)
    torch.testing.assert_close(found.slope[:, :3], today[:, :3], atol=0.15, rtol=0)


def test_bins_that_go_together_count_less() -> None:
    """Noise that lasts a whole trial looks like tuning to whoever takes bins for independent."""
    generator = torch.Generator().manual_seed(0)
    trial = torch.arange(20).repeat_interleave(50)
    z = torch.randn(20, 3, generator=generator)[trial] + 0.1 * torch.randn(1000, 3, generator=generator)
    x = torch.randn(20, 8, generator=generator)[trial] + 0.1 * torch.randn(1000, 8, generator=generator)
    untuned = Tuning(torch.zeros(8, 3), torch.ones(8))
    _, probability = changed([Measurement(torch.arange(8), z - z.mean(0), x - x.mean(0), trial)], untuned)
    assert (probability < 0.99).all()
    _, fooled = changed([Measurement(torch.arange(8), z - z.mean(0), x - x.mean(0), torch.arange(1000))], untuned)
    assert (fooled > 0.99).float().mean() > 0.5


def test_the_map_from_tuning_to_rows_is_learnt_on_live_channels_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    slope, true = torch.randn(40, 4, generator=generator), torch.randn(4, 6, generator=generator)
    weight, alive = slope @ true, torch.ones(40, dtype=torch.bool)
    alive[30:], weight[30:] = False, 100.0
    found = rows_of_tuning(Tuning(slope, torch.ones(40)), weight, alive)
    torch.testing.assert_close(found, true, atol=0.1, rtol=0.05)
