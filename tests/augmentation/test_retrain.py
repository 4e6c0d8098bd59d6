import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import t as student

from bci_align.augmentation.model import Model
from bci_align.augmentation.moments import Moments, as_wiener, lagged
from bci_align.augmentation.retrain import Ground, Made, Maker, augmented, carried_over, choose, counts_in_noise
from bci_align.augmentation.screen import screen
from bci_align.augmentation.trials import TrialSet, cut
from bci_align.config import RetrainConfig
from bci_align.decoders import Wiener, run
from bci_align.errors import AugmentationError
from bci_align.session.types import Session

from .conftest import TINY

LAGS = 3


@pytest.fixture(scope="module")
def ground(small_days: tuple[Session, Session]) -> Ground:
    day = small_days[0]
    _, kept = cut(day, day.rewarded(), TINY)
    assert day.kinematics is not None
    features = counts_in_noise(day.counts.astype(np.float32), np.arange(day.bins))
    return Ground(day, kept, features, day.kinematics.std(0).astype(float), LAGS)


def test_sums_give_the_decoder_that_all_bins_give(ground: Ground, small_days: tuple[Session, Session]) -> None:
    day = small_days[0]
    assert day.kinematics is not None
    f = ground.featured(day.counts.astype(np.float32), ())
    rows = np.concatenate([np.arange(*day.trial_bins(int(i))) for i in ground.trials])
    direct = Wiener.fit(f, day.kinematics / ground.scale, rows, LAGS, ridge=0.1 * len(rows))
    weights = ground.fit(np.arange(len(ground.trials)), None, 0.0, 0.1)
    np.testing.assert_allclose(ground.decoder(weights).weight, direct.weight, atol=1e-4)
    # and what is scored is what that decoder says, bin by bin
    stepped = run(as_wiener(weights, LAGS), f)
    first, stop = day.trial_bins(int(ground.trials[4]))
    np.testing.assert_allclose(stepped[first:stop], ground.designs[4] @ weights, atol=1e-4)


def test_a_weight_is_worth_that_many_trials() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    one, two = Moments.of(x[:30], y[:30]), Moments.of(x[30:], y[30:])
    both = Moments.of(np.concatenate([x[:30], x[30:], x[30:]]), np.concatenate([y[:30], y[30:], y[30:]]))
    np.testing.assert_allclose(one.plus(two, 2.0).solve(0.1), both.solve(0.1), rtol=1e-4, atol=1e-6)
    assert lagged(x, np.array([0, 5]), 2, [5])[1, 4:8].tolist() == [0] * 4


