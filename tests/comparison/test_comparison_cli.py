"""The whole command on two small pairs of simulated days, one of them without kinematics on the target day."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from bci_align.cli.main import main
from bci_align.session import io

SMALL = {"epochs": 12, "prior_epochs": 3, "prior_width": 8, "hidden": 24, "latents": 6, "min_trials": 10}


@pytest.fixture(scope="module")
def data(small_days, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    blind = replace(small_days[1], kinematics=None, kinematics_names=(), kinematics_units=())
    for name, day in zip(("day0", "dayk", "blind"), (*small_days, blind), strict=True):
        io.save(day, folder / f"{name}.h5")
    pair = {
        "source": {"file": "day0.h5"},
        "target": {"file": "dayk.h5"},
        "calibration": 25,
        "unlabelled": [8, 25],
        "train": SMALL,
    }
    pairs = [pair | {"name": "scored"}, pair | {"name": "blind", "target": {"file": "blind.h5"}, "unlabelled": [25]}]
    (folder / "pairs.yaml").write_text(yaml.safe_dump({"pairs": pairs}))
    return folder


def test_tables_numbers_and_figures(data, tmp_path, capsys):
    out = tmp_path / "results" / "one"
    words = [
        "benchmark",
        "alignment",
        "--data",
        str(data),
        "--quick",
        "--jobs",
        "2",
        "--rivals",
        "none, running",
        "--out",
        str(out),
    ]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    told = json.loads(printed)
    kept = json.loads((out / "benchmark.json").read_text())
    assert kept == {k: v for k, v in told.items() if k != "out"}
    scored, blind = told["pairs"]
    rows = {(r["method"], r["trials"]): r for r in scored["rows"]}
    assert scored["failures"] == [] and blind["failures"] == []
    assert {m for m, _ in rows} >= {"ours", "none", "renormalise", "running", "supervised (5)", "supervised (all)"}
    assert "mmd" not in {m for m, _ in rows}
    assert rows["renormalise", 25]["r2_mean"] > rows["none", 25]["r2_mean"]
    assert rows["ours", 25]["seconds"] > 0
    assert scored["headlines"]["ours"][0]["name"] == "R2 (%)"
    assert blind["headlines"] == {}
    assert {r["method"] for r in blind["rows"]} == {"ours", "none", "renormalise", "running"}
    assert all(r["r2"] is None for r in blind["rows"])
    assert all(r["prior_loss"] is not None for r in blind["rows"] if r["method"] != "running")
    # Every score can be had again from the sums that are kept.
    (first, _) = json.loads((out / "outcomes.json").read_text())
    truth = {k: np.array(v) for k, v in first["truth"].items()}
    spread = (truth["square"].sum(0) - truth["total"].sum(0) ** 2 / truth["bins"].sum()).sum()
    ours = next(o for o in first["outcomes"] if (o["method"], o["trials"]) == ("ours", 25))
    assert 100 * (1 - np.array(ours["error"]).sum() / spread) == pytest.approx(rows["ours", 25]["r2_mean"])
    images = {p.name for p in out.glob("*.png")}
    assert images == {"scored-curve.png", "scored-cost.png", "scored-latents.png", "blind-latents.png"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in images)
    text = (out / "tables.txt").read_text()
    assert "headline [95 %]" in text and "R2/oracle" in text and "label-free scores" in text
    assert [p.name for p in out.parent.iterdir()] == ["one"]  # nothing half written beside it


def fault(capsys, *words):
    assert main(["benchmark", "alignment", *map(str, words)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("bci-align: ")]
    assert captured.out == "" and len(lines) == 1
    return lines[0]


def test_faults_come_before_the_work(data, tmp_path, capsys):
    assert "none: expected a directory of recordings, found nothing" in fault(capsys, "--data", tmp_path / "none")
    assert "already exists" in fault(capsys, "--data", data, "--out", tmp_path)
    assert "--rivals: expected some of none, renormalise" in fault(capsys, "--data", data, "--rivals", "none,mdm")
    content = yaml.safe_load((data / "pairs.yaml").read_text())
    for change, says in (
        ({"calibration": 36}, "pair 'scored': expected a target day of at least 41 rewarded trials (36 to align on, 5 to score)"),
        ({"unlabeled": [5]}, "unknown key 'pairs.0.unlabeled'; the nearest known key is 'unlabelled'"),
    ):
        other = tmp_path / "other.yaml"
        other.write_text(yaml.safe_dump({"pairs": [content["pairs"][0] | change]}))
        assert says in fault(capsys, "--data", data, "--pairs", other, "--out", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_run_in_which_nothing_worked_is_a_fault(data, tmp_path, capsys):
    content = yaml.safe_load((data / "pairs.yaml").read_text())["pairs"][0]
    path = tmp_path / "pairs.yaml"
    path.write_text(yaml.safe_dump({"pairs": [content | {"train": SMALL | {"run_in": 4000}}]}))
    says = fault(capsys, "--data", data, "--pairs", path, "--quick", "--jobs", "1", "--out", tmp_path / "never")
    assert "no pair worked with any seed; scored: seed 0: " in says
    assert not (tmp_path / "never").exists()


def test_help_tells_of_the_command(capsys):
    assert main(["benchmark", "--help"]) == 0
    assert "alignment" in capsys.readouterr().out
    assert main(["benchmark", "alignment", "--help"]) == 0
    assert "--seeds" in capsys.readouterr().out
