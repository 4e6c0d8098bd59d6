"""Retraining a bundle with a model: from which trials its generators start, on which targets they are tried."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.augmentation import bundles, makers, navigate, store
from bci_align.augmentation.carry import carry
from bci_align.augmentation.generate import MOST_SHARED, Generator
from bci_align.augmentation.model import train
from bci_align.augmentation.navigate import start_from
from bci_align.augmentation.retrain import Maker
from bci_align.augmentation.spikes import SpikeModel
from bci_align.augmentation.trials import Scaler, TrialSet, cut
from bci_align.bundle.store import Bundle
from bci_align.cli.main import main
from bci_align.config import RetrainConfig
from bci_align.errors import AugmentationError
from bci_align.session import io
from bci_align.session.types import Session

from .conftest import TINY

Days = tuple[Session, Session]
SHORT = TINY.model_copy(update={"updates": 2})


@pytest.fixture(scope="module")
def with_earlier(small_days: Days, tmp_path_factory: pytest.TempPathFactory) -> store.Stored:
    earlier, today = small_days
    model = train(today, today.rewarded()[:24], SHORT, 0, earlier=earlier)
    return store.save(model, today, tmp_path_factory.mktemp("model") / "m")


def test_generators_start_from_the_trials_that_they_were_trained_on(
    with_earlier: store.Stored, small_days: Days, small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier day's too, though only the model's directory is there."""
    began: list[tuple[Generator, TrialSet, TrialSet]] = []

    def watched(generator: Generator, start: TrialSet, today: TrialSet, config: RetrainConfig) -> Maker:
        began.append((generator, start, today))
        return makers.screened(generator, start, today, config)

    monkeypatch.setattr(bundles, "screened", watched)
    today, trials = small_days[1], with_earlier.model.trials
    bundles.retrain(small_bundle, today, trials, with_earlier, None, RetrainConfig(), 0, tmp_path / "b")
    assert [g for g, _, _ in began] == [with_earlier.model.proof, with_earlier.model.full]
    for (generator, start, real), n in zip(began, (24 - len(with_earlier.model.held_out), 24), strict=True):
        assert len(real) == n and len(start) == n + len(small_days[0].rewarded())
        np.testing.assert_array_equal(Scaler.fit(start).mean, generator.space.scaler.mean)  # type: ignore[attr-defined]


def test_the_command_generates_from_the_earlier_day_too(
    with_earlier: store.Stored, small_days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a target which today has no trials of is started from trials of its own, not from the nearest."""
    io.save(small_days[1], tmp_path / "day.h5")
    pools: list[TrialSet] = []

    def watched(trials: TrialSet, *others: Any) -> Any:
        pools.append(trials)
        return start_from(trials, *others)

    monkeypatch.setattr(navigate, "start_from", watched)
    words = ("augment", "generate", with_earlier.path, "--like", tmp_path / "day.h5", "--out", tmp_path / "g.h5")
    assert main([*map(str, words), "--targets", "8,0", "--trials", "3"]) == 0
    assert [len(p) for p in pools] == [24 + len(small_days[0].rewarded())]


def test_spikes_scatter_as_today_s_do(with_earlier: store.Stored, small_days: Days) -> None:
    """Scaled counts of an earlier day are no counts."""
    seen = with_earlier.cuts(small_days[1])
    out = with_earlier.model.held_out
    for generator, real in (
        (with_earlier.model.full, seen),
        (with_earlier.model.proof, seen.of(np.setdiff1d(np.arange(24), out))),
    ):
        decoded = generator.space.decode(generator.space.encode(real), with_earlier.model.seed)[0] * generator.gain
        own = SpikeModel.fit(real.counts, real.rates)
        for found, expected in ((generator.edited, own), (generator.spikes, SpikeModel.fit(real.counts, decoded, MOST_SHARED))):
            np.testing.assert_allclose(found.dispersion, expected.dispersion, rtol=1e-6)
            np.testing.assert_allclose(found.memory, expected.memory, rtol=1e-6)
    start = with_earlier.model.start(seen)
    assert not np.allclose(
        SpikeModel.fit(start.counts, start.rates).dispersion, with_earlier.model.full.edited.dispersion, rtol=0.02
    )


def test_targets_on_a_line_are_those_of_the_trials_for_the_twin_too(
    small_days: Days, small_bundle: Bundle, tmp_path: Path
) -> None:
    """The outermost target is held out, and lies beyond what the twin supports: there it is to prove itself."""
    day = small_days[1]
    line = np.array([[-10.0, 0], [-5, 0], [5, 0], [10, 0]])[np.arange(len(day.trials)) % 4]
    day = replace(day, trials=replace(day.trials, target=line))
    model = train(day, day.rewarded(), SHORT, 0, "target")
    stored = store.save(model, day, tmp_path / "m")
    known = model.full.navigator.targets
    with pytest.raises(AugmentationError, match="outside the support"):
        model.proof.navigator.check(known)
    made, choice = bundles.retrain(small_bundle, day, model.trials, stored, None, RetrainConfig(), 0, tmp_path / "b")
    assert made.path == tmp_path / "b" and set(choice.table) >= {0.0}
    with pytest.raises(AugmentationError, match="outside the support"):
        bundles.retrain(small_bundle, day, model.trials, stored, 5 * known[-1:], RetrainConfig(), 0, tmp_path / "b2")
    assert not (tmp_path / "b2").exists()


def test_an_earlier_day_comes_back_from_the_disk(with_earlier: store.Stored, small_days: Days, tmp_path: Path) -> None:
    recorded = cut(small_days[0], small_days[0].rewarded(), SHORT)[0]
    back = with_earlier.model.earlier
    assert back is not None and len(back) == with_earlier.manifest.earlier_trials == len(recorded)
    for name in ("counts", "rates", "kinematics", "target"):
        np.testing.assert_array_equal(getattr(back, name), getattr(recorded, name))
    seen = with_earlier.cuts(small_days[1])
    start = with_earlier.model.start(seen)
    np.testing.assert_array_equal(start.rates[: len(seen)], seen.rates)
    np.testing.assert_array_equal(start.rates[len(seen) :], carry(recorded, seen).rates)
    for file in with_earlier.path.iterdir():
        if file.name != store.EARLIER:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(AugmentationError, match=r"earlier.safetensors: expected a plain file of the trial model, found nothing"):
        store.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": -1}, "counts: expected none below 0, found -1"),
        ({"kinematics": np.nan}, "kinematics: expected finite numbers, found NaN"),
        ({"target": None}, r"target: expected a tensor of shape \(\d+, 2\), found none"),
    ],
)
def test_an_earlier_day_that_does_not_fit_is_named(
    with_earlier: store.Stored, change: dict[str, float | None], told: str
) -> None:
    parts = store.unpack((with_earlier.path / store.EARLIER).read_bytes(), Path("x"), AugmentationError)
    for name, value in change.items():
        if value is None:
            del parts[name]
        else:
            parts[name].view(-1)[0] = value
    with pytest.raises(AugmentationError, match=f"x: .*{told}"):
        store._unpack_trials(store.pack(parts), with_earlier.manifest, Path("x"))
