"""From a session to generated trials and a retrained bundle, by commands alone; and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.augmentation import checkpoints, store
from bci_align.bundle.store import Bundle
from bci_align.cli.main import main
from bci_align.session import io
from bci_align.session.types import GENERATED, Session, Trials

pytestmark = pytest.mark.computes

Capture = pytest.CaptureFixture[str]
SETTINGS = "before_s: 0.6\nafter_s: 0.7\ncode: 6\nwidth: 8\nsteps: 40\nupdates: 30\nbatch: 32\nsampling: 8\n"


def ok(capsys: Capture, *words: object) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def fault(capsys: Capture, *words: object) -> str:
    assert main([*map(str, words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bci-align: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, small_days: tuple[Session, Session]) -> Path:
    folder = tmp_path_factory.mktemp("augment")
    for name, day in zip(("day0.h5", "dayk.h5"), small_days, strict=True):
        io.save(day, folder / name)
    (folder / "tiny.yaml").write_text(SETTINGS)
    assert main(["augment", "train", *(str(folder / p) for p in ("dayk.h5",)), "--out", str(folder / "m"), "--config",
                 str(folder / "tiny.yaml"), "--trials", ":30"]) == 0  # fmt: skip
    return folder


def test_a_model_s_trials_are_a_session_that_says_what_it_is(work: Path, small_bundle: Bundle, capsys: Capture) -> None:
    day = io.load(work / "dayk.h5")
    assert day.trials.target is not None
    x, y = day.trials.target[day.rewarded()[0]]
    made = ok(capsys, "augment", "generate", work / "m", "--like", work / "dayk.h5", "--out", work / "g.h5",
              "--targets", f"{x},{y}", "--trials", 5, "--seed", 3)  # fmt: skip
    assert made["trials"] == 5
    generated = io.load(work / "g.h5")
    assert len(generated.trials) == 5 and generated.channels == day.channels and "seed 3" in generated.meta[GENERATED]
    assert "generated" in ok(capsys, "inspect", work / "g.h5")["meta"]
    # the very trials that retraining would add
    stored = store.load(work / "m")
    added = stored.model.full.towards(stored.model.start(stored.cuts(day)), np.array([[x, y]]), 5, 3)[0]
    np.testing.assert_array_equal(generated.counts, added.counts.reshape(-1, len(day.channels)))
    for words in (
        ("evaluate", small_bundle.path, work / "g.h5"),
        ("recalibrate", small_bundle.path, work / "g.h5", "--out", work / "no"),
        ("retrain", small_bundle.path, work / "g.h5", "--out", work / "no"),
        ("train", work / "g.h5", "--out", work / "no"),
        ("augment", "train", work / "g.h5", "--out", work / "no"),
    ):
        assert "expected recorded trials, found generated ones" in fault(capsys, *words), words
        assert not (work / "no").exists()
    asked = ok(capsys, "evaluate", small_bundle.path, work / "g.h5", "--allow-generated")
    assert asked["generated_trials"] is True
    free = ok(capsys, "augment", "generate", work / "m", "--like", work / "dayk.h5", "--out", work / "f.h5", "--trials", 4,
              "--move", "speed=0.1")  # fmt: skip
    assert free["trials"] == 4


def test_a_bundle_is_retrained_with_a_model_and_without(work: Path, small_bundle: Bundle, capsys: Capture) -> None:
    plain = ok(capsys, "retrain", small_bundle.path, work / "dayk.h5", "--trials", ":30", "--out", work / "b1")
    assert plain["ratio"] == 0 and plain["generation"] == small_bundle.manifest.generation + 1
    helped = ok(capsys, "retrain", small_bundle.path, work / "dayk.h5", "--augment", work / "m", "--out", work / "b2")
    assert (plain["trials"], plain["not_in_model"]) == (30, 0)
    rewarded = len(io.load(work / "dayk.h5").rewarded())
    assert (helped["trials"], helped["not_in_model"]) == (30, rewarded - 30)  # all of the day's were asked for
    assert main([str(w) for w in ("retrain", small_bundle.path, work / "dayk.h5", "--augment", work / "m", "--trials", ":32",
                 "--out", work / "b3")]) == 0  # fmt: skip
    assert "(30 trials of 32, those that the model was trained on; " in capsys.readouterr().out
    assert set(helped["held_out_r2"]) == {"0", "0.25", "0.5", "1", "2"} and 0 <= helped["yields"]["kept"] <= 1
    before = ok(capsys, "evaluate", small_bundle.path, work / "dayk.h5", "--trials", "30:")["r2"]
    for name in ("b1", "b2"):
        assert ok(capsys, "evaluate", work / name, work / "dayk.h5", "--trials", "30:")["r2"] > before


def test_what_does_not_fit_is_one_sentence(work: Path, small_bundle: Bundle, capsys: Capture) -> None:
    generate = ("augment", "generate", work / "m", "--out", work / "no.h5", "--like")
    assert "its codes mean nothing here" in fault(capsys, *generate, work / "day0.h5")
    assert "nearest supported" in fault(capsys, *generate, work / "dayk.h5", "--targets", "1000,0")
    assert "expected points such as" in fault(capsys, *generate, work / "dayk.h5", "--targets", "east")
    assert "did you mean 'speed'" in fault(capsys, *generate, work / "dayk.h5", "--move", "sped=1")
    assert "expected NAME=BY" in fault(capsys, *generate, work / "dayk.h5", "--move", "speed")
    assert "outside the support; largest supported" in fault(capsys, *generate, work / "dayk.h5", "--move", "speed=50000")
    for by in ("nan", "inf"):
        assert "expected a finite number" in fault(capsys, *generate, work / "dayk.h5", "--move", f"speed={by}")
    assert "expected finite coordinates" in fault(capsys, *generate, work / "dayk.h5", "--targets", "inf,0")
    assert not (work / "no.h5").exists()
    few = ("augment", "train", work / "dayk.h5", "--out", work / "few", "--config", work / "tiny.yaml", "--trials", ":5")
    assert "at least 8 rewarded trials" in fault(capsys, *few)
    assert not (work / "few").exists() and not (work / "few.partial").exists()
    plain = ("retrain", small_bundle.path, work / "dayk.h5", "--out", work / "no", "--targets")
    assert "expected --augment MODEL with it" in fault(capsys, *plain, "10,0")
    assert "expected points such as" in fault(capsys, *plain, "", "--augment", work / "m")
    other = ("retrain", small_bundle.path, work / "dayk.h5", "--augment", work / "m", "--trials", ":20", "--out", work / "no")
    assert "was trained on among the 20 to retrain on, found 10 of them left out" in fault(capsys, *other)
    assert "already exists" in fault(capsys, "augment", "train", work / "dayk.h5", "--out", work / "m")


def test_the_same_counts_with_other_labels_are_refused(work: Path, small_bundle: Bundle, capsys: Capture) -> None:
    day = io.load(work / "dayk.h5")
    assert day.kinematics is not None and day.trials.target is not None
    t = day.trials
    fewer = Trials(t.start_s[:9], t.go_s[:9], t.end_s[:9], t.success[:9], t.target[:9])
    for name, other in (
        ("negated", replace(day, kinematics=-day.kinematics, trials=replace(t, target=-day.trials.target))),
        ("fewer", replace(day, trials=fewer)),
    ):
        io.save(other, work / f"{name}.h5")
        for words in (
            ("augment", "generate", work / "m", "--like", work / f"{name}.h5", "--out", work / "no.h5"),
            ("retrain", small_bundle.path, work / f"{name}.h5", "--augment", work / "m", "--out", work / "no"),
            ("augment", "report", work / "m", work / f"{name}.h5", "--out", work / "no"),
        ):
            assert "found the same counts with other kinematics, trials" in fault(capsys, *words), words
    assert not (work / "no").exists() and not (work / "no.h5").exists()


def test_a_recorded_day_and_a_model_are_never_replaced(work: Path, capsys: Capture) -> None:
    day = work / "dayk.h5"
    before = day.read_bytes()
    (work / "link.h5").symlink_to(day)
    generate = ("augment", "generate", work / "m", "--force", "--like", day, "--out")
    for out in (day, work / "m" / ".." / "dayk.h5", work / "link.h5"):
        assert "expected another file than the recorded session" in fault(capsys, *generate, out)
    assert "outside the model's directory" in fault(capsys, *generate, work / "m" / "model.json")
    assert day.read_bytes() == before


def test_a_target_that_is_moved_is_the_one_that_trials_are_for(work: Path, capsys: Capture) -> None:
    day = io.load(work / "dayk.h5")
    assert day.trials.target is not None
    x, y = day.trials.target[day.rewarded()[0]]
    by = -0.2 * x if abs(x) > 1 else 0.5
    ok(capsys, "augment", "generate", work / "m", "--like", work / "dayk.h5", "--out", work / "moved.h5", "--targets", f"{x},{y}",
       "--trials", 2, "--move", f"target x={by}")  # fmt: skip
    made = io.load(work / "moved.h5").trials.target
    assert made is not None and made[0] == pytest.approx([x + by, y])
    far = ("augment", "generate", work / "m", "--like", work / "dayk.h5", "--out", work / "no.h5", "--targets", f"{x},{y}")
    assert "outside the support" in fault(capsys, *far, "--move", f"target y={np.copysign(8, y)}")


def test_another_s_directory_is_left_alone(work: Path, capsys: Capture) -> None:
    train = ("augment", "train", work / "dayk.h5", "--config", work / "tiny.yaml", "--trials", ":30", "--out")
    (work / "m3.partial").write_text("a file")
    assert "checkpoints of an interrupted training, found a file" in fault(capsys, *train, work / "m3")
    (work / "m3.partial").unlink()
    (work / "m3.partial").mkdir()
    (work / "m3.partial" / "notes.txt").write_text("mine")
    made = ok(capsys, *train, work / "m3")
    assert made["resumed"] is False
    assert [p.name for p in (work / "m3.partial").iterdir()] == ["notes.txt"]


def test_where_nothing_can_be_written_is_said_before_training(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Path, "mkdir", lambda self, *a, **k: full(self) if self.suffix == ".partial" else None)
        told = fault(capsys, "augment", "train", work / "dayk.h5", "--config", work / "tiny.yaml", "--out", work / "m4")
    assert "m4: cannot be written (No space left on device)" in told


def test_the_report_holds_every_measure_and_figure(work: Path, capsys: Capture) -> None:
    made = ok(capsys, "augment", "report", work / "m", work / "dayk.h5", "--out", work / "r")
    assert {"code SNR, target", "traversal: slope", "realism: population KL", "floor: population KL"} <= set(made["measures"])
    assert {p.name for p in (work / "r").iterdir()} == {
        "measures.json", "codes.png", "traversal.png", "neurons.png", "realism.png", "overview.png",
    }  # fmt: skip


def test_an_interrupted_training_goes_on(work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("augment", "train", work / "dayk.h5", "--out", work / "m2", "--config", work / "tiny.yaml", "--trials", ":30")
    kept = checkpoints.CheckpointFile.save

    def stop(self: checkpoints.CheckpointFile, state: Any) -> None:
        kept(checkpoints.CheckpointFile(self.path, self.identity, 1), state)
        if int(state["epoch"]) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.CheckpointFile, "save", stop)
        assert main([str(w) for w in words]) == 130
    assert (work / "m2.partial").is_dir() and not (work / "m2").exists()
    capsys.readouterr()
    done = ok(capsys, *words)
    assert done["resumed"] is True and not (work / "m2.partial").exists()
    for name in ("full.safetensors", "proof.safetensors"):
        assert (work / "m2" / name).read_bytes() == (work / "m" / name).read_bytes()
