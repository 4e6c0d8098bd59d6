"""A do-nothing loop that is woken on a fixed grid: what it is late by is the machine's doing, not ours.

One on every core, kept there, at the decoder's priority, so that a core that stands still is seen by somebody whatever else runs.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency_process import Helper, Pipe, quantiles_ms, real_time

PERIOD_S = 0.005
_LOOK = 20
_MOST_S = 3 * 3600.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lateness:
    """Deadlines (n,) in seconds of ``time.monotonic``, and how late each was met (n,), over all cores, in order of time."""

    due: Floats
    late: Floats

    def during(self, since: Floats, until: Floats) -> Floats:
        """Largest lateness, of those that reach into each interval from ``since`` to ``until`` (m,); 0 where there is none."""
        out = np.zeros(len(since))
        big = self.late > 1e-4  # the others say nothing, and an hour has a million of them
        due, late = self.due[big], self.late[big]
        for i, (a, b) in enumerate(zip(since, until, strict=True)):
            inside = (due < b) & (due + late > a)
            out[i] = late[inside].max() if inside.any() else 0.0
        return out

    def between(self, since: float, until: float) -> Lateness:
        """Those whose deadlines lie between two times."""
        inside = (self.due >= since) & (self.due <= until)
        return Lateness(self.due[inside], self.late[inside])

    def summary(self) -> dict[str, float]:
        """Quantiles in milliseconds and ``n``."""
        return quantiles_ms(self.late) | {"n": float(len(self.late))}


def loop(core: int, wanted: bool, out: str, pipe: Pipe) -> None:
    """One process: meet deadlines on ``core`` until told to stop, then write ``out``."""
    os.sched_setaffinity(0, {core})
    scheduler = real_time(wanted)
    late = np.zeros(int(_MOST_S / PERIOD_S), np.float32)  # untouched pages cost nothing
    gc.freeze()
    gc.disable()
    start = time.monotonic() + PERIOD_S
    pipe.send(ready=True, scheduler=scheduler)
    k = 0
    while k < len(late) and not (k % _LOOK == 0 and pipe.told()):
        due = start + k * PERIOD_S
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        late[k] = time.monotonic() - due
        k += 1
    np.save(out, np.stack([start + np.arange(k) * PERIOD_S, late[:k].astype(np.float64)]))
    pipe.send(done=True)


class Control:
    """The loops of all cores; :meth:`stop` gives what they found."""

    def __init__(self, wanted: bool, folder: Path) -> None:
        self._files = {core: folder / f"control-{core}.npy" for core in sorted(os.sched_getaffinity(0))}
        self._loops = [Helper("control loop", loop, core, wanted, str(f)) for core, f in self._files.items()]

    def wait_ready(self) -> str:
        """Wait for all of them; what scheduler they have."""
        return str(next(iter([h.wait("ready", 60.0)["scheduler"] for h in self._loops])))

    def stop(self) -> Lateness:
        """End the loops; how late they were."""
        for h in self._loops:
            h.tell()
        for h in self._loops:
            h.wait("done", 30.0)
        found = np.concatenate([np.load(f, allow_pickle=False) for f in self._files.values()], axis=1)
        found = found[:, np.argsort(found[0], kind="stable")]
        self.end()
        return Lateness(found[0], found[1])

    def end(self) -> None:
        """Kill what is left of them; harmless when called twice."""
        for h in self._loops:
            h.end()
