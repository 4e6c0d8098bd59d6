"""How a process of the live system behaves: priority, signals, threads, and what it does when its parent is gone."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")
_PRIORITY = 10
_LOOK_S = 1.0
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


@contextmanager
def as_child() -> Iterator[None]:
    """Around the start of a process: it inherits one thread per numeric library, and neither Ctrl-C nor hang-up.

    All must be in place before the child's first import: libraries read the variables when they load, and a terminal sends its
    signals to every process, while the order to stop is the parent's to give. A Ctrl-C meanwhile reaches the parent afterwards.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP}) if can_block else set()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class OrderlyExit:
    """Turns a request to end (SIGTERM, or SIGHUP of a terminal that closes) into :class:`SystemExit`, so that cleaning up runs.

    Only in the main thread, and only where nobody else has a say: another handler, or ``nohup``, is left in place.
    """

    def __init__(self) -> None:
        self._installed: list[signal.Signals] = []
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _leave)
                self._installed.append(number)

    def undo(self) -> None:
        """Put back what was there; harmless when called twice."""
        while self._installed:
            signal.signal(self._installed.pop(), signal.SIG_DFL)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent (where signals cannot be blocked before the start)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def real_time(wanted: bool = True, core: int | None = None) -> str:
    """Ask for the real-time scheduler, for this process and every thread it starts from now on, and keep it on ``core``.

    Says what came of it.
    """
    parts = [_fifo() if wanted else "default scheduler, as configured", keep_on((core,)) if core is not None else ""]
    return ", ".join(p for p in (*parts, _lock_memory() if wanted else "") if p)


def give_way() -> None:
    """Compute only where nobody else wants to."""
    if hasattr(os, "nice"):
        os.nice(19)


def trim() -> None:
    """Give freed memory back to the system, where the C library knows how (glibc).

    By itself it keeps what lies below the last block still in use: now and then an alignment leaves tens of megabytes there.
    """
    if sys.platform.startswith("linux") and (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        give_back(0)


def _fifo() -> str:
    if not hasattr(os, "sched_setscheduler"):
        return "default scheduler: this system has no SCHED_FIFO, so late bins are possible under load"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError as e:
        return f"default scheduler: SCHED_FIFO was not granted ({e.strerror}), so late bins are possible under load"
    return f"SCHED_FIFO, priority {_PRIORITY}"


def keep_on(cores: tuple[int, ...]) -> str:
    """Run on ``cores`` alone; says what came of that."""
    named = f"core {cores[0]}" if len(cores) == 1 else f"cores {', '.join(map(str, cores))}"
    if not hasattr(os, "sched_setaffinity"):
        return f"any core: this system has no way to keep a process on {named}"
    try:
        os.sched_setaffinity(0, cores)
    except OSError as e:
        return f"any core: {named} was not granted ({e.strerror})"
    return named


def _lock_memory() -> str:
    """Keep in memory what has been touched, now and later: a page that has to come back from a disk costs a bin.

    On fault: locking everything at once would read in every library that is only mapped, gigabytes with torch's. Only without a
    limit: under one, memory asked for later would be refused.
    """
    if not sys.platform.startswith("linux"):
        return ""
    import resource  # not on every system

    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and not _may(_CAP_IPC_LOCK):
        return "memory not locked (there is a limit)"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        return f"memory not locked ({os.strerror(ctypes.get_errno())})"
    return "memory locked"


def _may(capability: int) -> bool:
    """Whether this process has a capability of Linux's, by its number."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False


class ParentWatch:
    """Notices that the parent has died without a word; looks once a second only."""

    def __init__(self) -> None:
        self._parent = multiprocessing.parent_process()
        self._next = 0.0

    def gone(self) -> bool:
        """Whether there is a parent process no more."""
        now = time.monotonic()
        if self._parent is None or now < self._next:
            return False
        self._next = now + _LOOK_S
        return not self._parent.is_alive()
