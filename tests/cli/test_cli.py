import json
import pickle
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.cli.main import COMMANDS, main
from bci_align.config import SinkConfig, SourceConfig
from bci_align.session import io
from bci_align.session.types import Session
from bci_align.streams.contract import StreamSpec
from bci_align.streams.registry import make_rig
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift

pytestmark = pytest.mark.computes

Days = tuple[Session, Session]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_days: Days) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for name, day in zip(("day0.h5", "dayk.h5"), small_days, strict=True):
        io.save(day, folder / name)
    return folder


def ok(capsys: Capture, *words: object) -> dict[str, Any]:
    """Run a command with --json: exit 0 and exactly one JSON object on standard output."""
    assert main([*map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def fault(capsys: Capture, *words: object, status: int = 2) -> str:
    """Run a command that must fail: its status, one sentence on standard error, nothing on standard output (but run's end)."""
    assert main([*map(str, words)]) == status
    captured = capsys.readouterr()
    assert captured.out == "" or words[0] == "run"
    lines = [line for line in captured.err.splitlines() if line.startswith("bci-align: ")]
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize("command", [{"audit": "audit verify", "explain": "explain film"}.get(c, c) for c in COMMANDS])
def test_every_command_has_help_and_json(command: str, capsys: Capture) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert len(text.split("Options:")[0].split()) > 8  # more than the usage line


def test_help_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_between_sessions_from_a_recording_to_a_new_generation(work: Path, capsys: Capture, tmp_path: Path) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text("epochs: 25\nprior_epochs: 6\nprior_width: 16\nhidden: 32\nlatents: 8\n")
    trained = ok(capsys, "train", work / "day0.h5", "--out", tmp_path / "b", "--config", settings, "--seed", 0)
    assert trained["validation"]["r2"] > 40
    before = ok(capsys, "evaluate", tmp_path / "b", work / "dayk.h5", "--trials", "25:")
    assert {"r2", "r2_per_output", "rmse", "bins", "trials"} <= set(before)
    assert before["seen_in_training"] is False
    made = ok(capsys, "recalibrate", tmp_path / "b", work / "dayk.h5", "--trials", ":25", "--out", tmp_path / "b1")
    assert made["generation"] == 1
    after = ok(capsys, "evaluate", tmp_path / "b1", work / "dayk.h5", "--trials", "25:")
    assert after["r2"] > before["r2"] + 5
    seen = ok(capsys, "inspect", tmp_path / "b1")
    assert seen["generation"] == 1
    assert seen["parent"] == ok(capsys, "inspect", tmp_path / "b")["identity"]
    assert ok(capsys, "evaluate", tmp_path / "b", work / "day0.h5")["seen_in_training"] is True
    assert "channels" in ok(capsys, "inspect", work / "day0.h5")


def test_recalibrate_tells_the_stages(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    settings = tmp_path / "open.yaml"
    settings.write_text("align: {steps: 4, label_rounds: 1}\ngate: {prior_margin: 9.0, spread: [0.01, 100.0]}\n")
    words = ("recalibrate", small_bundle.path, work / "dayk.h5", "--trials", ":25", "--config", settings, "--out")
    made = ok(capsys, *words, tmp_path / "b1")
    assert [s["stage"] for s in made["stages"]] == [
        "identity", "tuning transfer", "tuning transfer", "refinement, 4 steps", "self-labelling, 1 rounds"
    ]  # fmt: skip
    assert made["channels"] == 32
    assert set(made["changed_channels"]) <= set(small_bundle.manifest.channels)
    assert main([*map(str, words), str(tmp_path / "b2")]) == 0
    text = capsys.readouterr().out
    assert "tuning transfer, " in text and "% of the way" in text and "refinement, 4 steps" in text
    assert f"{len(made['changed_channels'])} of 32 channels found to have changed" in text
    assert f"{made['stages'][0]['denoising']:.4f}" in text
    assert main(["inspect", str(tmp_path / "b1")]) == 0
    assert "stage refinement, 4 steps" in capsys.readouterr().out


def test_recalibrate_takes_other_labels_and_writes_a_core_that_moved(
    small_bundle: Bundle, capsys: Capture, tmp_path: Path
) -> None:
    drift = Drift(turnover=0.1, gain_sd=0.2, rotation_deg=5, baseline_sd_hz=1, dead=0)
    day = simulate_days(seed=2, trials=(60, 40), drift=drift, bin_s=0.05, channels=32)[1]
    labels = tuple(f"unit{i}" for i in range(32))
    io.save(replace(day, channels=labels), tmp_path / "units.h5")
    settings = tmp_path / "whole.yaml"
    settings.write_text("align: {steps: 4, label_rounds: 0, moves: whole}\ngate: {prior_margin: 9.0, spread: [0.01, 100.0]}\n")
    words = (small_bundle.path, tmp_path / "units.h5", "--trials", ":25", "--config", settings, "--out", tmp_path / "b1")
    made = ok(capsys, "recalibrate", *words)
    assert made["stages"][0]["stage"] == "order-preserving"
    bundle = load_bundle(tmp_path / "b1")
    assert bundle.manifest.channels == labels
    assert bundle.manifest.source_channels == small_bundle.manifest.channels
    old, new = (b.models()[0].core.gru.weight_hh_l0 for b in (small_bundle, bundle))
    assert not bool((old == new).all())
    assert ok(capsys, "evaluate", tmp_path / "b1", tmp_path / "units.h5", "--trials", "25:")["r2"] > 20


def test_text_output_is_for_people(work: Path, small_bundle: Bundle, capsys: Capture) -> None:
    assert main(["evaluate", str(small_bundle.path), str(work / "day0.h5")]) == 0
    text = capsys.readouterr().out
    assert "variance-weighted" in text
    assert "trained on this session" in text
    assert main(["inspect", str(work / "day0.h5")]) == 0
    assert "mean_rate_hz" in capsys.readouterr().out


def test_import_by_mapping_and_its_faults(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "r.npz", n=rng.poisson(2, (400, 3)), a=np.arange(0.5, 18, 1.5), b=np.arange(1.5, 19, 1.5))
    good = {"format": "npz", "counts": {"array": "n"}, "bin_s": 0.05, "channels": {"prefix": "ch"}}
    good |= {"trials": {"start": "a", "end": "b", "success": "all"}}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(good))
    made = ok(capsys, "import", tmp_path / "r.npz", "--map", tmp_path / "map.yaml", "--out", tmp_path / "s.h5")
    assert made["bins"] == 400
    words = ("import", tmp_path / "r.npz", "--map", tmp_path / "map.yaml", "--out", tmp_path / "s.h5")
    assert "s.h5" in fault(capsys, *words)  # exists already
    assert main([*map(str, words), "--force"]) == 0
    capsys.readouterr()
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(good | {"chanels": 1}))
    words = ("import", tmp_path / "r.npz", "--map", tmp_path / "bad.yaml", "--out", tmp_path / "t.h5")
    assert "unknown key 'chanels'; the nearest known key is 'channels'" in fault(capsys, *words)
    (tmp_path / "p.npz").write_bytes(pickle.dumps({"n": 1}))
    assert "pickle" in fault(capsys, "import", tmp_path / "p.npz", "--map", tmp_path / "map.yaml", "--out", tmp_path / "t.h5")
    np.savez(tmp_path / "neg.npz", n=rng.poisson(2, (400, 3)) - 5, a=np.arange(0.5, 18, 1.5), b=np.arange(1.5, 19, 1.5))
    assert "negative" in fault(capsys, "import", tmp_path / "neg.npz", "--map", tmp_path / "map.yaml", "--out", tmp_path / "t.h5")
    assert not (tmp_path / "t.h5").exists()


def test_bad_files_and_settings(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    b = small_bundle.path
    assert "no such file" in fault(capsys, "evaluate", b, tmp_path / "none.h5")
    assert "no such bundle" in fault(capsys, "evaluate", tmp_path / "none", work / "day0.h5")
    (tmp_path / "cut.h5").write_bytes((work / "day0.h5").read_bytes()[:5000])
    assert "cut.h5" in fault(capsys, "train", tmp_path / "cut.h5", "--out", tmp_path / "x")
    (tmp_path / "typo.yaml").write_text("epoks: 3\n")
    says = fault(capsys, "train", work / "day0.h5", "--out", tmp_path / "x", "--config", tmp_path / "typo.yaml")
    assert "unknown key 'epoks'; the nearest known key is 'epochs'" in says
    assert "expected a slice" in fault(capsys, "evaluate", b, work / "day0.h5", "--trials", "first ten")
    assert "found none in '500:'" in fault(capsys, "evaluate", b, work / "day0.h5", "--trials", "500:")
    assert "expected at least 5 calibration trials, found 3" in fault(
        capsys, "recalibrate", b, work / "dayk.h5", "--trials", ":3", "--out", tmp_path / "x"
    )
    assert "already exists" in fault(capsys, "recalibrate", b, work / "dayk.h5", "--out", tmp_path)
    assert "no trial would be left" in fault(capsys, "replay", work / "dayk.h5", "--bundle", b, "--calibration", "400")
    assert not (tmp_path / "x").exists()
    assert main(["replay", str(work / "dayk.h5"), "--bundle", str(b), "--speed", "fast"]) == 2
    assert main(["evaluate", str(b)]) == 2


def test_a_bundle_s_directory_is_made_before_the_work(work: Path, capsys: Capture, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text("epochs: 1\nprior_epochs: 1\nprior_width: 8\nhidden: 16\nlatents: 4\n")
    ok(capsys, "train", work / "day0.h5", "--out", tmp_path / "bundles" / "monkey" / "day0", "--config", tiny)
    (tmp_path / "file").write_text("")
    says = fault(capsys, "train", work / "day0.h5", "--out", tmp_path / "file" / "day0", "--config", tiny)
    assert "cannot be made" in says


def test_other_kinematics_or_units_are_refused_before_a_replay(
    work: Path, small_bundle: Bundle, small_days: Days, capsys: Capture, tmp_path: Path
) -> None:
    day = small_days[1]
    io.save(replace(day, kinematics_names=("px", "py")), tmp_path / "names.h5")
    io.save(replace(day, kinematics_units=("m/s", "m/s")), tmp_path / "units.h5")
    words = ("--bundle", small_bundle.path, "--out", tmp_path / "out")
    assert "kinematics: expected vx, vy" in fault(capsys, "replay", tmp_path / "names.h5", *words)
    assert "units: expected cm/s, cm/s as in the bundle, found m/s, m/s" in fault(capsys, "replay", tmp_path / "units.h5", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.live
def test_a_run_that_fails_still_tells_what_it_did(small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    config: dict[str, Any] = {"bundle": str(small_bundle.path), "out": str(tmp_path / "out"), "control": {"address": None}}
    config["source"] = {"kind": "lsl", "stream": "nobody-sends-this", "connect_timeout_s": 1.0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(tmp_path / "run.yaml"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["bins"] == 0
    assert told["swaps"] == []
    assert "nobody-sends-this" in told["error"]


def test_a_fault_with_json_is_json_too(capsys: Capture, tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / "none.h5"), "--json"]) == 2
    assert "none.h5" in json.loads(capsys.readouterr().out)["error"]


def test_a_refused_candidate_is_not_written(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "hard.yaml").write_text("gate: {min_trials: 1000}\n")
    words = ("recalibrate", small_bundle.path, work / "dayk.h5", "--config", tmp_path / "hard.yaml", "--out", tmp_path / "x")
    assert "calibration trials" in fault(capsys, *words, status=3)
    assert not (tmp_path / "x").exists()


def test_a_day_without_drift_is_not_recalibrated(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "wary.yaml").write_text("drift: {align_from: 1000}\n")
    words = ("recalibrate", small_bundle.path, work / "dayk.h5", "--config", tmp_path / "wary.yaml", "--out", tmp_path / "x")
    assert "aligned from 1000: do not align" in fault(capsys, *words, status=3)
    assert not (tmp_path / "x").exists()


def test_recalibrate_asks_the_gates_that_are_named(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text("gates: [standard, coin]\n")
    words = ("recalibrate", small_bundle.path, work / "dayk.h5", "--config", tmp_path / "gates.yaml", "--out", tmp_path / "x")
    assert "gates: expected one of standard, found 'coin'" in fault(capsys, *words)
    assert not (tmp_path / "x").exists()


@pytest.mark.live
def test_a_stream_that_never_appears_says_what_was_looked_for(small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    config: dict[str, Any] = {"bundle": str(small_bundle.path), "out": str(tmp_path / "out"), "control": {"address": None}}
    config["source"] = {"kind": "lsl", "stream": "nobody-sends-this", "connect_timeout_s": 1.0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    says = fault(capsys, "run", tmp_path / "run.yaml")
    assert "nobody-sends-this" in says


@pytest.mark.live
def test_a_port_in_use_is_named(small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        config: dict[str, Any] = {"bundle": str(small_bundle.path), "out": str(tmp_path / "out"), "control": {"address": None}}
        config["source"] = {"kind": "lsl", "stream": "port-test", "markers": "port-test-events", "connect_timeout_s": 20.0}
        config["sink"] = {"kind": "zmq", "address": address}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        source = SourceConfig(stream="port-test", markers="port-test-events")
        rig, _ = make_rig("lsl", source, SinkConfig())
        rig.open(StreamSpec(small_bundle.manifest.channels, small_bundle.manifest.bin_s, "rig", "rig-1"))
        try:
            status = main(["run", str(tmp_path / "run.yaml")])
        finally:
            rig.close()
    assert status == 2
    assert address in capsys.readouterr().err


@pytest.mark.live
def test_replay_scores_what_came_out(work: Path, small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    words = ("replay", work / "dayk.h5", "--bundle", small_bundle.path, "--over", "zmq", "--speed", "max", "--calibration", 20)
    result = ok(capsys, *words, "--out", tmp_path / "out")
    assert result["lost"] == 0
    assert result["bins_in"] == result["bins_out"]
    assert len(result["swaps"]) + len(result["refusals"]) == 1
    assert result["live_minus_offline"] < 1e-4
    assert {"r2_before", "r2_after"} <= set(result)
    for swap in result["swaps"]:
        assert {"bin", "generation", "verdict"} <= set(swap)
        assert result["r2_after"] > result["r2_after_unaligned"]
