"""The whole path between sessions on the real isometric days, with a training short enough for every run of the tests.

The full numbers are printed by ``python -m benchmarks.spine``; here the bounds are what a broken part would not reach.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from bci_align.alignment.erdiff import align
from bci_align.alignment.gate import judge
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle, save_generation
from bci_align.config import AlignConfig, GateConfig, TrainConfig, load
from bci_align.errors import MismatchError
from bci_align.evaluation.score import evaluate
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session, unlabelled
from bci_align.training import source_split, train_bundle

CALIBRATION = 120


@pytest.fixture(scope="module")
def days(data_dir: Path) -> tuple[Session, Session]:
    mapping = load(ImportMap, Path(__file__).resolve().parents[1] / "configs" / "import" / "isometric.yaml")
    return (
        import_file(data_dir / "isometric_day0.npz", mapping),
        import_file(data_dir / "isometric_day16.npz", mapping),
    )


@pytest.fixture(scope="module")
def bundle(days: tuple[Session, Session], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train_bundle(days[0], TrainConfig(epochs=40, prior_epochs=15), 0, tmp_path_factory.mktemp("real") / "day0")


def test_the_source_day_is_decoded(bundle: Bundle, days: tuple[Session, Session]) -> None:
    assert evaluate(bundle, days[0], source_split(days[0], 0.2, 0)[1])["r2"] > 95


def test_sixteen_days_later_alignment_without_labels_helps(bundle: Bundle, days: tuple[Session, Session], tmp_path: Path) -> None:
    day = days[1]
    rewarded = day.rewarded()
    assert len(rewarded) == 224
    calibration, later = unlabelled(day, rewarded[:CALIBRATION], bundle.manifest.run_in), rewarded[CALIBRATION:]
    candidate = align(bundle, calibration, AlignConfig(), 0)
    verdict = judge(bundle, bundle.read_in, candidate.read_in, calibration, GateConfig())
    assert verdict.accepted, verdict.reason
    none = evaluate(bundle, day, later)["r2"]
    again = evaluate(replace(bundle, read_in=renormalise(bundle.read_in, calibration)), day, later)["r2"]
    after = evaluate(save_generation(bundle, candidate.read_in, tmp_path / "gen1", candidate.record), day, later)["r2"]
    assert after > 94
    assert after > none + 3
    assert after > again - 0.5


def test_the_gate_refuses_a_candidate_for_another_wiring(bundle: Bundle, days: tuple[Session, Session]) -> None:
    """A candidate made for another wiring under the same labels must not replace a decoder that is good today."""
    day = days[0]
    shuffled = replace(day, counts=day.counts[:, ::-1].copy())
    calibration = unlabelled(shuffled, day.rewarded()[:40], bundle.manifest.run_in)
    own = unlabelled(day, day.rewarded()[:40], bundle.manifest.run_in)
    candidate = align(bundle, calibration, AlignConfig(steps=30), 0)
    for trials in (own, calibration):
        verdict = judge(bundle, bundle.read_in, candidate.read_in, trials, GateConfig())
        assert not verdict.accepted


def test_trials_cut_out_of_a_recording_train_a_decoder(data_dir: Path, tmp_path: Path) -> None:
    """The centre-out reaches: 168 stretches of 14 bins with nothing before them; chance is an R2 of zero."""
    mapping = load(ImportMap, Path(__file__).resolve().parents[1] / "configs" / "import" / "centerout_position.yaml")
    day, other = (import_file(data_dir / f"centerout_{which}.npz", mapping) for which in ("source", "target"))
    bundle = train_bundle(day, TrainConfig(epochs=15, prior_epochs=2), 0, tmp_path / "source")
    assert evaluate(bundle, day, source_split(day, 0.2, 0)[1])["r2"] > 70
    assert bundle.manifest.prior.window == 14
    assert len(bundle.source_trials()) == 134
    calibration = unlabelled(other, other.rewarded()[:40], bundle.manifest.run_in)
    assert set(calibration.run_in) == {0}
    with pytest.raises(MismatchError, match="expected 187 channels as in the bundle, found 172"):
        align(bundle, calibration, AlignConfig(registration="identity"), 0)
