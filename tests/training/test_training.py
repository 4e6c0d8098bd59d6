from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import TrainConfig
from bci_align.errors import BundleError, TrainingError
from bci_align.evaluation.score import evaluate, rows
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.session.types import Session, Trials
from bci_align.training import source, source_split, train_bundle
from bci_align.training.oracle import supervised

TINY = TrainConfig(epochs=2, prior_epochs=1, prior_width=8, hidden=16, latents=4, min_trials=10)
Days = tuple[Session, Session]


def test_held_out_trials_are_decoded(small_bundle: Bundle, small_days: Days) -> None:
    scores = evaluate(small_bundle, small_days[0], source_split(small_days[0], 0.2, 0)[1])
    assert scores["r2"] > 45
    record = small_bundle.manifest.training
    drifted = record["validation_r2_drifted"]
    assert drifted[small_bundle.manifest.decoder] == max(drifted.values())
    assert scores["r2"] == pytest.approx(record["validation_r2"][small_bundle.manifest.decoder], abs=0.05)
    assert 1 <= record["active_dimensions"] <= 8
    assert record["prior_loss"][-1] < 0.95 * record["prior_loss"][0]


def test_same_seed_same_bytes_other_seed_other_bytes(small_days: Days, tmp_path: Path) -> None:
    a = train_bundle(small_days[0], TINY, 3, tmp_path / "a")
    torch.rand(5)  # whatever else draws random numbers must not matter
    b = train_bundle(small_days[0], TINY, 3, tmp_path / "b")
    c = train_bundle(small_days[0], TINY, 4, tmp_path / "c")
    assert a.identity == b.identity
    assert a.identity != c.identity


def test_validation_trials_are_never_fitted(small_days: Days, tmp_path: Path) -> None:
    """Spoil the kinematics of the validation trials: the encoder and the decoder candidates come out the same."""
    day = small_days[0]
    assert day.kinematics is not None
    spoilt = day.kinematics.copy()
    spoilt[rows(day, source_split(day, 0.2, 0)[1])] = 1e3
    a = train_bundle(day, TINY, 0, tmp_path / "a")
    b = train_bundle(replace(day, kinematics=spoilt), TINY, 0, tmp_path / "b")
    assert (a.path / "core.onnx").read_bytes() == (b.path / "core.onnx").read_bytes()
    assert a.manifest.scale == b.manifest.scale


