from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bci_align.comparison.pairs import PairsFile, find_pairs
from bci_align.config import TrainConfig, load
from bci_align.errors import BciAlignError
from bci_align.session import io

ROOT = Path(__file__).resolve().parents[2]
PAIR = {"name": "one", "source": {"file": "day0.h5"}, "target": {"file": "dayk.h5"}, "calibration": 25, "train": {"epochs": 3}}


@pytest.fixture
def data(tmp_path, small_days):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, day in zip(("day0", "dayk"), small_days, strict=True):
        io.save(day, folder / f"{name}.h5")
    return folder


def write(path, *pairs):
    path.write_text(yaml.safe_dump({"pairs": list(pairs)}))
    return path


def test_the_example_names_three_pairs():
    told = load(PairsFile, ROOT / "configs" / "benchmark" / "real.yaml").pairs
    assert [(p.calibration, p.unlabelled) for p in told] == [(120, (5, 20, 120)), (96, (20, 96)), (96, (20, 96))]
    for day in (d for p in told for d in (p.source, p.target)):
        assert (ROOT / "configs" / "benchmark" / day.map).is_file()


def test_a_file_in_the_data_directory_is_found(data, small_days):
    write(data / "pairs.yaml", PAIR | {"unlabelled": [5, 25]}, PAIR | {"name": "two"})
    one, two = find_pairs(data)
    assert (one.name, one.calibration, one.unlabelled_counts) == ("one", 25, (5, 25))
    assert two.unlabelled_counts == (25,)
    assert one.train == TrainConfig(epochs=3)
    assert np.array_equal(one.target.counts, small_days[1].counts)


def test_without_a_file_the_first_session_is_the_source(data, small_days):
    io.save(replace(small_days[1], kinematics=None, kinematics_names=(), kinematics_units=()), data / "later day.h5")
    pairs = find_pairs(data)
    assert [p.name for p in pairs] == ["dayk", "later_day"]
    assert all(p.source.fingerprint() == small_days[0].fingerprint() for p in pairs)
    half = len(small_days[1].rewarded()) // 2
    assert all((p.calibration, p.unlabelled_counts) == (half, (5, half)) for p in pairs)
    assert pairs[1].target.kinematics is None


def test_maps_are_relative_to_the_pairs_file(data, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"n": rng.poisson(2.0, (40, 14, 3)) / 13, "p": rng.normal(size=(40, 14, 2))}
    np.savez(data / "a.npz", **arrays)
    np.savez(data / "b.npz", **arrays)
    (tmp_path / "maps").mkdir()
    told = {"format": "npz", "layout": "trials", "counts": {"array": "n", "scale": 13}, "bin_s": 0.04}
    told |= {"kinematics": {"array": "p", "names": ["x", "y"], "units": ["cm", "cm"]}}
    (tmp_path / "maps" / "m.yaml").write_text(yaml.safe_dump(told))
    days = {"source": {"file": "a.npz", "map": "maps/m.yaml"}, "target": {"file": "b.npz", "map": "maps/m.yaml"}}
    (pair,) = find_pairs(data, write(tmp_path / "mine.yaml", PAIR | days))
    assert len(pair.target.breaks) == 39


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"calibraton": 3}, r"pairs\.yaml: unknown key 'pairs\.0\.calibraton'; the nearest known key is 'calibration'"),
        ({"train": {"epoks": 3}}, "unknown key 'pairs.0.train.epoks'; the nearest known key is 'epochs'"),
        ({"source": {}}, "missing key 'pairs.0.source.file'"),
        ({"name": "../up"}, "key 'pairs.0.name'"),
        ({"calibration": 1}, "key 'pairs.0.calibration'"),
        (
            {"calibration": 38},
            r"pair 'one': expected a target day of at least 43 rewarded trials \(38 to align on, 5 to score\), found",
        ),
        ({"unlabelled": [5, 30]}, r"unlabelled: expected rising numbers from 2 to calibration \(25\), found \[5, 30\]"),
        ({"unlabelled": [20, 5]}, "unlabelled: expected rising"),
        ({"train": {"min_trials": 70}}, "source day 'day0': expected at least 70 rewarded trials to train on, found"),
        ({"target": {"file": "none.h5"}}, r"none\.h5: no such file"),
        ({"target": {"file": "dayk.h5", "map": "none.yaml"}}, r"none\.yaml: no such file"),
    ],
)
def test_faults_are_one_sentence(data, change, says):
    write(data / "pairs.yaml", PAIR | change)
    with pytest.raises(BciAlignError, match=says) as e:
        find_pairs(data)
    assert "\n" not in str(e.value)


def test_two_pairs_of_one_name_are_refused(data):
    write(data / "pairs.yaml", PAIR, PAIR)
    with pytest.raises(BciAlignError, match="expected different names, found 'one' more than once"):
        find_pairs(data)


def test_directories_without_days(tmp_path, data):
    with pytest.raises(BciAlignError, match="expected a directory of recordings, found nothing"):
        find_pairs(tmp_path / "none")
    (data / "dayk.h5").unlink()
    with pytest.raises(BciAlignError, match=r"expected pairs\.yaml or at least two session files \(\.h5\), found 1"):
        find_pairs(data)


def test_days_that_do_not_belong_together(data, small_days):
    day = small_days[1]
    write(data / "pairs.yaml", PAIR)
    for other, says in (
        (replace(day, kinematics_names=("px", "py")), "kinematics: names: expected vx, vy on both days, found px, py"),
        (replace(day, bin_s=0.06), "expected bins of 0.05 s on both days, found 0.06 s"),
    ):
        io.save(other, data / "dayk.h5", overwrite=True)
        with pytest.raises(BciAlignError, match=says):
            find_pairs(data)
    write(data / "pairs.yaml", PAIR | {"source": PAIR["target"], "target": PAIR["source"]})
    io.save(replace(day, kinematics=None, kinematics_names=(), kinematics_units=()), data / "dayk.h5", overwrite=True)
    with pytest.raises(BciAlignError, match="kinematics: expected some to train a decoder on, found none"):
        find_pairs(data)
