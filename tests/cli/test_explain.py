"""``explain`` from a session file to a factor model, a report on two bundles, and films; and its sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bci_align.bundle.store import save_generation
from bci_align.cli.main import main
from bci_align.config import TrainConfig
from bci_align.interpretation.video import read_frames
from bci_align.session import io
from bci_align.session.types import GENERATED, Session
from bci_align.training import train_bundle
from bci_align_sim.mixed import Mixed, Wear, mixed_day
from benchmarks.interpretation_kept import destroyed

pytestmark = pytest.mark.computes

Capture = pytest.CaptureFixture[str]
ARRAY = Mixed(neurons=24, hidden=1)
SETTINGS = {
    "factors": {"hidden": 24, "updates": 100, "batch": 32, "free": 1},
    "film": {"size": 12, "length": 16, "components": 16, "width": 16, "blocks": 2, "updates": 10, "strides": 8},
}


def ok(capsys: Capture, *words: object) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def fault(capsys: Capture, *words: object) -> str:
    """A command that must fail: status 2, one sentence, nothing on standard output."""
    assert main([*map(str, words)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("bci-align: ")]
    assert len(lines) == 1 and captured.out == "", captured.err
    return lines[0]


@pytest.fixture(scope="module")
def day0() -> Session:
    return mixed_day(3, trials=120, bins=20, array=ARRAY)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, day0: Session) -> Path:
    """A session, a later one, a bundle, one whose grip was destroyed, and a factor model with films."""
    folder = tmp_path_factory.mktemp("explain")
    later = mixed_day(3, trials=50, bins=20, array=ARRAY, wear=Wear(gain_sd=0.05, turned=0.0), day=1)
    io.save(day0, folder / "day0.h5")
    io.save(later, folder / "later.h5")
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    config = TrainConfig(epochs=40, prior_epochs=2, prior_width=8, hidden=24, latents=6, window=60)
    bundle = train_bundle(day0, config, 0, folder / "before")
    save_generation(bundle, destroyed(bundle.read_in, later, 2), folder / "after", {"method": "damaged on purpose"})
    words = ["explain", "train", folder / "day0.h5", "--out", folder / "model", "--config", folder / "config.yaml"]
    assert main([*map(str, words), "--json"]) == 0
    return folder


def test_train_says_what_it_found(work: Path, capsys: Capture) -> None:
    found = ok(capsys, "explain", "train", work / "day0.h5", "--out", work / "two", "--config", work / "config.yaml", "--no-film")
    assert found["factors"] == ["vx", "vy", "grip", "free 1"]
    assert len(found["r2"]) == 4 and len(found["r2"][0]) == 3
    assert found["training"]["factors_cpu_s"] > 0 and "film" not in found
    assert "needs 10000" in found["note"]
    assert "already exists" in fault(capsys, "explain", "train", work / "day0.h5", "--out", work / "two")
    message = fault(capsys, "explain", "film", work / "two", "--factor", "vx", "--out", work / "x.gif")
    assert "expected a factor model with films, found one trained with --no-film" in message


def test_report_names_the_destroyed_factor(work: Path, capsys: Capture) -> None:
    two = ("--bundle", work / "before", "--bundle", work / "after", "--session", work / "later.h5")
    (work / "page").mkdir()
    found = ok(capsys, "explain", "report", work / "model", *two, "--out", work / "page" / "report.html")
    assert found["verdicts"]["grip"] == "lost"
    assert "lost" not in (found["verdicts"]["vx"], found["verdicts"]["vy"])
    assert found["source_bar"]["untouched"] and found["source_bar"]["trials"] == 24
    page = (work / "page" / "report.html").read_text(encoding="utf-8")
    assert "grip: lost; R2" in page and page.count("<img") == 5
    assert {p.name for p in (work / "page").glob("*.png")} == {
        f"report_{name}.png" for name in ("carried", "carried-matrix", "matrix", "oracle", "over-time")
    }  # fmt: skip
    # Before anything is read, not after minutes of comparing.
    assert "already exists" in fault(capsys, "explain", "report", work / "no model", "--out", work / "page" / "report.html")


def test_days_that_give_no_verdict(work: Path, capsys: Capture) -> None:
    later = io.load(work / "later.h5")
    assert later.kinematics_names == ("vx", "vy", "grip")
    io.save(replace(later, kinematics_units=(*later.kinematics_units[:2], "mN")), work / "millinewton.h5")
    io.save(replace(later, meta=later.meta | {GENERATED: "a model's"}), work / "generated.h5")
    words = ("explain", "report", work / "model", "--bundle", work / "before", "--bundle", work / "after", "--session")
    assert "kinematics 'grip': expected unit" in fault(capsys, *words, work / "millinewton.h5")
    assert "expected recorded trials, found generated ones" in fault(capsys, *words, work / "generated.h5")
    assert "expected at least 10 trials to judge by, found 1" in fault(capsys, *words, work / "later.h5", "--trials", "0:1")


def test_report_without_bundles(work: Path, capsys: Capture) -> None:
    assert main(["explain", "report", str(work / "model")]) == 0
    out = capsys.readouterr().out
    assert "by its own factor" in out and "MIG" in out and "oracle" in out


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_film_is_written_and_can_be_read(work: Path, capsys: Capture, suffix: str) -> None:
    out = work / f"film{suffix}"
    found = ok(capsys, "explain", "film", work / "model", "--factor", "grip", "--out", out, "--clips", 1)
    assert found["frames"] == 16 and found["rate"] == 20
    assert len(read_frames(out, 64).frames) == 16
    assert "already exists" in fault(capsys, "explain", "film", work / "model", "--factor", "grip", "--out", out)


def test_an_unknown_factor(work: Path, capsys: Capture) -> None:
    message = fault(capsys, "explain", "film", work / "model", "--factor", "jaw", "--out", work / "a.gif")
    assert "factor: expected one of vx, vy, grip, free 1, found 'jaw'" in message
    assert not (work / "a.gif").exists()


def test_a_film_of_no_known_format(work: Path, capsys: Capture) -> None:
    message = fault(capsys, "explain", "film", work / "model", "--factor", "vx", "--out", work / "a.avi")
    assert "expected a film's name that ends in .gif or .mp4, found '.avi'" in message


def test_sessions_that_cannot_be_explained(work: Path, day0: Session, capsys: Capture) -> None:
    assert day0.kinematics is not None
    still = day0.kinematics.copy()
    still[:, 2] = 1.0
    days = {
        "none": replace(day0, kinematics=None, kinematics_names=(), kinematics_units=()),
        "still": replace(day0, kinematics=still),
    }
    for name, expected in (
        ("none", "session 'mixed': behaviour: expected kinematics to tell factors by, found none"),
        ("still", "session 'mixed': behaviour 'grip': expected values that vary in the training trials, found a constant 1"),
    ):
        io.save(days[name], work / f"{name}.h5")
        message = fault(capsys, "explain", "train", work / f"{name}.h5", "--out", work / f"of-{name}", "--no-film")
        assert expected in message
        assert not (work / f"of-{name}").exists()


def test_frames_that_do_not_fit(work: Path, day0: Session, capsys: Capture) -> None:
    np.save(work / "short.npy", np.zeros((day0.bins - 1, 8, 8), np.uint8))
    (work / "broken.mp4").write_bytes(b"not a film")
    words = ("explain", "train", work / "day0.h5", "--out", work / "filmed", "--frames")
    assert f"expected {day0.bins} frames, one per bin of the session, found {day0.bins - 1}" in fault(
        capsys, *words, work / "short.npy"
    )
    assert "broken.mp4: expected a video (mp4, GIF) or .npy, cannot be read" in fault(capsys, *words, work / "broken.mp4")
    np.savez(work / "zip.npz", np.zeros((day0.bins, 8, 8), np.uint8))
    (work / "zip.npz").rename(work / "zip.npy")
    assert "zip.npy: expected an array of frames, cannot be read" in fault(capsys, *words, work / "zip.npy")
    np.save(work / "black.npy", np.zeros((day0.bins, 8, 8), np.uint8))
    expected = "black.npy: training trials: expected pictures that change, found the same one in every frame"
    assert expected in fault(capsys, *words, work / "black.npy")
    expected = "--resample: expected a film with a rate, found frames without one"
    assert expected in fault(capsys, *words, work / "black.npy", "--resample")
    assert "--resample: expected --frames with it" in fault(capsys, *words[:-1], "--resample")
    assert not (work / "filmed").exists()


def test_bundles_and_session_come_together(work: Path, capsys: Capture) -> None:
    words = ("explain", "report", work / "model")
    assert "--bundle: expected two, before and after the alignment, or none, found 1" in fault(
        capsys, *words, "--bundle", work / "before"
    )
    pair = ("--bundle", work / "before", "--bundle", work / "after")
    assert "--session: expected one beside --bundle" in fault(capsys, *words, *pair)
    assert "--bundle: expected one beside --session" in fault(capsys, *words, "--session", work / "later.h5")
    assert "--trials: expected --session with it" in fault(capsys, *words, "--trials", "40:")


def test_films_that_no_guide_could_make(work: Path, capsys: Capture) -> None:
    """Told before anything is trained."""
    one = {"behaviours": {"vx": {"columns": ["vx"]}}, "factors": {"free": 0}}
    cases = (
        ({"film": {"window": 4}}, "key 'film.window': expected an odd number below length (24), found 4"),
        ({"film": {"window": 9, "length": 9}}, "key 'film.window': expected an odd number below length (9), found 9"),
        (one, "film: expected two factors or more, one of which to tell from the others, found one"),
    )
    for content, told in cases:
        (work / "bad.yaml").write_text(json.dumps(content))
        message = fault(capsys, "explain", "train", work / "day0.h5", "--out", work / "never", "--config", work / "bad.yaml")
        assert told in message
        assert not (work / "never").exists()


def test_a_bundle_of_another_day(work: Path, capsys: Capture, small_bundle: Any) -> None:
    words = ("explain", "report", work / "model", "--session", work / "later.h5")
    message = fault(capsys, *words, "--bundle", small_bundle.path, "--bundle", work / "after")
    assert "source channels: expected 24 channels as in the factor model, found 32" in message
