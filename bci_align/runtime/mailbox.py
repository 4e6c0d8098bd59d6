"""How a candidate reaches the decoder: one slot of shared memory, without files, pickles or waiting on either side."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.models.read_in import ReadIn


class Mailbox:
    """One writer posts read-ins, one reader polls for them; a newer one replaces one that was not fetched.

    ``buffer`` must hold :meth:`nbytes` of zeroed bytes; ``channels`` C and ``hidden`` H of every read-in. The version number
    is written last and a checksum covers version and content: what was only half written is not taken.
    """

    def __init__(self, buffer: Any, channels: int, hidden: int) -> None:
        self._header: NDArray[np.int64] = np.frombuffer(buffer, np.int64, 3)  # version, generation, checksum
        self._data: NDArray[np.float32] = np.frombuffer(buffer, np.float32, _floats(channels, hidden), offset=24)
        self._channels, self._hidden = channels, hidden
        self.fetched = 0
        """Version of the last read-in that :meth:`poll` gave."""

    @staticmethod
    def nbytes(channels: int, hidden: int) -> int:
        """Bytes of memory that a mailbox takes."""
        return 24 + 4 * _floats(channels, hidden)

    @property
    def posted(self) -> int:
        """Version of the last read-in that was posted; 0 before the first."""
        return int(self._header[0])

    @property
    def generation(self) -> int:
        """Generation of the last read-in that was posted; 0 before the first."""
        return int(self._header[1])

    def post(self, read_in: ReadIn, generation: int) -> None:
        """Put ``read_in`` in as ``generation``; :class:`ValueError` for shapes other than the mailbox's."""
        c, h = self._channels, self._hidden
        parts = (read_in.mean, read_in.gain, read_in.weight, read_in.bias)
        if [p.shape for p in parts] != [(c,), (c,), (c, h), (h,)]:
            raise ValueError(f"read-in: expected {c} channels and {h} units, found shapes {[p.shape for p in parts]}")
        version = self.posted + 1
        data = np.concatenate([np.asarray(p, np.float32).ravel() for p in parts])
        self._data[:] = data
        self._header[1] = generation
        self._header[2] = _check(version, generation, data)
        self._header[0] = version

    def poll(self) -> tuple[ReadIn, int] | None:
        """The newest read-in and its generation, once; None when there is nothing new. Costs one comparison then."""
        version = self.posted
        if version == self.fetched:
            return None
        data, generation = self._data.copy(), int(self._header[1])
        if int(self._header[2]) != _check(version, generation, data):
            return None  # being replaced this very moment: the next poll finds it whole
        self.fetched = version
        c, h = self._channels, self._hidden
        mean, gain, weight, bias = np.split(data, np.cumsum([c, c, c * h]))
        return ReadIn(mean.copy(), gain.copy(), weight.reshape(c, h).copy(), bias.copy()), generation

    def release(self) -> None:
        """Let go of the memory, without which a shared segment cannot be closed."""
        del self._header, self._data


def _floats(channels: int, hidden: int) -> int:
    return 2 * channels + channels * hidden + hidden


def _check(version: int, generation: int, data: NDArray[np.float32]) -> int:
    return zlib.crc32(data.data, zlib.crc32(np.array([version, generation], np.int64).data))
