import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.augmentation import checkpoints, store
from bci_align.augmentation.model import Model, hold_out, outermost, train
from bci_align.augmentation.trials import TrialSet
from bci_align.errors import AugmentationError, MismatchError, SessionError
from bci_align.session.types import GENERATED, Session, Trials

from .conftest import TINY

Days = tuple[Session, Session]


@pytest.fixture(scope="module")
def saved(model: Model, small_days: Days, tmp_path_factory: pytest.TempPathFactory) -> store.Stored:
    return store.save(model, small_days[0], tmp_path_factory.mktemp("model") / "m")


def test_a_model_comes_back_as_it_was(saved: store.Stored, model: Model, small_days: Days, cuts: TrialSet) -> None:
    back = saved.model
    for a, b in ((back.full, model.full), (back.proof, model.proof)):
        assert np.array_equal(a.space.encode(cuts), b.space.encode(cuts))
        made, again = (g.towards(cuts, cuts.conditions()[0][:2], 3, 5)[0] for g in (a, b))
        assert np.array_equal(made.counts, again.counts) and np.array_equal(made.kinematics, again.kinematics)
        drawn = [g.prior.draw(4, np.random.default_rng(1)) for g in (a, b)]
        assert a.encoding is not None and b.encoding is not None and a.encoding.lags == b.encoding.lags
        assert np.array_equal(a.encoding.rates(cuts.kinematics), b.encoding.rates(cuts.kinematics))
        assert np.array_equal(*drawn) and np.array_equal(a.target_of(drawn[0]), b.target_of(drawn[0]))
    assert np.array_equal(back.trials, model.trials) and np.array_equal(back.held_out, model.held_out)
    assert len(saved.cuts(small_days[0])) == len(cuts)


def test_another_session_s_codes_are_refused(saved: store.Stored, small_days: Days) -> None:
    with pytest.raises(MismatchError, match=r"whose|its codes mean nothing here"):
        saved.cuts(small_days[1])
    day = small_days[0]
    with pytest.raises(MismatchError, match=r"channels: expected 32 as in .*, found 31"):
        saved.cuts(replace(day, counts=day.counts[:, 1:], channels=day.channels[1:]))
    with pytest.raises(MismatchError, match=r"bin width: expected 0.05"):
        saved.cuts(replace(day, bin_s=0.04))


def test_the_same_counts_with_other_labels_are_another_session(saved: store.Stored, small_days: Days) -> None:
    day = small_days[0]
    assert day.kinematics is not None and day.trials.target is not None
    t = day.trials
    fewer = Trials(t.start_s[:9], t.go_s[:9], t.end_s[:9], t.success[:9], t.target[:9])
    others = (
        replace(day, kinematics=-day.kinematics),
        replace(day, trials=replace(t, target=-t.target)),
        replace(day, trials=fewer),
    )
    for other in others:
        with pytest.raises(MismatchError, match="found the same counts with other kinematics, trials, targets or names"):
            saved.cuts(other)
    ids = {checkpoints.training_identity(d, [0, 1], TINY, 0, "trials") for d in (day, *others)}
    assert len(ids) == 4


def copied(saved: store.Stored, to: Path) -> dict[str, Any]:
    for file in saved.path.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    content: dict[str, Any] = json.loads((to / "model.json").read_bytes())
    return content


def sealed(content: dict[str, Any], to: Path) -> None:
    data = json.dumps(content).encode()
    (to / "model.json").write_bytes(data)
    (to / "model.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")


