import json
import math

import pytest

from bci_align.bundle.store import load_bundle
from bci_align.config import AlignConfig, DriftConfig, GateConfig, TrainConfig
from bci_align.errors import ConfigError
from bci_align_sim.demo import claim, main, text
from bci_align_sim.demo_plan import MARKER, Sizes, decision

TINY = Sizes(
    trials=(28, 22),
    calibration=10,
    channels=24,
    train=TrainConfig(
        hidden=16, latents=6, epochs=20, prior_epochs=3, prior_width=8, prior_blocks=1, prior_steps=20, min_trials=10
    ),
    align=AlignConfig(steps=20),
    # Open: a decoder of seconds of training is none that the gate's own limits are for.
    gate=GateConfig(
        prior_margin=1.0,
        unsteady=1e6,
        agreement=-1.0,
        information=(0.0, 1e6),
        halves=0.0,
        kl=1e6,
        diversity=0.0,
        spread=(0.05, 20.0),
    ),
    drift=DriftConfig(align_from=0.0),
)


@pytest.mark.timeout(180)
def test_the_whole_demonstration(tmp_path, capfd):
    out = tmp_path / "parent" / "demo"
    # At full speed the player waits for the aligner, so that a busy machine gives the same result.
    assert main(["--out", str(out), "--seed", "3", "--speed", "max", "--json"], TINY) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["lost"] == 0 and result["bins_out"] == result["bins"]
    assert result["verdict"]["accepted"] and result["swap_bin"] is not None, result["verdict"]
    assert result["calibration_trials"] == 10 and result["later_trials"] >= 3
    assert result["live_minus_offline_sd"] < 1e-3
    assert [s["name"].split(",")[0] for s in result["scores"][:2]] == ["day 0", "day K before the swap"]
    assert all(math.isfinite(s["r2"]) and s["rmse"] > 0 for s in result["scores"])

    assert json.loads((out / "result.json").read_text()) == result
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"swapped in at bin {result['swap_bin']}" in page
    assert all(f"{s['r2']:.1f}" in page for s in result["scores"])
    for name in ("scores", "timeline", "traces", "trajectories", "latents", "stages"):
        assert (out / f"{name}.png").is_file(), name
    assert load_bundle(out / "generation-1").manifest.parent == load_bundle(out / "generation-0").identity
    assert [p.name for p in out.parent.iterdir()] == ["demo"], "nothing temporary may stay"
    # It knows its own directory again, and would replace it.
    assert claim(out) == out
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        claim(out)


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("five years")
    assert main(["--out", str(tmp_path), "--json"], TINY) == 2
    out, err = capsys.readouterr()
    assert "thesis.tex" in err and "choose another --out" in json.loads(out)["error"]
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_may_be_written_to(tmp_path):
    assert claim(tmp_path) == tmp_path
    assert claim(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a").is_dir() and not (tmp_path / "a" / "b").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="found a file"):
        claim(tmp_path / "file")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / MARKER).write_text("report.html\n")
    (mine / "report.html").write_text("")
    assert claim(mine) == mine


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, capsys, error):
    def interrupted(*args, **kwargs):
        raise error

    monkeypatch.setattr("bci_align_sim.demo_run.train_bundle", interrupted)
    out = tmp_path / "demo"
    if error is KeyboardInterrupt:
        assert main(["--out", str(out)], TINY) == 130
        assert "interrupted" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit):
            main(["--out", str(out)], TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--speed", "0"], ["--speed", "nan"], ["--speed", "soon"], ["--seed", "-1"], ["--over", "tcp"]]
)
def test_bad_arguments_are_named(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_every_outcome_is_one_sentence():
    verdict = {"accepted": True, "reason": "every check passed", "checks": [], "seconds": 1.0}
    base = {"scores": [{"name": "a", "r2": 91.26, "rmse": 1.5, "trials": 3}], "lost": 2, "bins": 9, "report": "r", "seconds": 4.4}
    swapped = base | {"verdict": verdict, "swap_bin": 5, "notes": []}
    assert "swap at bin 5" in decision(swapped)
    assert "91.3" in text(swapped) and "2 of 9" in text(swapped)
    assert "refused (prior)" in decision(base | {"verdict": verdict | {"accepted": False, "reason": "prior"}, "swap_bin": None})
    late = {
        "verdict": None,
        "swap_bin": None,
        "notes": ["the recording ended while generation 1 was still being aligned: no swap"],
    }
    assert "lower --speed" in decision(base | late)
    assert "died" in decision(base | late | {"notes": ["the aligner died (killed)"]})
