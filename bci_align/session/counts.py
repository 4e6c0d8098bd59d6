"""Turn an array of any numeric dtype into spike counts, or say which entry is not a count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import SessionError

MOST = int(np.iinfo(np.int32).max)


def whole_counts(array: NDArray[Any], where: str, *, scale: float = 1.0, tolerance: float = 0.0) -> NDArray[np.int32]:
    """``array`` (T, C) times ``scale`` as int32 spike counts.

    Floats are taken only where, after scaling, each lies within ``tolerance`` of a whole number. :class:`SessionError`,
    beginning with ``where``, for another shape or dtype and for non-finite, negative, fractional or too large values.
    """
    if array.ndim != 2 or 0 in array.shape:
        raise SessionError(f"{where}: expected a (bins, channels) array with at least one of each, found shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise SessionError(f"{where}: expected numbers, found dtype {array.dtype}")
    if array.dtype.kind in "iu" and scale == 1.0:
        whole: NDArray[Any] = array
    else:
        scaled = array.astype(np.float64) * scale
        _refuse(~np.isfinite(scaled), scaled, where, "finite spike counts")
        whole = np.rint(scaled)
        expected = "whole spike counts" if scale == 1.0 else f"whole spike counts after scaling by {scale:g}"
        _refuse(np.abs(scaled - whole) > tolerance, scaled, where, expected)
    _refuse(whole < 0, whole, where, "no negative spike counts")
    _refuse(whole > MOST, whole, where, f"spike counts of at most {MOST}")
    return whole.astype(np.int32)


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any], where: str, expected: str) -> None:
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise SessionError(f"{where}: expected {expected}, found {values[row, column]:g} in bin {row}, channel {column}")
