import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align import config
from bci_align.errors import ConfigError, SessionError
from bci_align.session import io, npz
from bci_align.session.importing import import_file
from bci_align.session.importmap import ImportMap
from bci_align.session.types import Session

ISOMETRIC = Path(__file__).resolve().parents[2] / "configs" / "import" / "isometric.yaml"

MAP: dict[str, Any] = {
    "format": "npz",
    "counts": {"array": "spikes"},
    "bin_s": "width",
    "channels": {"array": "electrode", "prefix": "e"},
    "kinematics": {
        "array": "hand",
        "names": ["x", "y"],
        "units": ["cm", "cm"],
        "zero": {"event": "move_s", "before_s": 0.2},
    },
    "trials": {
        "start": "from_s",
        "go": "move_s",
        "end": "to_s",
        "success": {"array": "result", "equals": "R"},
        "target": "goal",
    },
    "subject": "S1",
    "meta": {"citation": "nobody, 2026"},
}


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    hand = rng.normal(size=(100, 2)) + np.array([5.0, -40.0])
    return {
        "spikes": rng.integers(0, 5, (100, 3)).astype(np.uint8),
        "width": np.float64(0.1),
        "electrode": np.array([4, 8, 15]),
        "hand": hand,
        "from_s": np.array([1.0, 3.0, 5.0]),
        "move_s": np.array([2.0, 4.0, np.nan]),
        "to_s": np.array([2.5, 4.5, 6.5]),
        "result": np.array(["R", "F", "R"]),
        "goal": np.zeros((3, 2)),
    }


def brought_in(tmp_path: Path, changes: dict[str, Any] | None = None, **keys: Any) -> Session:
    """Import a synthetic file with some arrays changed (None removes one) and some of the map's keys changed."""
    content = {k: v for k, v in (arrays() | (changes or {})).items() if v is not None}
    np.savez_compressed(tmp_path / "day.npz", **content)
    return import_file(tmp_path / "day.npz", ImportMap.model_validate(MAP | keys))


def test_every_array_arrives(tmp_path: Path) -> None:
    session, content = brought_in(tmp_path), arrays()
    assert np.array_equal(session.counts, content["spikes"]) and session.counts.dtype == np.int32
    assert session.bin_s == 0.1 and session.channels == ("e4", "e8", "e15") and session.name == "day"
    assert np.array_equal(session.trials.start_s, content["from_s"]) and np.isnan(session.trials.go_s[2])
    assert np.array_equal(session.trials.end_s, content["to_s"]) and session.trials.success.tolist() == [True, False, True]
    assert session.trials.target is not None and session.trials.target.shape == (3, 2)
    # Two bins before 2.0 s and two before 4.0 s; the third trial has no go cue.
    rest = np.median(content["hand"][[18, 19, 38, 39]], axis=0)
    assert session.kinematics is not None and session.kinematics.dtype == np.float32
    assert np.allclose(session.kinematics, content["hand"] - rest, atol=1e-5)
    assert session.kinematics_names == ("x", "y") and session.kinematics_units == ("cm", "cm")
    assert session.meta["citation"] == "nobody, 2026" and session.meta["subject"] == "S1"
    assert session.meta["source_file"] == "day.npz" and len(session.meta["source_sha256"]) == 64
    assert session.meta["kinematics_zero"].startswith("median of the 0.2 s before move_s subtracted: x ")


def test_the_least_that_a_map_may_say(tmp_path: Path) -> None:
    trials = {"start": "from_s", "end": "to_s", "success": "all"}
    session = brought_in(tmp_path, kinematics=None, channels={}, bin_s=0.1, trials=trials, name="mine")
    assert session.channels == ("1", "2", "3") and session.kinematics is None and session.name == "mine"
    assert session.trials.success.all() and np.isnan(session.trials.go_s).all() and session.trials.target is None
    path = tmp_path / "day.npz"
    assert import_file(path, ImportMap.model_validate(MAP), name="other").name == "other"


def test_scaled_means_become_counts(tmp_path: Path) -> None:
    counts = np.arange(300).reshape(100, 3) % 40
    scaled = {"array": "spikes", "scale": 13}
    session = brought_in(tmp_path, {"spikes": (counts / 13).astype(np.float32)}, counts=scaled)
    assert np.array_equal(session.counts, counts)
    with pytest.raises(SessionError, match=r"expected whole spike counts after scaling by 13, found 6\.5 in bin 0, channel 0"):
        brought_in(tmp_path, {"spikes": np.full((100, 3), 0.5)}, counts=scaled)


def trials(**keys: Any) -> dict[str, Any]:
    return {"trials": MAP["trials"] | keys}


def kinematics(**keys: Any) -> dict[str, Any]:
    return {"kinematics": MAP["kinematics"] | keys}


