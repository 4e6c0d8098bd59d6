"""Worker processes of one thread each, for whatever compares many things: they end with the run, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LOOK_S = 1.0
"""Seconds between two looks of a worker at whether its parent is still there."""


@contextmanager
def workers(jobs: int, begin: Callable[..., None] | None = None, context: tuple[Any, ...] = ()) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, in each of which ``begin(*context)`` is called first.

    On a fault or Ctrl-C they are ended, not waited for. A parent that is killed takes them with it: a worker in the middle of
    an hour's task would otherwise go on for nobody.
    """
    kept = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read when a process starts: for NumPy's own threads
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (os.getpid(), begin, context))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        ended = set(multiprocessing.active_children()) - others
        for process in ended:
            process.terminate()
        for process in ended:
            process.join()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(parent: int, begin: Callable[..., None] | None, context: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if begin is not None:
        begin(*context)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