def test_progress_names_every_stage_and_ends_full(small_days: Days, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    train_bundle(small_days[0], TINY, 0, tmp_path / "a", lambda stage, done, total: seen.update({stage: (done, total)}))
    assert seen == {"source model": (2, 2), "diffusion prior": (1, 1), "movement prior": (1, 1)}


def test_bad_sessions_are_refused_before_anything_is_written(small_days: Days, tmp_path: Path) -> None:
    day = small_days[0]
    t = day.trials
    short = Trials(t.start_s, t.go_s, t.start_s + 0.1, t.success)
    few = Trials(t.start_s[:6], t.go_s[:6], t.end_s[:6], t.success[:6])
    constant = np.ones_like(day.kinematics)
    cases = [
        (replace(day, trials=few), "expected at least 10 rewarded trials"),
        (replace(day, kinematics=None, kinematics_names=(), kinematics_units=()), "found none"),
        (replace(day, kinematics=constant), "found a constant"),
        (replace(day, trials=short), "expected trials of at least 8 bins"),
    ]
    for bad, says in cases:
        with pytest.raises(TrainingError, match=says):
            train_bundle(bad, TINY.model_copy(update={"run_in": 2}), 0, tmp_path / "a")
        assert not list(tmp_path.iterdir())


def test_an_existing_target_is_refused_before_training(small_days: Days, small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="already exists"):
        train_bundle(small_days[0], TINY, 0, small_bundle.path)


def test_the_oracle_beats_no_alignment_and_sees_nothing_after_its_trials(
    small_bundle: Bundle, small_days: Days, tmp_path: Path
) -> None:
    day = small_days[1]
    assert day.kinematics is not None
    rewarded = day.rewarded()
    labelled, later = rewarded[:25], rewarded[25:]
    oracle = supervised(small_bundle, day, labelled, 0, tmp_path / "oracle")
    assert evaluate(oracle, day, later)["r2"] > evaluate(small_bundle, day, later)["r2"] + 5
    spoilt = day.kinematics.copy()
    spoilt[rows(day, later)] = 0
    again = supervised(small_bundle, replace(day, kinematics=spoilt), labelled, 0, tmp_path / "again")
    assert again.manifest.files == oracle.manifest.files


def cut_apart(day: Session, bins: int = 20) -> Session:
    """Keep the first bins of every trial, one stretch each, as a recording that was cut into trials."""
    assert day.kinematics is not None
    first = np.array([day.trial_bins(i)[0] for i in range(len(day.trials))])
    index = (first[:, None] + np.arange(bins)).ravel()
    n, bin_s = len(first), day.bin_s
    start = np.arange(n) * bins * bin_s
    trials = Trials(start, np.full(n, np.nan), start + bins * bin_s - 1e-3, np.ones(n, bool))
    return replace(
        day, counts=day.counts[index], kinematics=day.kinematics[index], trials=trials, breaks=tuple(range(bins, n * bins, bins))
    )


def test_a_day_cut_into_trials_is_trained_on(small_days: Days, tmp_path: Path) -> None:
    day = cut_apart(small_days[0])
    config = TINY.model_copy(update={"epochs": 40, "prior_epochs": 3, "hidden": 32, "latents": 8})
    bundle = train_bundle(day, config, 0, tmp_path / "a")
    held_out = source_split(day, config.validation, 0)[1]
    assert evaluate(bundle, day, held_out)["r2"] > 15
    assert bundle.manifest.prior.window == 20
    assert bundle.manifest.training["validation_r2"][bundle.manifest.decoder] == pytest.approx(
        evaluate(bundle, day, held_out)["r2"], abs=0.05
    )
    trials = bundle.source_trials()
    assert set(trials.run_in) == {0} and {len(t) for t in trials.counts} == {20}
    # Nothing crosses a gap: the same trials in another order along the file train the same, but for the draw of windows.
    spoilt = replace(day, counts=day.counts.copy())
    spoilt.counts[rows(day, held_out)] = 99
    again = train_bundle(spoilt, config, 0, tmp_path / "b")
    for name in ("core.onnx", "core.safetensors", "read_in.safetensors", "source_trials.safetensors"):
        assert again.manifest.files[name] == bundle.manifest.files[name], name


def test_windows_of_the_source_model_stay_in_their_stretch(small_days: Days) -> None:
    """Spoil a stretch that carries no weight: nothing of the model changes, however long the other stretches are."""
    counts = small_days[0].counts[:400].astype(np.float32)
    kinematics = np.zeros((400, 2), np.float32)
    weight = np.ones(400, np.float32)
    weight[150:200] = 0
    stretches = [(0, 14), (14, 150), (150, 200), (200, 400)]
    spoilt = counts.copy()
    spoilt[150:200] = 50
    config, found = TINY.model_copy(update={"window": 60}), []
    for x in (counts, spoilt):
        torch.manual_seed(0)
        model = SourceModel(32, 8, 3, 2)
        source.fit(model, source.TrainingData(x, kinematics, weight, stretches), config, 0)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])


