"""Carries out the orders of the control socket, and tells how everything is."""

from __future__ import annotations

import threading
import time
from typing import Any

from bci_align.config import LiveConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime.control import ORDERS
from bci_align.runtime.metrics import by_name
from bci_align.runtime.progress import Progress
from bci_align.runtime.promotion import Promotion
from bci_align.runtime.shared import Cell, Phase, Shared
from bci_align.runtime.team import Team

_TAKEN_S = 1.0
"""How long an order may take to reach the decoder before it is said that it has not."""


class Desk:
    """Orders go to the processes as numbers in shared memory, so that whoever gives them waits for nobody's pipe.

    May be called from any thread.
    """

    def __init__(self, config: LiveConfig, shared: Shared, team: Team, progress: Progress) -> None:
        self._config, self._shared, self._team, self._progress = config, shared, team, progress
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def obey(self, order: str) -> dict[str, Any]:
        """Carry out one order; :class:`RuntimeFault` says what speaks against it."""
        if order not in ORDERS:
            raise RuntimeFault(f"order: expected one of {', '.join(ORDERS)}, found {order!r}")
        if order == "status":
            return self.status()
        with self._lock:
            found: dict[str, Any] = getattr(self, f"_{order}")()
        return {"order": order} | found

    def status(self) -> dict[str, Any]:
        """How everything is, for people and programs."""
        s, c, p = self._shared, self._config, self._progress
        return {
            "bundle": c.bundle,
            "out": c.out,
            "seconds": round(time.monotonic() - self._started, 3),
            "phase": Phase(s.get(Cell.PHASE)).name,
            "frozen": bool(s.get(Cell.FREEZE)),
            "bins": s.get(Cell.BINS),
            "lost": s.get(Cell.GAPS),
            "late": s.get(Cell.LATE),
            "bad": s.get(Cell.BAD),
            "faults": {k: n for k, n in by_name(s.faults.tolist()).items() if n},
            "episodes": {k: n for k, n in by_name(s.episodes.tolist()).items() if n},
            "generation": s.get(Cell.GENERATION),
            "committed": s.get(Cell.COMMITTED),
            "promotion": {"state": str(p.state), "candidate": p.candidate, "last": p.last},
            "trials": {"found": s.get(Cell.TRIALS), "held": s.get(Cell.HELD), "wanted": c.calibration_trials},
            "drift": s.get(Cell.DRIFT) / 1e6 or None,
            "processes": {
                seat.who: {"state": seat.state, "pid": seat.pid, "restarts": max(seat.starts - 1, 0), "down": seat.down}
                for seat in self._team.seats
                if seat.starts
            },
            "standing_by": self._team.standing_by,
            "latency": s.latency.summary(),
            "unsent_reports": s.get(Cell.UNSENT),
        }

    def _freeze(self) -> dict[str, Any]:
        return self._decoder_does(Cell.FREEZE, 1)

    def _resume(self) -> dict[str, Any]:
        return self._decoder_does(Cell.FREEZE, 0)

    def _promote(self) -> dict[str, Any]:
        if self._progress.state not in (Promotion.SHADOW, Promotion.PROMOTE):
            raise RuntimeFault(f"promote: expected a candidate that waits, found none; the state is {self._progress.state}")
        return self._decoder_does(Cell.PROMOTE, self._shared.get(Cell.PROMOTE) + 1)

    def _rollback(self) -> dict[str, Any]:
        return self._decoder_does(Cell.ROLLBACK, self._shared.get(Cell.ROLLBACK) + 1)

    def _align(self) -> dict[str, Any]:
        s, aligner = self._shared, self._team.aligner
        if aligner.state != "up":
            why = aligner.down or ("the run never aligns (recalibrations: 0)" if not aligner.starts else f"it is {aligner.state}")
            raise RuntimeFault(f"align: expected an aligner that is up, but {why}")
        if self._progress.state is not Promotion.COLLECT or s.get(Cell.ALIGNING):
            raise RuntimeFault(f"align: expected no candidate under way, the state is {self._progress.state}")
        if not s.get(Cell.HELD):
            raise RuntimeFault("align: expected trials to align on, found none yet")
        s.set(Cell.ALIGN, s.get(Cell.ALIGN) + 1)
        return {"trials": s.get(Cell.HELD)}

    def _stop(self) -> dict[str, Any]:
        self._shared.set(Cell.STOP, 1)
        return {}

    def _decoder_does(self, cell: Cell, value: int) -> dict[str, Any]:
        """Order something of the decoder and see that it has it; one that is just being replaced gets it when it is there."""
        s = self._shared
        s.set(cell, value)
        number = s.get(Cell.ORDERS) + 1
        s.set(Cell.ORDERS, number)
        until = time.monotonic() + _TAKEN_S
        while s.get(Cell.TAKEN) < number:
            if time.monotonic() > until:
                raise RuntimeFault(f"expected the decoder to take the order within {_TAKEN_S:g} s, found it not answering")
            time.sleep(0.001)
        return {"bin": s.get(Cell.LAST_SEQ)}
