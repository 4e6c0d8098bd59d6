from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import TrainConfig
from bci_align.errors import InterpretationError, MismatchError
from bci_align.interpretation.bootstrap import Interval, bootstrap, check_resamples, interval, lines, own_intervals, r2, sums
from bci_align.interpretation.carried import check_bundle, check_day, check_units, compare, source_trials
from bci_align.interpretation.data import FactorDay, FactorTrials
from bci_align.interpretation.store import FactorModel
from bci_align.session.types import Session
from bci_align.training import train_bundle
from bci_align_sim.mixed import Wear, mixed_day
from benchmarks.interpretation_kept import destroyed

from .conftest import ARRAY


@pytest.fixture(scope="module")
def bundle(mixed: Session, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = TrainConfig(epochs=40, prior_epochs=3, prior_width=8, hidden=24, latents=6, window=60)
    return train_bundle(mixed, config, 0, tmp_path_factory.mktemp("bundle") / "day0")


@pytest.fixture(scope="module")
def later(mixed: Session) -> Session:
    return mixed_day(3, trials=60, bins=20, array=ARRAY, wear=Wear(gain_sd=0.05, turned=0.0), day=1)


def made(bundle: Bundle, later: Session, factor: int, path: Path) -> Bundle:
    return save_generation(bundle, destroyed(bundle.read_in, later, factor), path, {"method": "damaged on purpose"})


@pytest.mark.parametrize("factor", [0, 2])
def test_the_destroyed_factor_is_named_and_no_other(
    factor_model: FactorModel, bundle: Bundle, later: Session, factor: int, tmp_path: Path
) -> None:
    day = FactorDay.later(later, factor_model.manifest.behaviours, later.rewarded())
    found = compare(factor_model.network, factor_model.day, (bundle, made(bundle, later, factor, tmp_path / "bad")), day)
    verdicts = [j.verdict for j in found.judged]
    assert verdicts[factor] == "lost"
    assert verdicts.count("lost") == 1
    assert found.judged[factor].line().startswith(f"{factor_model.day.names[factor]}: lost; R2 ")
    assert found.after[factor, factor] < 0.3 < found.before[factor, factor]


def test_an_alignment_that_changed_nothing_keeps_everything(factor_model: FactorModel, bundle: Bundle, later: Session) -> None:
    day = FactorDay.later(later, factor_model.manifest.behaviours, later.rewarded())
    found = compare(factor_model.network, factor_model.day, (bundle, bundle), day)
    assert [j.verdict for j in found.judged] == ["kept"] * 3
    assert all(j.change == Interval(0.0, 0.0, 0.0) for j in found.judged)
    assert found.trials == 60


def test_another_source_day_is_one_sentence(factor_model: FactorModel, bundle: Bundle) -> None:
    m = factor_model.manifest
    check_bundle(bundle, m.channels, m.bin_s, m.counts_sha256, "after")
    with pytest.raises(MismatchError, match=r"after: expected a bundle trained on the factor model's session \(counts abc"):
        check_bundle(bundle, m.channels, m.bin_s, "abc", "after")
    with pytest.raises(MismatchError, match=r"after: expected bins of 0.02 s as in the factor model, found 0.05 s"):
        check_bundle(bundle, m.channels, 0.02, m.counts_sha256, "after")
    with pytest.raises(MismatchError, match=r"after: source channels: .* 'ch00' as in the factor model|expected .* found 'ch00'"):
        check_bundle(bundle, ("other", *m.channels[1:]), m.bin_s, m.counts_sha256, "after")


def test_a_day_of_other_channels_is_one_sentence(bundle: Bundle, later: Session) -> None:
    check_day(bundle, later, "before")
    renamed = replace(later, channels=("x", *later.channels[1:]))
    with pytest.raises(
        MismatchError, match=r"session 'mixed' and before: channel 0: expected label 'ch00' as in the bundle, found 'x'"
    ):
        check_day(bundle, renamed, "before")


def trials(seed: int, n: int = 40) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    u = [rng.standard_normal((15, 1)) for _ in range(n)]
    return [x + 0.5 * rng.standard_normal(x.shape) for x in u], u


def test_sums_give_the_r2_of_a_line() -> None:
    z, u = trials(0)
    fitted = lines(np.concatenate(z), np.concatenate(u))
    got = r2(sums(z, u, fitted).sum(0))[0, 0]
    assert got == pytest.approx(np.corrcoef(np.concatenate(z)[:, 0], np.concatenate(u)[:, 0])[0, 1] ** 2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """R2 of the line u = 0.8 z is 0.8 in the population: u = z - noise, var z = 1.25."""
    covered = 0
    fitted = np.array([0.8, 0.0]).reshape(2, 1, 1)
    for seed in range(100):
        each = sums(*trials(seed + 1), fitted)
        span = interval(r2(each.sum(0))[0, 0], bootstrap(each, np.random.default_rng(seed))[:, 0, 0], 0.9)
        covered += span.low <= 0.8 <= span.high
    assert 80 <= covered <= 99


def test_own_intervals_hold_their_value(factor_model: FactorModel) -> None:
    for span in own_intervals(factor_model.network, factor_model.day):
        assert span.low < span.value < span.high


def test_a_day_in_other_units_is_one_sentence(factor_model: FactorModel, later: Session) -> None:
    units = factor_model.manifest.units
    assert units == dict(zip(later.kinematics_names, later.kinematics_units, strict=True))
    check_units(later, units)
    other = replace(later, kinematics_units=(*later.kinematics_units[:2], "mN"))
    with pytest.raises(MismatchError, match=rf"kinematics 'grip': expected unit '{units['grip']}' as .* found 'mN'"):
        check_units(other, units)


def test_the_bar_is_of_trials_that_trained_neither(factor_model: FactorModel, bundle: Bundle) -> None:
    day = factor_model.day
    rows, untouched = source_trials(bundle, day)
    spared = {int(n) for n in day.numbers[day.held_out]} & set(bundle.manifest.training["validation_trials"])
    assert untouched and len(rows) == len(spared) >= 10
    assert rows.tolist() == day.trials[np.isin(day.numbers, list(spared))].tolist()
    no_split = {k: v for k, v in bundle.manifest.training.items() if k != "validation_trials"}
    unknown = replace(bundle, manifest=bundle.manifest.model_copy(update={"training": no_split}))
    rows, untouched = source_trials(unknown, day)
    assert not untouched and len(rows) == day.held_out.sum()
    few = replace(day, held_out=np.arange(len(day.trials)) < 3)
    with pytest.raises(InterpretationError, match="factor model: expected at least 10 held-out trials to judge by, found 3"):
        source_trials(bundle, few)


def test_a_bar_of_trials_that_may_have_trained_the_bundle_is_said(
    factor_model: FactorModel, bundle: Bundle, later: Session
) -> None:
    day = FactorDay.later(later, factor_model.manifest.behaviours, later.rewarded())
    found = compare(factor_model.network, factor_model.day, (bundle, bundle), day)
    assert "trained neither the factors nor the bundle" in found.bar()
    assert "may have been trained on" in replace(found, untouched=False).bar()


def test_no_verdict_is_made_of_what_is_not_finite(factor_model: FactorModel, bundle: Bundle, later: Session) -> None:
    """Only one trial's grip varies: a third of the resamplings leave it out."""
    day = FactorDay.later(later, factor_model.manifest.behaviours, later.rewarded())
    still = day.behaviours.copy()
    still[day.trials[0, 1] :, 2] = 0.7
    still[: day.trials[0, 0], 2] = 0.7
    with pytest.raises(
        InterpretationError, match=r"behaviour 'grip': expected values that vary in every resampling of the later"
    ):
        compare(factor_model.network, factor_model.day, (bundle, bundle), replace(day, behaviours=still))
    with pytest.raises(InterpretationError, match=r"R2: .* in 1 of 3"):
        interval(0.5, np.array([0.4, np.nan]), 0.9)


def test_resamplings_without_a_change_are_found_before_training() -> None:
    rng = np.random.default_rng(0)
    u = [np.column_stack([rng.standard_normal(5), np.full(5, 0.7)]).astype(np.float32) for _ in range(20)]
    u[3][2, 1] = 0.9
    made = FactorTrials(tuple(x[:, :1] for x in u), tuple(u), ("vx", "grip"))
    with pytest.raises(
        InterpretationError, match=r"here: behaviour 'grip': expected values that vary in every resampling of the"
    ):
        check_resamples(made, "here", "held-out")
    check_resamples(FactorTrials(made.counts, tuple(x[:, :1] for x in u), ("vx",)), "here", "held-out")
