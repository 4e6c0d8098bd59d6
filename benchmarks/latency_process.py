"""Processes of the benchmarks: started as those of the live system are, heard through a pipe, and surely gone in the end.

Messages are JSON; arrays go through a file of a temporary folder. A child that fails sends its sentence, and hearing it raises.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.errors import RuntimeFault
from bci_align.runtime import process

_CONTEXT = multiprocessing.get_context("spawn")
_JOIN_S = 5.0


class Pipe:
    """A child's end: ``send`` to the parent, ``told`` by it."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def send(self, **message: Any) -> None:
        """Tell the parent."""
        self._pipe.send_bytes(json.dumps(message).encode())

    def told(self, timeout_s: float = 0.0) -> bool:
        """Whether the parent has said something (or is gone) within ``timeout_s``; each word counts once."""
        if not self._pipe.poll(timeout_s):
            return False
        try:
            self._pipe.recv_bytes()
        except EOFError:
            raise SystemExit(1) from None
        return True


class Helper:
    """One process that runs ``target(*args, pipe)`` with a :class:`Pipe`; use as a context manager."""

    def __init__(self, name: str, target: Callable[..., None], *args: Any) -> None:
        self.name = name
        self._pipe, theirs = _CONTEXT.Pipe(duplex=True)
        self._process = _CONTEXT.Process(target=_run, args=(target, args, theirs), name=f"benchmark {name}", daemon=True)
        try:
            with process.as_child():
                self._process.start()
        finally:
            theirs.close()

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Process number."""
        assert self._process.pid is not None
        return self._process.pid

    def tell(self) -> None:
        """Say the one word that the child waits for."""
        self._pipe.send_bytes(b"{}")

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, None if there is none within ``timeout_s``; :class:`RuntimeFault` if the child failed or died."""
        if not self._pipe.poll(timeout_s):
            return None
        try:
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except EOFError:
            raise RuntimeFault(f"the benchmark's {self.name} died") from None
        if "error" in message:
            raise RuntimeFault(f"the benchmark's {self.name} failed: {message['error']}")
        return message

    def wait(self, key: str, timeout_s: float) -> dict[str, Any]:
        """The next message that has ``key``; :class:`RuntimeFault` after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self.hear(left)
            if message is not None and key in message:
                return message
        raise RuntimeFault(f"the benchmark's {self.name}: expected {key!r} within {timeout_s:g} s, heard nothing of it")

    def end(self) -> None:
        """Kill it if it is still there; harmless when called twice."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(_JOIN_S)
        self._pipe.close()


def _run(target: Callable[..., None], args: tuple[Any, ...], pipe: Connection[Any, Any]) -> None:
    process.ignore_interrupts()
    ours = Pipe(pipe)
    try:
        target(*args, ours)
    except Exception as e:  # whatever it is, the parent must hear of it
        ours.send(error=f"{type(e).__name__}: {e}")


def real_time(wanted: bool) -> str:
    """The scheduler of a process here: as the decoder asks for it, or the default."""
    return process.real_time() if wanted else "default scheduler"


def aligning(bundle: str, pipe: Pipe) -> None:
    """Run one real alignment after another, as the aligner's process does: nice 19, one thread, never idle."""
    # Only here: the control loops start in a second without it.
    from bci_align.alignment.erdiff import align
    from bci_align.bundle.store import load_bundle
    from bci_align.config import AlignConfig

    process.give_way()
    loaded = load_bundle(bundle)
    trials = loaded.source_trials()

    def look(done: int, total: int) -> None:
        if pipe.told():
            raise SystemExit(0)

    pipe.send(ready=True)
    seed = 0
    while True:
        align(loaded, trials, AlignConfig(), seed, look)
        seed += 1


def rss_mb(pid: int) -> float:
    """Resident memory of a process that the machine cannot take back, MB: its anonymous pages and its shared memory.

    Pages of libraries and files are left out: they come and go with what else the machine does.
    """
    kb = 0
    with open(f"/proc/{pid}/status", encoding="ascii") as f:  # noqa: PTH123  (a path object would be made for every sample)
        for line in f:
            if line.startswith(("RssAnon:", "RssShmem:")):
                kb += int(line.split()[1])
    return kb / 1024


def quantiles_ms(seconds: NDArray[np.float64]) -> dict[str, float]:
    """``p50``, ``p99``, ``p99.9`` and ``max``, milliseconds; NaN of nothing."""
    if not len(seconds):
        return dict.fromkeys(("p50", "p99", "p99.9", "max"), float("nan"))
    found = {f"p{q:g}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 99, 99.9)}
    return found | {"max": float(seconds.max()) * 1e3}
