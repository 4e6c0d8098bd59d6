"""What this machine says of itself: facts for :mod:`bci_align.runtime.doctor`, read and tried, judged nowhere here.

What a system does not tell is None or empty, never guessed.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnxruntime as ort
import pylsl
import zmq

from bci_align.streams import lsl_common as common

PACKAGES = ("numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "pylsl", "pyzmq", "h5py", "pydantic")
LSL_FILES = ("lsl_api.cfg", "~/lsl_api/lsl_api.cfg", "/etc/lsl_api/lsl_api.cfg")
"""Where liblsl looks for its configuration, in this order, if LSLAPICFG does not name one."""

_FSYNCS, _FSYNC_BYTES = 20, 2**16


def text(path: str) -> str | None:
    """A file of one line, such as those of ``/proc`` and ``/sys``; None where there is none to read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(path: str) -> int | None:
    """The same for a number."""
    found = text(path)
    return int(found) if found is not None and found.lstrip("-").isdigit() else None


def kernel() -> tuple[str, bool]:
    """Name and release of the kernel, and whether it is a fully pre-emptible one (PREEMPT_RT)."""
    u = platform.uname()
    return f"{u.system} {u.release}", text("/sys/kernel/realtime") == "1" or "PREEMPT_RT" in u.version


def cores() -> tuple[tuple[int, ...], int]:
    """Cores that this process may use, and how many the machine has."""
    everything = os.cpu_count() or 1
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(everything)
    return tuple(sorted(allowed)), everything


def governors() -> tuple[str, ...]:
    """Frequency governors in use; empty where the kernel does not tell (most virtual machines)."""
    found = (text(str(p)) for p in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return tuple(sorted({g for g in found if g}))


def clock_source() -> str | None:
    """What the kernel reads the time from."""
    return text("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def stolen_s() -> float | None:
    """Seconds, over all cores, that the host of this virtual machine gave to others since the start."""
    first = (text("/proc/stat") or "").partition("\n")[0].split()
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 and first[0] == "cpu" else None


def memory_lock() -> int | None:
    """Most bytes that a process may keep from being swapped out; -1 without a limit, None where that is not known."""
    if not sys.platform.startswith("linux"):
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() == 0 or resource.RLIM_INFINITY in (soft, hard):
        return -1
    return hard


def lsl_clock() -> float:
    """Seconds by which LSL's clock is ahead of ``time.monotonic``."""
    before = time.monotonic()
    lsl = float(pylsl.local_clock())
    return lsl - 0.5 * (before + time.monotonic())


def lsl_file() -> tuple[str | None, bool]:
    """The configuration file that liblsl will read, and whether it is there; ``(None, True)`` where there is none."""
    named = os.environ.get("LSLAPICFG")
    if named is not None:
        return named, Path(named).is_file()
    return next(((p, True) for p in LSL_FILES if Path(p).expanduser().is_file()), (None, True))


def lsl_discovery(timeout_s: float) -> float | None:
    """Seconds until a stream announced here was found from here, None if it was not found within ``timeout_s``."""
    name = f"bci_align_doctor_{uuid.uuid4().hex[:8]}"
    outlet = pylsl.StreamOutlet(common.new_info("bci_align doctor", common.MARKERS, 1, 0.0, pylsl.cf_string, name))
    started = time.monotonic()
    found = pylsl.resolve_byprop("source_id", name, 1, timeout_s)
    taken = time.monotonic() - started
    del outlet
    return taken if found else None


def curve() -> bool:
    """Whether this libzmq can encrypt and authenticate."""
    return bool(zmq.has("curve"))


def taken(addresses: Iterable[tuple[str, str]]) -> list[str]:
    """Those of ``(what for, tcp://host:port)`` whose port somebody has already, as ``what for address``."""
    found = []
    for key, address in addresses:
        parts = urlsplit(address)
        if parts.scheme != "tcp" or not parts.port:
            continue
        with socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((parts.hostname, parts.port))
            except OSError:
                found.append(f"{key} {address}")
    return found


def free_bytes(path: Path) -> int | None:
    """Bytes that are free where ``path`` lies or would lie; None where nothing of it is there."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def sync_times(path: Path) -> list[float] | None:
    """Seconds that each of some writes of 64 KB took until the disk had it; None where nothing can be written."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=existing(path)) as f:
            for _ in range(_FSYNCS):
                started = time.monotonic()
                f.write(np.zeros(_FSYNC_BYTES, np.uint8).tobytes())
                f.flush()
                os.fsync(f.fileno())
                times.append(time.monotonic() - started)
    except OSError:
        return None
    return times


def gpus() -> tuple[tuple[str, ...], str | None]:
    """ONNX Runtime's providers, and the GPUs that ``nvidia-smi`` lists (None: it is not there, or has none)."""
    smi = shutil.which("nvidia-smi")
    listed = None
    if smi is not None:
        try:
            done = subprocess.run(
                [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
            )
            listed = "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired):
            listed = None
    return tuple(ort.get_available_providers()), listed or None


def versions() -> dict[str, str]:
    """Versions of Python and of what the decoder stands on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found | {"liblsl": str(pylsl.library_version()), "libzmq": zmq.zmq_version()}
