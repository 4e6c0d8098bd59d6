from pathlib import Path

import numpy as np
import pytest

from bci_align.errors import BciAlignError, InterpretationError
from bci_align.interpretation.video import Recorded, check_new, check_rate, check_target, per_bin, read_frames, write_film


def film(n: int = 12, size: int = 32) -> np.ndarray:
    """A bright square that moves to the right on a dark ground, grey as RGB."""
    out = np.full((n, size, size + 8, 3), 20, np.uint8)
    for i in range(n):
        out[i, 10:20, 2 * i : 2 * i + 8] = 230
    return out


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    write_film(path, film(), 20.0)
    found = read_frames(path, 32)
    assert found.frames.shape == (12, 32, 40)
    assert found.rate == pytest.approx(20.0, rel=0.01)
    assert np.abs(found.frames - film()[..., 0] / 255).mean() < 0.02
    column = found.frames[:, 10:20].sum(1).argmax(1)
    assert (np.diff(found.frames[:, 10:20].mean(1) @ np.arange(40)) > 0).all() and column[-1] > column[0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_odd_size_is_filled_up_for_mp4(tmp_path: Path) -> None:
    write_film(tmp_path / "odd.mp4", film()[:, :31, :37], 10.0)
    assert read_frames(tmp_path / "odd.mp4", 32).frames.shape[0] == 12


def test_an_existing_film_is_not_overwritten(tmp_path: Path) -> None:
    write_film(tmp_path / "a.gif", film(), 20.0)
    with pytest.raises(InterpretationError, match="already exists"):
        write_film(tmp_path / "a.gif", film(), 20.0)


def test_another_suffix_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError, match=r"expected a film's name that ends in \.gif or \.mp4, found '\.avi'"):
        check_target(tmp_path / "a.avi")


@pytest.mark.parametrize("content", [b"", b"not a film at all", b"\x00" * 4000])
@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_an_unreadable_video_is_one_sentence(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InterpretationError, match=rf"{name}: expected a video .* cannot be read"):
        read_frames(tmp_path / name, 16)


def test_a_film_cut_short_is_one_sentence(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", film(), 20.0)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(InterpretationError, match=r"a\.mp4: expected a video"):
        read_frames(tmp_path / "a.mp4", 16)


def test_no_such_video(tmp_path: Path) -> None:
    with pytest.raises(BciAlignError, match="no such file"):
        read_frames(tmp_path / "none.mp4", 16)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 8), np.uint8), r"expected frames \(n, H, W\) or \(n, H, W, 3\), found shape \(4, 8\)"),
        (np.zeros((4, 8, 8), np.int64), "expected frames of uint8 or floats in 0..1, found dtype int64"),
        (np.full((4, 8, 8), 7.0), "expected values in 0..1, found others in frame 0"),
        (np.full((4, 8, 8), np.nan), "expected values in 0..1, found others in frame 0"),
        (np.array([{"a": 1}]), "expected an array of frames, cannot be read"),
    ],
)
def test_an_array_that_is_no_film_is_one_sentence(tmp_path: Path, array: np.ndarray, found: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InterpretationError, match=found):
        read_frames(tmp_path / "a.npy", 8)


def test_arrays_of_grey_and_colour_are_read_alike(tmp_path: Path) -> None:
    colour = film()
    np.save(tmp_path / "colour.npy", colour)
    np.save(tmp_path / "grey.npy", colour[..., 0].astype(np.float32) / 255)
    a, b = (read_frames(tmp_path / f"{n}.npy", 16) for n in ("colour", "grey"))
    assert a.rate is None and a.frames.shape == (12, 16, 20)
    assert a.frames == pytest.approx(b.frames, abs=1e-5)


def recorded(n: int, rate: float | None) -> Recorded:
    return Recorded(np.arange(n, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32), rate)


def test_frames_and_bins_must_agree() -> None:
    where = Path("cam.mp4")
    assert len(per_bin(recorded(100, 20.0), 100, 0.05, where, False)) == 100
    with pytest.raises(InterpretationError, match=r"cam\.mp4: expected 100 frames, one per bin of the session, found 99"):
        per_bin(recorded(99, 20.0), 100, 0.05, where, False)
    with pytest.raises(InterpretationError, match=r"expected 20 frames per second, the rate of the bins, found 30; --resample"):
        per_bin(recorded(100, 30.0), 100, 0.05, where, False)


def test_resampling_takes_the_frame_of_the_bin_s_middle() -> None:
    where = Path("cam.mp4")
    got = per_bin(recorded(150, 30.0), 100, 0.05, where, True)
    assert got[:, 0, 0].tolist()[:5] == [0, 2, 3, 5, 6]
    with pytest.raises(InterpretationError, match=r"expected 5 s of film as in the session, found 4 s \(120 frames at 30 Hz\)"):
        per_bin(recorded(120, 30.0), 100, 0.05, where, True)


def test_frames_far_longer_than_wide_are_one_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 1, 400), np.uint8))
    with pytest.raises(InterpretationError, match=r"longer side is at most 8 times the shorter, found 1 x 400 pixels"):
        read_frames(tmp_path / "a.npy", 8)


def test_a_gif_tells_its_rate_or_refuses_it(tmp_path: Path) -> None:
    assert check_rate(Path("a.gif"), 20) == 20 and check_rate(Path("a.gif"), 30) == pytest.approx(100 / 3)
    assert check_rate(Path("a.mp4"), 60) == 60
    with pytest.raises(InterpretationError, match="expected at most 50 frames per second in a GIF, found 60"):
        write_film(tmp_path / "a.gif", film(), 60)
    assert not list(tmp_path.iterdir())


def test_a_film_that_is_there_is_told_of_before_sampling(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"")
    check_new(tmp_path / "a.gif", True)
    with pytest.raises(InterpretationError, match="already exists"):
        check_new(tmp_path / "a.gif", False)
    with pytest.raises(InterpretationError, match="does not exist"):
        check_new(tmp_path / "nowhere" / "a.gif", False)
