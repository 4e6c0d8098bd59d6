"""The source day's training trials in a bundle: what alignment between sessions compares a new day with."""

from __future__ import annotations

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bci_align.errors import BundleError
from bci_align.session.types import UnlabelledTrials

NAME = "source_trials.safetensors"
_DTYPES = (np.uint8, np.uint16, np.uint32)


def pack(trials: UnlabelledTrials) -> bytes:
    """Serialise ``counts``, the trials end to end (sum T_i, C), in the smallest unsigned type; ``lengths``, ``run_in`` (n,)."""
    counts = np.concatenate(trials.counts)
    smallest = next(t for t in _DTYPES if counts.max() <= np.iinfo(t).max)
    arrays = {
        # safetensors writes an array's memory as it lies: columns first (as importers may give) would come back scrambled.
        "counts": np.ascontiguousarray(counts, smallest),
        "lengths": np.array([len(t) for t in trials.counts], np.uint32),
        "run_in": np.array(trials.run_in, np.uint32),
    }
    data: bytes = safetensors.numpy.save(arrays)
    return data


def unpack(data: bytes, where: object, channels: tuple[str, ...], bin_s: float) -> UnlabelledTrials:
    """Read :func:`pack`'s bytes back; :class:`BundleError` begins with ``where`` for bytes that are not whole trials."""
    try:
        arrays = safetensors.numpy.load(data)
    except SafetensorError as e:
        raise BundleError(f"{where}: not a safetensors file ({e})") from None
    except KeyError as e:  # a number type that NumPy does not know
        raise BundleError(f"{where}: expected numbers of NumPy's types, found {e}") from None
    for name in ("counts", "lengths", "run_in"):
        if name not in arrays or arrays[name].dtype not in _DTYPES:
            found = arrays[name].dtype if name in arrays else "nothing"
            raise BundleError(f"{where}: {name}: expected unsigned integers, found {found}")
    counts: NDArray[np.generic] = arrays["counts"]
    lengths, run_in = (arrays[name].astype(np.int64) for name in ("lengths", "run_in"))
    if counts.ndim != 2 or counts.shape[1] != len(channels):
        raise BundleError(f"{where}: counts: expected (bins, {len(channels)}), one column per channel, found {counts.shape}")
    whole = lengths.ndim == 1 and lengths.shape == run_in.shape and lengths.size > 0
    if not (whole and (run_in < lengths).all() and lengths.sum() == len(counts)):
        raise BundleError(f"{where}: lengths and run_in: expected those of trials that fill {len(counts)} bins, found others")
    cuts = np.split(counts.astype(np.float32), np.cumsum(lengths)[:-1])
    return UnlabelledTrials(tuple(cuts), tuple(run_in.tolist()), bin_s, channels)
