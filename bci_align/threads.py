"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block.

    The networks are small. A second thread shortens training on an idle machine, but on a busy one (a rig decodes beside us)
    the threads spend their time waiting for each other, and take longer than one. One thread also makes results independent
    of the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
