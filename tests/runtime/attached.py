"""What a spawned process does with shared memory; apart from its tests, whose imports bring torch."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bci_align.runtime.shared import Cell, Layout, Shared
from bci_align.streams.contract import Bin

from .fakes import read_in


def attached(layout: Layout, pipe: Connection[Any, Any]) -> None:
    shared = Shared.attach(layout)
    for seq in range(10):
        shared.ring.put(Bin(seq, float(seq), np.full(5, seq, np.float32)))
    shared.mailbox.post(read_in(4), 4)
    shared.set(Cell.BINS, 10)
    pipe.send("written")
    pipe.recv()
    shared.close()