def test_an_edited_model_is_refused(saved: store.Stored, tmp_path: Path) -> None:
    content = copied(saved, tmp_path)
    store.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(content | {"held_out": [0, 1, 2]}))
    with pytest.raises(AugmentationError, match=r"model.json: expected SHA-256 .* as in model.sha256"):
        store.load(tmp_path)
    sealed(content | {"version": 3}, tmp_path)
    with pytest.raises(AugmentationError, match="expected version 4, found 3"):
        store.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"held_out": [999]}, "held_out: expected some, not all"),
        ({"held_out": [0, 0]}, "held_out: expected some, not all"),
        ({"held_out": [-1]}, "held_out: expected some, not all"),
        ({"trials": [0, 0]}, "trials: expected different places"),
        ({"bin_s": 1e-300}, "bin_s"),
        ({"variables": ["speed"]}, r"navigator.mean: expected a tensor of shape \(1,\), found \(5,\)"),
        ({"variables": ["pace"]}, "variables: expected different ones of"),
        ({"units": ["cm"]}, "units: expected 2 values"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(
    saved: store.Stored, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    sealed(copied(saved, tmp_path) | change, tmp_path)
    with pytest.raises(AugmentationError, match=told):
        store.load(tmp_path)


def test_a_tensor_that_does_not_fit_is_named(saved: store.Stored, tmp_path: Path) -> None:
    content = copied(saved, tmp_path)
    content["config"]["code"] = 7
    sealed(content, tmp_path)
    with pytest.raises(
        AugmentationError, match=r"tensor 'encoder\.\S+: expected float32 of shape \(.*\), found float32 of shape \(.*\)$"
    ):
        store.load(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.sha256", "full.safetensors", "proof.safetensors"])
def test_damage_is_seen_and_told(saved: store.Stored, tmp_path: Path, name: str) -> None:
    for file in saved.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    if name == "model.json":
        (tmp_path / name).write_text(json.dumps({"format": "other"}))
    with pytest.raises(AugmentationError, match=name):
        store.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(AugmentationError, match=f"{name}: expected a plain file of the trial model, found nothing"):
        store.load(tmp_path)


def test_nothing_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(AugmentationError, match=r"no such trial model directory"):
        store.load(tmp_path / "none")


def test_an_interrupted_training_goes_on_to_the_same_model(
    small_days: Days, model: Model, cuts: TrialSet, tmp_path: Path
) -> None:
    day = small_days[0]
    identity = checkpoints.training_identity(day, day.rewarded(), TINY, 0, "trials")

    class Stops(checkpoints.CheckpointFile):
        def save(self, state: dict[str, object]) -> None:  # type: ignore[override]
            super().save(state)  # type: ignore[arg-type]
            if int(state["epoch"]) == 4:  # type: ignore[call-overload]
                raise KeyboardInterrupt

    def keep(kind: type[checkpoints.CheckpointFile]) -> object:
        return lambda stage: kind(tmp_path / f"{stage}.safetensors", identity, 2)

    with pytest.raises(KeyboardInterrupt):
        train(day, day.rewarded(), TINY, 0, keep=keep(Stops))  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["all trials.safetensors"]
    again = train(day, day.rewarded(), TINY, 0, keep=keep(checkpoints.CheckpointFile))  # type: ignore[arg-type]
    assert np.array_equal(again.full.space.encode(cuts), model.full.space.encode(cuts))
    other = checkpoints.CheckpointFile(tmp_path / "all trials.safetensors", "another")
    with pytest.raises(AugmentationError, match="found another training's; delete it"):
        other.load()
    (tmp_path / "all trials.safetensors").write_bytes(b"half a file")
    with pytest.raises(AugmentationError, match="not a checkpoint that can be read"):
        other.load()


def test_the_twin_has_not_seen_what_is_held_out(cuts: TrialSet, model: Model) -> None:
    out = hold_out(cuts, "trials", 0.25, 0, TINY)
    assert len(out) == round(0.25 * len(cuts))
    assert np.array_equal(out, model.held_out)
    assert not np.array_equal(model.full.space.encode(cuts), model.proof.space.encode(cuts))
    few = [len(hold_out(cuts.of(np.arange(n)), "trials", 0.25, 0, TINY)) for n in (10, 14, 18, 24)]
    assert few == [2, 6, 8, 8]
    known, which = cuts.conditions()
    gone = hold_out(cuts, "target", 0.25, 0, TINY)
    whole = [k for k in range(len(known)) if np.isin(np.flatnonzero(which == k), gone).all()]
    assert len(whole) == 2 and np.array_equal(gone, np.flatnonzero(np.isin(which, whole)))
    few = cuts.of(np.arange(10))
    with pytest.raises(AugmentationError, match=r"hold-out of \d of 10 trials: expected at least 8 others .*, found [4-7]$"):
        hold_out(few, "trials", 0.5, 0, TINY)
    half = 10 * np.c_[np.cos(np.arange(5) * np.pi / 4), np.sin(np.arange(5) * np.pi / 4)]
    assert {tuple(sorted(outermost(half, s)[:2])) for s in range(8)} == {(0, 4)}  # both shores of the gap


@pytest.mark.parametrize(
    ("trials", "gone"),
    [
        ([15, 15, 15, 15, 15], {0, 4}),
        ([15, 15, 15, 15, 1], {0, 4}),  # a shore of one trial takes no neighbour where three targets would not be left
        ([15, 15, 15, 15], {0}),
        ([2, 2, 2, 2, 96], {0, 1}),  # nor one with most of the trials
    ],
)
def test_shores_leave_three_targets_and_half_of_the_trials(cuts: TrialSet, trials: list[int], gone: set[int]) -> None:
    line = np.array([[-10.0, 0], [-6, 0], [1, 0], [4, 0], [10, 0]])[: len(trials)]
    target = np.repeat(line, trials, 0)
    some = replace(cuts.of(np.arange(len(target)) % len(cuts)), target=target)
    out = hold_out(some, "target", 0.25, 0, TINY)
    assert set(np.unique(np.searchsorted(line[:, 0], target[out, 0]))) == gone


def test_where_every_trial_has_a_target_of_its_own_some_are_held_out(cuts: TrialSet) -> None:
    own = replace(cuts, target=np.random.default_rng(0).uniform(-1, 1, cuts.target.shape))
    out = hold_out(own, "trials", 0.25, 0, TINY)
    assert len(out) == len(set(out)) == round(0.25 * len(cuts))
    gone = hold_out(own, "target", 0.25, 0, TINY)
    known = own.conditions()[0]
    first = np.argsort(np.linalg.norm(own.target - known[outermost(known, 0)[0]], axis=1))[:4]
    assert set(first) <= set(gone) and len(gone) == 8  # two corners of the workspace have no trial left
    left = np.setdiff1d(np.arange(len(own)), first)
    nearest = [left[np.argsort(np.linalg.norm(own.target[left] - t, axis=1))[:4]] for t in own.target[left]]
    assert any(set(n) == set(gone) - set(first) for n in nearest)
    some = replace(cuts, target=np.concatenate([own.target[:-20], np.repeat(own.target[-1:], 20, 0)]))
    mixed = hold_out(some, "trials", 0.25, 0, TINY)
    assert len(mixed) == round(0.25 * len(cuts)) and 1 <= np.isin(np.arange(len(cuts) - 20, len(cuts)), mixed).sum() < 20


def test_what_cannot_be_trained_on_is_said(small_days: Days) -> None:
    day = small_days[0]
    with pytest.raises(SessionError, match="found generated ones"):
        train(replace(day, meta={GENERATED: "by a test"}), day.rewarded(), TINY, 0)
    with pytest.raises(AugmentationError, match="at least 8 rewarded trials"):
        train(day, day.rewarded()[:5], TINY, 0)
    with pytest.raises(AugmentationError, match=r"earlier day .*: channels: expected those of"):
        train(day, day.rewarded(), TINY, 0, earlier=replace(day, channels=tuple(f"x{i}" for i in range(32))))