def test_the_difference_between_bins(tmp_path: Path) -> None:
    continuous = brought_in(tmp_path, **kinematics(zero=None, difference=True)).kinematics
    assert continuous is not None and not continuous[0].any()
    np.testing.assert_allclose(continuous[1:], np.diff(arrays()["hand"], axis=0) / 0.1, rtol=1e-4, atol=1e-4)


FAULTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {"counts": {"array": "spike"}},
        "counts.array: no array 'spike'; the nearest is 'spikes', and the file holds spikes, wi",
    ),
    ({}, trials(go="moves"), "trials.go: no array 'moves'; the nearest is 'move_s'"),
    ({"spikes": None}, {}, "counts.array: no array 'spikes'"),
    ({"spikes": np.ones((100, 3), object)}, {}, "array 'spikes' is pickled; pickles are never read"),
    ({"spikes": np.full((100, 3), 0.5)}, {}, "counts.array 'spikes': expected whole spike counts, found 0.5"),
    ({"spikes": np.full((100, 3), -1)}, {}, "expected no negative spike counts"),
    ({"spikes": np.ones((4, 25, 3))}, {}, r"counts.array: expected 2 axes in array 'spikes', found shape \(4, 25, 3\)"),
    ({"spikes": np.full((100, 3), "a")}, {}, "counts.array: expected numbers in array 'spikes'"),
    ({"width": np.ones(2)}, {}, "bin_s: expected a single number"),
    ({"width": np.nan}, {}, "bin_s: expected a positive number of seconds, found nan"),
    ({}, {"bin_s": -0.1}, "bin_s: expected a positive number"),
    ({"electrode": np.ones((3, 1), int)}, {}, "channels.array: expected a list of labels"),
    ({"electrode": np.arange(4)}, {}, "channels: expected 3 labels"),
    ({"electrode": np.zeros(3, int)}, {}, "channels: expected unique labels, found 'e0' more than once"),
    ({"hand": np.zeros((99, 2))}, {}, "kinematics.array: expected 100 rows, one per bin, found 99"),
    ({"hand": np.full((100, 2), np.nan)}, {}, "kinematics: expected finite values"),
    ({"hand": np.full((100, 2), 1e300)}, kinematics(zero=None), "kinematics: expected finite values"),
    ({}, kinematics(names=["x"]), "kinematics: expected 2 names and units"),
    ({}, kinematics(zero={"event": "move_s", "before_s": 0.01}), "kinematics.zero.before_s: expected at least one bin"),
    ({"move_s": np.full(3, 0.1)}, {}, "kinematics.zero.event: expected times in seconds inside the recording"),
    (
        {},
        trials(success={"array": "result", "equals": "ok"}),
        "success.equals: expected 'ok' in array 'result', found only 'R', 'F'",
    ),
    ({}, trials(success={"array": "result", "equals": 1}), "success.equals: expected 1 in"),
    ({"result": np.ones((3, 2))}, {}, "success.array: expected one entry per trial"),
    ({"result": np.array(["R", "F"])}, {}, "trials.success: expected 3 values"),
    ({"to_s": np.array([2.5, np.nan, 6.5])}, {}, "trials: expected finite start and end times"),
    ({"to_s": np.array([2.5, 4.5, 99.0])}, {}, "trials: expected times inside the recording"),
]


