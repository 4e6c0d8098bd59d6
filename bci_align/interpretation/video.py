"""Moving pictures in and out: mp4 and GIF read by PyAV, arrays by NumPy; mp4 written by PyAV, GIF by Pillow.

PyAV binds FFmpeg's libraries: every container and codec that a laboratory's camera writes, faults as exceptions instead of a
program's exit status, and no ``ffmpeg`` that must be on the path. GIFs are written by Pillow, which matplotlib brings anyway and
which chooses a palette per film.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bci_align.atomic import check_file, write_file
from bci_align.errors import InterpretationError
from bci_align.session.sniff import regular_file

Array = NDArray[np.float32]
SUFFIXES = (".gif", ".mp4")
MOST_FRAMES = 2_000_000
LONGEST = 8
"""Times that a frame may be as long as wide: its shorter side is what ``size`` fixes."""
FASTEST_GIF = 50
"""Frames per second: viewers slow down a GIF whose frames last less than two hundredths of a second."""
LEAST_CHANGE = 1e-3
"""Change of a pixel, of 0..1, below which pictures do not move: a quarter of a grey level."""


@dataclass(frozen=True)
class Recorded:
    """Frames (n, H, W) in 0..1, grey, reduced to the size asked for; ``rate`` frames per second, None where a file has none."""

    frames: Array
    rate: float | None


def read_frames(path: Path, size: int) -> Recorded:
    """Read a camera's frames, the shorter side reduced to ``size`` pixels and both to multiples of 4.

    ``.npy`` holds (n, H, W) or (n, H, W, 3), whole numbers 0..255 or floats 0..1; anything else must be a video that FFmpeg
    reads. :class:`InterpretationError` for a file that is neither, in one sentence.
    """
    regular_file(path)
    if path.suffix.lower() == ".npy":
        return Recorded(_array(path, size), None)
    frames = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InterpretationError(f"{path}: expected a video, found a file without pictures")
            stream = container.streams.video[0]
            rate = float(stream.average_rate) if stream.average_rate else None
            for frame in container.decode(stream):
                height, width = _target(frame.height, frame.width, size, path)
                frames.append(frame.reformat(width, height, "gray", interpolation="AREA").to_ndarray())
                if len(frames) > MOST_FRAMES:
                    raise InterpretationError(f"{path}: expected at most {MOST_FRAMES} frames, found more")
    except (av.error.FFmpegError, ValueError, OSError) as e:
        raise InterpretationError(f"{path}: expected a video (mp4, GIF) or .npy, cannot be read ({e})") from None
    if not frames:
        raise InterpretationError(f"{path}: expected a video with frames, found none")
    if len({f.shape for f in frames}) != 1:
        raise InterpretationError(f"{path}: expected frames of one size, found several")
    return Recorded(np.stack(frames).astype(np.float32) / np.float32(255), rate)


def _target(height: int, width: int, size: int, path: Path) -> tuple[int, int]:
    if max(height, width) > LONGEST * min(height, width):
        raise InterpretationError(
            f"{path}: expected frames whose longer side is at most {LONGEST} times the shorter, found {height} x {width} pixels"
        )
    share = size / min(height, width)
    return max(4 * round(height * share / 4), 4), max(4 * round(width * share / 4), 4)


def _array(path: Path, size: int) -> Array:
    try:
        raw = np.lib.format.open_memmap(path, mode="r")  # one array, neither a zip of some nor a pickle
    except (ValueError, OSError, EOFError) as e:
        raise InterpretationError(f"{path}: expected an array of frames, cannot be read ({e})") from None
    if raw.ndim not in (3, 4) or 0 in raw.shape or (raw.ndim == 4 and raw.shape[3] != 3):
        raise InterpretationError(f"{path}: expected frames (n, H, W) or (n, H, W, 3), found shape {raw.shape}")
    if raw.dtype != np.uint8 and raw.dtype.kind != "f":
        raise InterpretationError(f"{path}: expected frames of uint8 or floats in 0..1, found dtype {raw.dtype}")
    height, width = _target(raw.shape[1], raw.shape[2], size, path)
    out = np.empty((len(raw), height, width), np.float32)
    for i, frame in enumerate(raw):
        grey = np.asarray(frame, np.float32).mean(-1) if raw.ndim == 4 else np.asarray(frame, np.float32)
        if raw.dtype == np.uint8:
            grey = grey / 255
        if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
            raise InterpretationError(f"{path}: expected values in 0..1, found others in frame {i}")
        out[i] = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
    return out


def per_bin(recorded: Recorded, bins: int, bin_s: float, where: Path, resample: bool) -> Array:
    """Give one frame per bin (bins, H, W).

    As they are, there must be ``bins`` frames at the bins' rate. With ``resample`` a film of the same duration (to within one
    bin) gives every bin the frame shown at its middle. :class:`InterpretationError` otherwise.
    """
    n, rate = len(recorded.frames), recorded.rate
    if resample and rate is None:
        raise InterpretationError(f"{where}: --resample: expected a film with a rate, found frames without one")
    if resample and rate is not None:
        if abs(n / rate - bins * bin_s) > bin_s:
            raise InterpretationError(
                f"{where}: expected {bins * bin_s:g} s of film as in the session, "
                f"found {n / rate:g} s ({n} frames at {rate:g} Hz)"
            )
        at = np.minimum(((np.arange(bins) + 0.5) * bin_s * rate).astype(np.intp), n - 1)
        return recorded.frames[at]
    if n != bins:
        raise InterpretationError(f"{where}: expected {bins} frames, one per bin of the session, found {n}")
    if rate is not None and abs(rate * bin_s - 1) > 0.01:
        raise InterpretationError(
            f"{where}: expected {1 / bin_s:g} frames per second, the rate of the bins, found {rate:g}; "
            "--resample takes the frame of each bin's middle"
        )
    return recorded.frames


def check_moves(frames: Sequence[Array], where: str) -> None:
    """Refuse pictures (T_i, H, W) in which no pixel ever changes: there is nothing to film."""
    low, high = np.min([f.min(0) for f in frames], axis=0), np.max([f.max(0) for f in frames], axis=0)
    if float((high - low).max()) < LEAST_CHANGE:
        raise InterpretationError(f"{where} trials: expected pictures that change, found the same one in every frame")


def check_rate(path: Path, rate: float) -> float:
    """Give the frames per second at which a film is shown: a GIF counts hundredths of a second, and too fast a one is refused."""
    if path.suffix.lower() != ".gif":
        return rate
    if rate > 1.01 * FASTEST_GIF:  # bins of 20 ms need not be exact
        raise InterpretationError(
            f"{path}: rate: expected at most {FASTEST_GIF} frames per second in a GIF, found {rate:g}; "
            "an .mp4 can be faster, --rate sets another"
        )
    return 100 / round(100 / rate)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse before minutes of sampling what :func:`write_film` would refuse after them."""
    check_target(path)
    check_file(path, overwrite=overwrite, error=InterpretationError)


def check_target(path: Path) -> None:
    """Refuse a film's name that says no format that is written."""
    if path.suffix.lower() not in SUFFIXES:
        raise InterpretationError(f"{path}: expected a film's name that ends in {' or '.join(SUFFIXES)}, found {path.suffix!r}")


def write_film(path: Path, frames: NDArray[np.uint8], rate: float, overwrite: bool = False) -> None:
    """Write ``frames`` (n, H, W, 3) at ``rate`` frames per second, whole or not at all; the suffix says the format."""
    check_target(path)
    shown = check_rate(path, rate)
    with write_file(path, overwrite=overwrite, error=InterpretationError) as temporary:
        if path.suffix.lower() == ".gif":
            first, *others = [Image.fromarray(f).quantize(64) for f in frames]
            hundredths = round(100 / shown)
            first.save(temporary, "GIF", save_all=True, append_images=others, duration=10 * hundredths, loop=0)
        else:
            _mp4(temporary, frames, rate)


def _mp4(path: Path, frames: NDArray[np.uint8], rate: float) -> None:
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17"}
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
