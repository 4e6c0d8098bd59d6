"""Files that hold trials cut out of a recording, a row each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align import config
from bci_align.errors import SessionError
from bci_align.session import io
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session

MAPS = Path(__file__).resolve().parents[2] / "configs" / "import"

CUT: dict[str, Any] = {
    "format": "npz",
    "layout": "trials",
    "counts": {"array": "spikes"},
    "bin_s": 0.1,
    "kinematics": {"array": "hand", "names": ["x", "y"], "units": ["cm", "cm"]},
    "trials": {"target": "goal"},
}


def cut_in(tmp_path: Path, changes: dict[str, Any] | None = None, **keys: Any) -> Session:
    """Import a synthetic file of 5 trials of 7 bins."""
    rng = np.random.default_rng(4)
    content = {"spikes": rng.integers(0, 5, (5, 7, 3)), "hand": rng.normal(size=(5, 7, 2)), "goal": np.arange(5)}
    np.savez_compressed(tmp_path / "day.npz", **(content | (changes or {})))
    return import_file(tmp_path / "day.npz", ImportMap.model_validate(CUT | keys))


@pytest.mark.parametrize("bin_s", [0.1, 0.02, 1 / 3, 0.007])
def test_rows_become_trials_between_breaks(tmp_path: Path, bin_s: float) -> None:
    session = cut_in(tmp_path, bin_s=bin_s)
    with np.load(tmp_path / "day.npz") as z:
        assert np.array_equal(session.counts, z["spikes"].reshape(35, 3))
        assert session.kinematics is not None and np.allclose(session.kinematics, z["hand"].reshape(35, 2))
    assert session.breaks == (7, 14, 21, 28)
    assert [session.trial_bins(i) for i in range(5)] == session.stretches() == [(7 * i, 7 * i + 7) for i in range(5)]
    assert session.trials.success.all() and np.isnan(session.trials.go_s).all()
    assert session.trials.target is not None and session.trials.target.tolist() == [[0], [1], [2], [3], [4]]
    assert cut_in(tmp_path, {"goal": np.ones((5, 2))}).trials.target.shape == (5, 2)  # type: ignore[union-attr]
    without = cut_in(tmp_path, trials={"success": "all"}, kinematics=None)
    assert without.trials.target is None and without.kinematics is None


def test_one_row_has_no_breaks(tmp_path: Path) -> None:
    one = {"spikes": np.ones((1, 7, 3), int), "hand": np.ones((1, 7, 2)), "goal": np.zeros(1)}
    assert cut_in(tmp_path, one).breaks == ()


def test_the_difference_stays_within_a_trial_and_knows_no_future(tmp_path: Path) -> None:
    hand = np.random.default_rng(4).normal(size=(5, 7, 2)) + 100 * np.arange(5)[:, None, None]
    session = cut_in(tmp_path, {"hand": hand}, kinematics=CUT["kinematics"] | {"difference": True})
    assert session.kinematics is not None
    found = session.kinematics.reshape(5, 7, 2)
    assert not found[:, 0].any()
    np.testing.assert_allclose(found[:, 1:], np.diff(hand, axis=1) / 0.1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spikes": np.ones((35, 3))}, r"counts.array: expected 3 axes in array 'spikes', found shape \(35, 3\)"),
        ({"hand": np.ones((5, 6, 2))}, r"kinematics.array: expected \(5, 7\) rows, trials and bins .*, found \(5, 6\)"),
        ({"hand": np.ones((35, 2))}, "kinematics.array: expected 3 axes"),
        ({"goal": np.ones((5, 1, 2))}, "trials.target: expected 1 or 2 axes"),
        ({"goal": np.ones(4)}, r"trials.target: expected \(5, D\)"),
    ],
)
def test_faults_of_a_file_of_trials(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SessionError, match=rf"day\.npz: .*{sentence}"):
        cut_in(tmp_path, changes)


@pytest.mark.parametrize(("which", "units", "silent"), [("source", 187, 36), ("target", 172, 27)])
def test_the_centre_out_sessions(tmp_path: Path, data_dir: Path, which: str, units: int, silent: int) -> None:
    source = data_dir / f"centerout_{which}.npz"
    session, moving = (
        import_file(source, config.load(ImportMap, MAPS / f"centerout_{kind}.yaml")) for kind in ("position", "velocity")
    )
    assert session.counts.shape == (168 * 14, units) and session.channels[-1] == f"unit{units}"
    assert session.breaks == tuple(range(14, 168 * 14, 14)) == moving.breaks
    assert [session.trial_bins(i) for i in range(168)] == session.stretches()
    assert int((session.counts.max(0) == 0).sum()) == silent
    with np.load(source, allow_pickle=False) as z:
        means, position, direction = z["counts_mean"], z["position"], z["direction"]
    assert np.abs(session.counts.reshape(168, 14, units) / 13 - means).max() < 1e-6
    assert session.kinematics is not None and moving.kinematics is not None and session.trials.target is not None
    assert np.array_equal(session.kinematics.reshape(168, 14, 2), position)
    assert np.array_equal(session.trials.target[:, 0], direction)
    v = moving.kinematics.reshape(168, 14, 2)
    assert not v[:, 0].any() and np.allclose(v[:, 1:], np.diff(position, axis=1) / 0.04, rtol=1e-3, atol=1e-2)
    assert session.kinematics_units == ("0.02 cm", "0.02 cm") and moving.kinematics_units == ("0.02 cm/s", "0.02 cm/s")
    io.save(session, tmp_path / "day.h5")
    assert io.load(tmp_path / "day.h5").breaks == session.breaks
