"""How many threads numerical libraries may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, and the BLAS and OpenMP pools of NumPy and SciPy, compute on one thread inside the block.

    The networks are small. A second thread shortens training on an idle machine, but on a busy one (a rig decodes beside us)
    the threads spend their time waiting for each other, and take longer than one. One thread also makes results independent
    of the number of cores. NumPy and SciPy are worse: two BLAS threads beside a busy process were measured to take ten times the
    CPU time of one.
    """
    import torch  # seconds, and most who import this room never compute

    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