def noise(like: TrialSet, seed: int, labels: bool) -> TrialSet:
    """Trials whose spikes say nothing, or, with ``labels``, whose labels are of other trials."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(like))
    counts = like.counts if labels else rng.poisson(like.counts.mean(), like.counts.shape).astype(np.float32)
    return TrialSet(counts, like.rates, like.kinematics[order] if labels else 3 * like.kinematics, like.target)


def test_trials_that_do_not_help_are_left_out(ground: Ground, cuts: TrialSet) -> None:
    every = np.arange(len(ground.trials))
    out, training = every[::4], np.setdiff1d(every, every[::4])
    for labels in (True, False):
        made = ground.generated(noise(cuts, 0, labels))
        found = choose(ground, training, out, made, RetrainConfig(), {})
        assert found.ratio == 0 and "no sure gain on" in found.reason and found.gain < 0 < found.error
        assert found.table[2.0] < found.table[0.0] - 1
    alone = choose(ground, training, out, None, RetrainConfig(), {})
    assert alone.ratio == 0 and alone.ridge == found.ridge and alone.reason == ""
    assert "passed the screen" in choose(ground, training, out, None, RetrainConfig(), {"kept": 0.0}).reason
    only = choose(ground, training, out, made, RetrainConfig(ratios=(0.0,)), {"kept": 1.0})
    assert only.ratio == 0 and only.reason == "no ratio but 0 was tried"


def test_trials_that_help_are_taken(ground: Ground, cuts: TrialSet) -> None:
    """The other trials themselves, handed over as if they had been generated."""
    every = np.arange(len(ground.trials))
    out, few = every[::2], every[1::2][:4]
    rest = cuts.of(np.setdiff1d(every[1::2], few))
    seen: list[tuple[int, int]] = []

    def maker(targets: NDArray[np.float64], count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        seen.append((len(targets), count))
        return rest, {"kept": 1.0}

    found = choose(ground, few, out, ground.generated(rest), RetrainConfig(), {})
    assert found.ratio > 0 and found.gain > found.error > 0
    targets = cuts.conditions()[0]
    weights, choice = augmented(ground, out, maker, maker, cuts.target, targets[:2], targets[:3], RetrainConfig(), 0)
    assert weights.shape == (LAGS * cuts.counts.shape[2] + 1, 2)
    assert [n for n, _ in seen] == ([3, 2] if choice.ratio else [3])


def test_more_trials_are_drawn_than_the_largest_ratio_weighs(ground: Ground, cuts: TrialSet) -> None:
    """The scatter of their own spikes is then smaller, and their weight the same."""
    out, asked = np.arange(1, len(ground.trials), 2), cuts.conditions()[0][:2]
    drawn = []

    def maker(targets: np.ndarray, count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        drawn.append(count * len(targets))
        return cuts.of(np.random.default_rng(seed).integers(len(cuts), size=drawn[-1])), {}

    augmented(ground, out, maker, maker, cuts.target, asked, asked, RetrainConfig(ratios=(0.0, 2.0)), 0)
    assert drawn[0] >= 4 * 2 * (len(ground.trials) - len(out))
    made = ground.generated(cuts)
    assert made is not None
    every, many = np.arange(len(ground.trials)), Made(made.sums.plus(made.sums, 3.0), 4 * made.trials)
    np.testing.assert_allclose(ground.fit(every, many, 0.5, 0.1), ground.fit(every, made, 0.5, 0.1), rtol=1e-5, atol=1e-7)


def test_the_best_of_two_ratios_must_be_surer_than_one_alone(ground: Ground, cuts: TrialSet) -> None:
    every = np.arange(len(ground.trials))
    out, few = every[::2], every[1::2][:4]
    made = ground.generated(cuts.of(np.setdiff1d(every[1::2], few)))
    found = choose(ground, few, out, made, RetrainConfig(ratios=(1.0,)), {})
    doubt = 1 - student.cdf(found.gain / found.error, len(out) - 1)
    assert 0 < doubt < 0.2
    config = RetrainConfig(ratios=(1.0,), confidence=1 - 1.5 * doubt)
    assert choose(ground, few, out, made, config, {}).ratio == 1
    assert choose(ground, few, out, made, config.model_copy(update={"ratios": (1.0, 1.000001)}), {}).ratio == 0


def few_and_held_out(ground: Ground, cuts: TrialSet) -> tuple[Ground, NDArray[np.intp], NDArray[np.intp], TrialSet]:
    """Part of the ground: few trials and many held-out ones; those few, all of the part, and the rest as if it was generated."""
    every = np.arange(len(ground.trials))
    few = every[1::2][:4]
    places = np.concatenate([few, every[::2]])
    part = copy.copy(ground)
    part.trials, part._sums = ground.trials[places], {}
    part.designs, part.truths = ([a[i] for i in places] for a in (ground.designs, ground.truths))
    return part, few, places, cuts.of(np.setdiff1d(every[1::2], few))


def test_a_screen_that_lets_too_few_through_is_told_and_none_are_used(ground: Ground, cuts: TrialSet) -> None:
    """The ratio is proved on few real trials and many others; then the screen of the full generator lets hardly any pass."""
    part, few, places, rest = few_and_held_out(ground, cuts)
    held = np.arange(len(few), len(places))

    def giving(trials: TrialSet, kept: float) -> Maker:
        return lambda targets, count, seed: (trials, {"kept": kept})

    targets, elsewhere = cuts.conditions()[0], np.full((len(places), 2), 1e3)
    for some, n in ((rest.of(np.zeros(0, np.intp)), 0), (rest.of(np.arange(1)), 1), (rest, len(rest))):
        weights, choice = augmented(
            part, held, giving(rest, 0.9), giving(some, 0.1), elsewhere, targets, targets, RetrainConfig(ratios=(1,)), 0
        )
        assert choice.yields == {"kept": 0.1}
        if n > 1:
            assert (choice.ratio, choice.used, choice.reason) == (1.0, n, "")
            continue
        assert (choice.ratio, choice.used) == (0.0, 0)
        assert choice.reason.startswith(f"{n} passed the screen, fewer than a quarter of the {len(places)} that")
        np.testing.assert_array_equal(weights, part.fit(np.arange(len(places)), None, 0.0, choice.ridge))


def test_beside_real_trials_of_their_targets_generated_ones_weigh_as_much_however_many_those_are(
    ground: Ground, cuts: TrialSet
) -> None:
    targets = cuts.conditions()[0]
    real = np.repeat(targets[2:], 4, 0)
    assert carried_over(2.0, targets[2:], real, len(real) // 4) == pytest.approx(0.5)
    assert carried_over(2.0, targets[:2], real, len(real) // 4) == pytest.approx(2.0)  # no real trials: their share counts
    assert carried_over(2.0, targets[1:3], real, len(real) // 4) == pytest.approx(1.25)
    # and that is what the decoder is fitted with
    part, few, places, rest = few_and_held_out(ground, cuts)
    held, known = np.arange(len(few), len(places)), cuts.of(places).target

    def maker(targets: np.ndarray, count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        return rest, {}

    weights, choice = augmented(part, held, maker, maker, known, known[:1], targets, RetrainConfig(ratios=(1,)), 0)
    assert choice.ratio == pytest.approx(len(few) / len(places))
    made = part.generated(rest)
    np.testing.assert_allclose(weights, part.fit(np.arange(len(places)), made, choice.ratio, choice.ridge))


def test_no_generated_trial_weighs_more_than_a_real_one(ground: Ground, cuts: TrialSet) -> None:
    rows, two = np.arange(10), ground.generated(cuts.of(np.arange(2)))
    np.testing.assert_array_equal(ground.fit(rows, two, 20.0, 0.1), ground.fit(rows, two, 0.2, 0.1))
    assert not np.array_equal(ground.fit(rows, two, 0.2, 0.1), ground.fit(rows, two, 0.1, 0.1))


def test_a_behaviour_that_does_not_vary_is_named(small_days: tuple[Session, Session], ground: Ground) -> None:
    day = small_days[0]
    assert day.kinematics is not None
    for k, name in ((1, day.kinematics_names[1]), (slice(None), day.kinematics_names[0])):
        still = day.kinematics.copy()
        still[:, k] = 2.0
        with pytest.raises(AugmentationError, match=f"expected '{name}' to vary over the {len(ground.trials)} trials"):
            Ground(replace(day, kinematics=still), ground.trials, ground.featured, ground.scale, LAGS)


@pytest.mark.parametrize("ratio", [-1, 1e300, 20.5])
def test_ratios_that_nobody_means_are_refused(ratio: float) -> None:
    with pytest.raises(ValidationError, match="ratios"):
        RetrainConfig(ratios=(ratio,))


def test_windows_shorter_than_the_run_in_are_refused(ground: Ground, cuts: TrialSet) -> None:
    short = TrialSet(cuts.counts[:, :2], cuts.rates[:, :2], cuts.kinematics[:, :2], cuts.target)
    with pytest.raises(AugmentationError, match="expected more than 2 bins"):
        ground.generated(short)
    assert ground.generated(cuts.of(np.zeros(0, np.intp))) is None


def test_the_screen_stops_wrong_labels_wild_activity_and_foreign_codes(model: Model, cuts: TrialSet) -> None:
    made, codes = model.full.towards(cuts, cuts.conditions()[0], 10, 0)
    nav, config = model.full.navigator, RetrainConfig()

    def kept(trials: TrialSet, c: NDArray[np.float32]) -> tuple[NDArray[np.bool_], dict[str, float]]:
        found = screen(trials, c, nav, cuts, config, np.random.default_rng(0))
        return found.kept, found.yields

    fine, yields = kept(made, codes)
    assert yields["kept"] == fine.mean() > 0.5 and set(yields) == {"ensemble", "range", "support", "kept"}
    half = np.arange(len(made)) % 2 == 0
    wrong = TrialSet(made.counts, made.rates, np.where(half[:, None, None], -made.kinematics, made.kinematics), made.target)
    assert kept(wrong, codes)[0][half].mean() < 0.5 * fine[half].mean()
    loud = TrialSet(made.counts * 5, made.rates, made.kinematics, made.target)
    assert kept(loud, codes)[1]["range"] == 0
    assert kept(made, codes + np.float32(30))[1]["support"] == 0


def test_the_screen_stops_wrong_labels_however_many_trials_have_them(model: Model, cuts: TrialSet) -> None:
    """All labels turned by a right angle: generated trials that only judge each other agree."""
    nav, config, yields = model.full.navigator, RetrainConfig(), []
    for times in (2, 12):
        count = max(times * len(cuts) // len(cuts.conditions()[0]), 1)
        made, codes = model.full.towards(cuts, cuts.conditions()[0], count, 0)
        turned = np.stack([-made.kinematics[..., 1], made.kinematics[..., 0]], 2)
        found = screen(replace(made, kinematics=turned), codes, nav, cuts, config, np.random.default_rng(0))
        yields.append(found.yields["ensemble"])
    assert yields[1] < yields[0] + 0.05 < 0.8


def test_features_are_counts_in_units_of_their_noise() -> None:
    counts = np.random.default_rng(0).poisson([0.5, 8.0], (4000, 2)).astype(np.float32)
    empty: Sequence[int] = ()
    assert np.allclose(counts_in_noise(counts, np.arange(4000))(counts, empty).std(0), 1, atol=0.1)