@pytest.mark.parametrize(("changes", "keys", "sentence"), FAULTS, ids=[f[2][:40] for f in FAULTS])
def test_each_fault_is_one_sentence(tmp_path: Path, changes: dict[str, Any], keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SessionError, match=rf"day\.npz: .*{sentence}") as e:
        brought_in(tmp_path, changes, **keys)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"format": "nwb"}, "format: 'nwb' is not read yet; expected 'npz'"),
        ({"format": "nzp"}, "format: expected 'npz', found 'nzp'"),
        ({"trials": {"start": "from_s", "end": "to_s"}}, r"missing key 'trials\.success'; only with layout 'trials'"),
        ({"trials": {"end": "to_s", "success": "all"}}, r"missing key 'trials\.start'"),
        ({"layout": "trials"}, r"key 'trials\.start': expected none with layout 'trials', where every row is a trial"),
        (
            {"layout": "trials", "trials": {"success": {"array": "result", "equals": "R"}}},
            r"key 'trials\.success': expected none",
        ),
        ({"layout": "trials", "trials": {}}, r"key 'kinematics\.zero': expected none with layout 'trials'"),
        ({"meta": {"subject": "S2"}}, r"key 'meta\.subject': .*the import fills this one in"),
    ],
)
def test_faults_of_the_map(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        brought_in(tmp_path, **keys)


@pytest.mark.parametrize(("content", "labels"), [(np.array([True, False, True]), True), (np.array([1, 0, 1]), 1)])
def test_success_may_be_a_flag(tmp_path: Path, content: Any, labels: Any) -> None:
    session = brought_in(tmp_path, {"result": content}, **trials(success={"array": "result", "equals": labels}))
    assert session.trials.success.tolist() == [True, False, True]


def header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        (header("(1099511627776, 96)"), "expected at most 16 GiB"),
        (header("(1000000, 96)"), "expected 96000000 bytes .* found 0 in the zip"),
        (header("(-1, -300)") + b"x" * 300, "expected 300 bytes"),
        (header("(2, 2)", "|O") + b"x" * 32, "is pickled"),
        (header("(4, 4)", "<f4")[:20], "is damaged or cut short"),
        (b"\x93NUMPY\x03\x00" + header("(4, 4)")[8:], r"expected \.npy version 1\.0 or 2\.0"),
        (b"nothing like it", "is damaged or cut short"),
        (bytes(10**8), "claims 100000000 bytes"),
    ],
)
def test_hostile_members_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: bytes, sentence: str
) -> None:
    monkeypatch.setattr(npz, "_BEST_RATIO", 100)  # zlib's zeros come close to the true limit, not beyond it
    with zipfile.ZipFile(tmp_path / "day.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("spikes.npy", member)
    with pytest.raises(SessionError, match=rf"day\.npz: array 'spikes'.* {sentence}"):
        import_file(tmp_path / "day.npz", ImportMap.model_validate(MAP | {"bin_s": 0.1}))


def test_cut_and_altered_files_give_a_session_or_one_error(tmp_path: Path) -> None:
    brought_in(tmp_path)
    path, model = tmp_path / "day.npz", ImportMap.model_validate(MAP)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for offset in np.linspace(0, len(whole) - 1, 100).astype(int).tolist():
        path.write_bytes(whole[:offset])
        with pytest.raises(SessionError):
            import_file(path, model)
        altered = bytearray(whole)
        altered[offset] ^= int(rng.integers(1, 256))
        path.write_bytes(altered)
        try:
            import_file(path, model)
        except SessionError as e:
            assert "day.npz" in str(e)


@pytest.mark.parametrize("name", ["day.npz", "day.pkl", "day.pt"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SessionError, match=rf"{name}: expected a NumPy \.npz file, found a Python pickle, which is never read"):
        import_file(tmp_path / name, ImportMap.model_validate(MAP))
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(("day", "trials_n", "rewarded", "bins"), [(0, 299, 296, 24000), (16, 224, 224, 18000)])
def test_the_isometric_days(tmp_path: Path, data_dir: Path, day: int, trials_n: int, rewarded: int, bins: int) -> None:
    source = data_dir / f"isometric_day{day}.npz"
    session = import_file(source, config.load(ImportMap, ISOMETRIC))
    assert session.counts.shape == (bins, 96) and session.bin_s == 0.05 and session.channels[0] == "elec1"
    assert len(session.trials) == trials_n and len(session.rewarded()) == rewarded
    assert session.kinematics_names == ("fx", "fy") and session.trials.target is not None
    with np.load(source, allow_pickle=False) as z:
        holds = np.floor((z["outer_target_s"] + 1e-6) / 0.05).astype(int)
        force = z["force"]
    # The centre hold is at zero now, and was not.
    rest = np.concatenate([np.arange(h - 3, h) for h in holds])
    assert session.kinematics is not None
    assert np.abs(np.median(session.kinematics[rest], axis=0)).max() < 1e-3
    assert np.abs(np.median(force[rest], axis=0)).min() > 100
    io.save(session, tmp_path / "day.h5")
    again = io.load(tmp_path / "day.h5")
    assert np.array_equal(again.counts, session.counts) and again.meta == session.meta


def test_outputs_of_two_arrays_lie_side_by_side(tmp_path: Path) -> None:
    emg = np.arange(100.0)[:, None]
    keys = {"array": ["hand", "emg"], "names": ["x", "y", "flexor"], "units": ["cm", "cm", "mV"]}
    session = brought_in(tmp_path, {"emg": emg}, kinematics=keys)
    assert session.kinematics is not None and session.kinematics_names == ("x", "y", "flexor")
    assert np.allclose(session.kinematics, np.concatenate([arrays()["hand"], emg], axis=1), atol=1e-5)
    with pytest.raises(SessionError, match=r"kinematics\.array: expected 100 rows, one per bin, found 99"):
        brought_in(tmp_path, {"emg": emg[1:]}, kinematics=keys)


def test_the_isometric_day_with_its_muscles(data_dir: Path) -> None:
    """The same counts as without: bundles of the one are compared on factors of the other."""
    file = data_dir / "isometric_day0.npz"
    plain, emg = (
        import_file(file, config.load(ImportMap, ISOMETRIC.with_name(f"{name}.yaml"))) for name in ("isometric", "isometric_emg")
    )
    assert plain.fingerprint() == emg.fingerprint() and plain.channels == emg.channels
    assert plain.kinematics is not None and emg.kinematics is not None
    assert emg.kinematics_names[:3] == ("fx", "fy", "FCRr") and emg.kinematics.shape[1] == 16
    assert np.array_equal(plain.kinematics, emg.kinematics[:, :2])
