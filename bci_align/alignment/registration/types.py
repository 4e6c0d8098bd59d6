"""What registration gives: how today's channels relate to the source day's, as a read-in that the frozen core understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.models.read_in import ReadIn

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Registration:
    """A starting point for alignment.

    ``read_in`` has a row for each of the target's C_t channels; ``method`` names how it was found; ``matched`` (C_t,) holds the
    source channel of each target channel, -1 where there is none, and is None where channels are mixed and not matched;
    ``record`` is JSON-ready: what was decided and how sure it is. ``averaged``: rows of a matching that hold half a rotation's.
    """

    read_in: ReadIn
    method: str
    matched: Index | None
    record: dict[str, Any]
    averaged: bool = False