def test_the_first_bins_of_a_stretch_are_trained_on() -> None:
    """Stretches shorter than the burn-in: with it there would be nothing to learn from."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (60 * 8, 6)).astype(np.float32)
    kinematics = (counts[:, :1] - 2) / 1.4
    data = source.TrainingData(counts, kinematics, np.ones(480, np.float32), [(k, k + 8) for k in range(0, 480, 8)])
    torch.manual_seed(0)
    model = SourceModel(6, 16, 4, 1)
    config = TINY.model_copy(update={"epochs": 60, "dropout": 0.0, "augment_dropout": 0.0, "augment_offset": 0.0})
    source.fit(model, data, config, 0)
    with torch.no_grad():
        decoded = model.kinematics(source.latents(model, counts, data.stretches)).numpy()
    assert np.square(decoded - kinematics).mean() < 0.5 * np.square(kinematics).mean()


def test_turnover_gives_some_channels_another_ones_counts_of_the_same_window() -> None:
    still = TINY.model_copy(update={"augment_dropout": 0.0, "augment_offset": 0.0, "augment_gain": 0.0})
    x = torch.randn(50, 7, 40)
    torch.testing.assert_close(source.augment(x, still), x, rtol=0, atol=0)
    found = source.augment(x, still.model_copy(update={"augment_turnover": 0.5}))
    lost = (found != x).any(1)  # (windows, channels)
    assert 0.15 < lost.float().mean() < 0.35  # half of 0.5 on average
    for window, channel in lost.nonzero()[:20].tolist():
        donors = (x[window] == found[window, :, channel, None]).all(0)
        assert donors.sum() == 1 and not donors[channel]


def test_every_bin_weighs_once_whatever_the_length_of_its_stretch() -> None:
    """The loss of an epoch that learns nothing is the mean over all bins: no bin of a short stretch is counted again."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (60, 6)).astype(np.float32)
    kinematics = np.zeros((60, 1), np.float32)
    kinematics[13] = 10.0  # the last bin of the short stretch
    data = source.TrainingData(counts, kinematics, np.ones(60, np.float32), [(0, 14), (14, 60)])
    model = SourceModel(6, 8, 3, 1)
    model.core.logvar.bias.data.fill_(-100.0)  # no noise on the latents
    still = {"epochs": 1, "learning_rate": 1e-12, "dropout": 0.0, "window": 60}
    still |= {"augment_dropout": 0.0, "augment_offset": 0.0, "augment_gain": 0.0}
    found = source.fit(model, data, TINY.model_copy(update=still), 0)["kinematics"]
    with torch.no_grad():
        decoded = model.kinematics(source.latents(model, counts, data.stretches)).numpy()
    assert found == pytest.approx(float(np.square(decoded - kinematics).mean()), rel=0.05)


def test_latents_start_anew_at_every_stretch(small_bundle: Bundle, small_days: Days) -> None:
    counts = small_days[0].counts[:90].astype(np.float32)
    model, _ = small_bundle.models()
    with torch.no_grad():
        alone = model(torch.from_numpy(counts[30:])[None])[0][0]
    torch.testing.assert_close(source.latents(model, counts, [(0, 30), (30, 90)])[30:], alone, rtol=0, atol=0)


def test_the_oracle_of_a_day_with_other_units(small_bundle: Bundle, small_days: Days, tmp_path: Path) -> None:
    """Of the target day only 25 units are left, in a recording cut into trials: labels alone find the way in."""
    day = cut_apart(small_days[1])
    day = replace(day, counts=day.counts[:, 3:28], channels=tuple(f"unit{i}" for i in range(25)))
    r = small_bundle.read_in
    blind = ReadIn(r.mean[:25], r.gain[:25], r.weight[:25], r.bias)
    start = save_generation(small_bundle, blind, tmp_path / "gen1", {}, day.channels)
    labelled, later = np.arange(30), np.arange(30, len(day.trials))
    oracle = supervised(start, day, labelled, 0, tmp_path / "oracle")
    assert oracle.manifest.source_channels == day.channels and len(oracle.source_trials()) == 30
    assert oracle.models()[0].spikes.out_features == 25
    assert evaluate(oracle, day, later)["r2"] > evaluate(start, day, later)["r2"] + 5
