"""Is this rig's computer fit to decode in front of a participant? One check per fact, one line per check.

A check takes facts (of :mod:`bci_align.runtime.machine` and :mod:`bci_align.runtime.jitter`; :mod:`bci_align.runtime.examination`
collects them) and gives a finding: ``ok``; a
``warning`` for what costs certainty; a ``fault`` for what keeps the system from running, or bins from being on time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "fault"]

GOOD, BEARABLE = 0.25, 1.0
"""Shares of a bin's width: a tail below the first is good, beyond the second it is late."""

LSL_S, SOON_S = 5.0, 2.0
"""Longest search for a stream of this machine, seconds; a quick one."""

SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")
SYNC_S = (0.1, 0.5)
"""Longest time until the disk has what was written: beyond the first a flush is slow; beyond the second a kill loses a second."""

HOUR_BYTES = 2**30
"""An hour's recording of 256 channels in bins of 20 ms is a quarter of it."""

CHANNELS = 96
"""Of the step that is measured where no configuration is given."""


@dataclass(frozen=True)
class Finding:
    """One line: ``level``, what was looked at, what was ``found``, and what to ``change`` (empty where nothing)."""

    level: Level
    name: str
    found: str
    change: str = ""


def scheduler(granted: bool, said: str, wanted: bool = True) -> Finding:
    """Whether the decoder gets SCHED_FIFO; ``said`` is what asking for it came to."""
    if not wanted:
        change = "set supervisor.real_time to true, or nobody can promise a tail"
        return Finding("warning", "scheduler", "default scheduler, as configured", change)
    if granted:
        return Finding("ok", "scheduler", said)
    change = (
        "grant it: an rtprio line for this user in /etc/security/limits.d, or docker run --cap-add SYS_NICE --ulimit rtprio=10"
    )
    return Finding("warning", "scheduler", said, change)


def throttling(runtime_us: int | None, period_us: int | None) -> Finding:
    """How much of the time real-time processes may run at all (``sched_rt_runtime_us`` of ``sched_rt_period_us``)."""
    name = "real-time share"
    if runtime_us is None or not period_us:
        return Finding("ok", name, "this system does not limit it, or does not tell")
    if runtime_us < 0:
        return Finding("ok", name, "not limited")
    share, found = runtime_us / period_us, f"{runtime_us / 1e3:g} of every {period_us / 1e3:g} ms"
    if share >= 0.5:
        return Finding("ok", name, found)
    level: Level = "fault" if not runtime_us else "warning"
    return Finding(level, name, found, "sysctl kernel.sched_rt_runtime_us=950000")


def background(autogroup: int | None) -> Finding:
    """Whether the aligner's lowest priority counts against the rig's own programs; ``sched_autogroup_enabled``, None not known.

    With it on, Linux shares the cores out among sessions (terminals, services) first: to a program of another session the
    aligner is as important as anything else.
    """
    name = "background work"
    if not autogroup:
        return Finding("ok", name, "the aligner's lowest priority counts against every process")
    found = "the kernel groups processes by terminal (autogroup): the aligner's lowest priority counts only within its own"
    return Finding("warning", name, found, "sysctl kernel.sched_autogroup_enabled=0 before the rig starts, or spare a core")


def memory(limit: int | None) -> Finding:
    """Whether the decoder may keep its memory from being swapped out; ``limit`` bytes, -1 without, None not known."""
    if limit is None:
        return Finding("ok", "memory lock", "this system does not tell")
    if limit == -1:
        return Finding("ok", "memory lock", "not limited")
    change = "a 'memlock unlimited' line for this user in /etc/security/limits.d, or docker run --ulimit memlock=-1"
    return Finding("warning", "memory lock", f"limited to {limit / 2**20:.0f} MB", change)


def kernel(release: str, preempt_rt: bool) -> Finding:
    """Which kernel; one with PREEMPT_RT has the shorter tail, and the jitter run says whether it is needed."""
    return Finding("ok", "kernel", f"{release}, {'with' if preempt_rt else 'without'} PREEMPT_RT")


def cores(allowed: Sequence[int], everything: int, decoder: int | None, background: Sequence[int] | None) -> Finding:
    """Whether there is a core for the decoder and one for the rest, and whether the configured ones are there."""
    found = f"{len(allowed)} of {everything} usable"
    gone = sorted({c for c in (decoder, *(background or ())) if c is not None} - set(allowed))
    if gone:
        return Finding("fault", "cores", f"{found}, not core {', '.join(map(str, gone))}", "name others in supervisor")
    if len(allowed) < 2:
        return Finding("warning", "cores", found, "give it two: an alignment takes one for minutes")
    if decoder is not None and background is not None and set(background) == {decoder}:
        return Finding("warning", "cores", f"{found}; decoder and aligner on core {decoder}", "keep them apart in supervisor")
    return Finding("ok", "cores", found)


def frequency(governors: Sequence[str]) -> Finding:
    """Whether cores slow down while they wait for the next bin."""
    if not governors:
        return Finding("ok", "frequency", "no governor to be seen (a virtual machine, or fixed)")
    found = f"governor {', '.join(governors)}"
    if set(governors) <= {"performance"}:
        return Finding("ok", "frequency", found)
    return Finding("warning", "frequency", found, "cpupower frequency-set -g performance")


def clock(source: str | None, drift_ppm: float) -> Finding:
    """What the time is read from, and whether LSL's clock runs as the monotonic clock does."""
    found = f"{source or 'source not told'}; LSL's clock runs {drift_ppm:+.1f} ppm beside the monotonic one"
    if abs(drift_ppm) > 500:
        return Finding("fault", "clock", found, "stop whatever steps the clock: bins' times would wander off")
    if source in SLOW_CLOCKS:
        return Finding("warning", "clock", found, "boot with clocksource=tsc: reading this one takes microseconds")
    return Finding("ok", "clock", found)


def lsl(file: str | None, there: bool, seconds: float | None, needed: bool = True) -> Finding:
    """LSL's configuration file, and how long it took to find a stream of this machine (None: not found)."""
    config = f"configuration {file}" if file else "no configuration file"
    if not there:
        return Finding("fault", "LSL", f"LSLAPICFG names {file}, which is not there", "unset LSLAPICFG, or write that file")
    if seconds is None:
        change = "allow multicast on lo and UDP 16571 in the firewall, or set KnownPeers = {127.0.0.1} in lsl_api.cfg"
        return Finding("fault" if needed else "warning", "LSL", f"{config}; its own stream was not found in {LSL_S:g} s", change)
    found = f"{config}; its own stream found in {seconds:.1f} s"
    if seconds > SOON_S:
        return Finding("warning", "LSL", found, "multicast is slow here: KnownPeers = {127.0.0.1} in lsl_api.cfg helps")
    return Finding("ok", "LSL", found)


def curve(available: bool) -> Finding:
    """Whether ZeroMQ can leave this machine safely."""
    if available:
        return Finding("ok", "ZeroMQ", "CURVE available")
    return Finding("warning", "ZeroMQ", "without CURVE", "install a libzmq with libsodium before using other hosts' addresses")


def ports(taken: Sequence[str]) -> Finding:
    """Whether what will be bound is free."""
    if taken:
        return Finding("fault", "ports", f"in use: {', '.join(taken)}", "end the other run, or configure other ports")
    return Finding("ok", "ports", "free")


def shared_memory(free: int | None, needed: int) -> Finding:
    """Whether /dev/shm holds what the processes share; bytes."""
    if free is None:
        return Finding("ok", "shared memory", "no /dev/shm on this system")
    found = f"{free / 2**20:.0f} MB free in /dev/shm, {needed / 2**20:.0f} MB needed"
    if free < needed:
        return Finding("fault", "shared memory", found, "docker run --shm-size=256m, or remount /dev/shm larger")
    return Finding("ok", "shared memory", found)


def disk(where: str, free: int | None, syncs: Sequence[float] | None) -> Finding:
    """Room, and time until a write is safe, where generations and recordings go."""
    if free is None or syncs is None:
        return Finding("fault", "disk", f"{where}: cannot be written", "choose another directory in out")
    found = f"{where}: {free / 2**30:.1f} GB free, slowest sync {1e3 * max(syncs):.1f} ms"
    if free < HOUR_BYTES / 8:
        return Finding("fault", "disk", found, "make room: an hour's recording would not fit")
    if max(syncs) > SYNC_S[1]:
        return Finding("warning", "disk", found, "use a faster disk: a kill could lose more than the last second of a recording")
    if free < HOUR_BYTES or max(syncs) > SYNC_S[0]:
        return Finding("warning", "disk", found, "make room or use a faster disk before a long session")
    return Finding("ok", "disk", found)


def gpu(providers: Sequence[str], listed: str | None) -> Finding:
    """Which GPU there is. None is needed: the decoder stays on the CPU, where its tail is shorter."""
    usable = "CUDAExecutionProvider" in providers
    found = listed or "none (nvidia-smi is not there or lists none)"
    return Finding("ok", "GPU", f"{found}; ONNX Runtime built {'with' if usable else 'without'} CUDA; decoding runs on the CPU")


def bundle(path: str | None, fault: str | None) -> Finding:
    """Whether the configured bundle loads; ``fault`` is the sentence that says why not."""
    if path is None:
        return Finding("ok", "bundle", f"none configured: measured with an untrained step of {CHANNELS} channels")
    if fault is not None:
        return Finding("fault", "bundle", fault, "mend or name another bundle; the decoder would stay at zero")
    return Finding("ok", "bundle", f"{path} loads, every hash agrees")


def stolen(seconds: float | None, of_s: float) -> Finding:
    """Time that the host took from this virtual machine in ``of_s`` seconds of its cores."""
    if seconds is None:
        return Finding("ok", "host", "does not tell what it takes")
    found = f"took {100 * seconds / of_s:.2f} % of the cores' time in the jitter run"
    if seconds > 0.005 * of_s:
        return Finding("warning", "host", found, "reserve cores for this virtual machine, or decode on real hardware")
    return Finding("ok", "host", found)


def tail(run: Mapping[str, Any], bin_s: float, name: str = "tail") -> Finding:
    """Predict bin-to-output: the wake-ups and steps that were measured (a :meth:`Jitter.summary`) against the bin width."""
    both, wake, step = run["both"], run["wake"], run["step"]
    found = (
        f"{run['scheduler']}: bin-to-output p50 {both['p50']:.2f}, p99 {both['p99']:.2f}, p99.9 {both['p99.9']:.2f}, "
        f"max {both['max']:.2f} ms of a {1e3 * bin_s:g} ms bin"
    )
    share = both["p99.9"] / (1e3 * bin_s)
    if share <= GOOD:
        return Finding("ok", name, found)
    wakes = wake["p99.9"] > step["p99.9"]
    change = "the wake-up is what is late: " if wakes else "the step itself is what is late: "
    change += "a real-time kernel, fewer other processes, no power saving" if wakes else "a smaller bundle, or a faster core"
    return Finding("warning" if share <= BEARABLE else "fault", name, found, change)


def default_tail(run: Mapping[str, Any], bin_s: float) -> Finding:
    """The same beside it without SCHED_FIFO, which says what that is worth: never worse than ok, for nobody asked for it."""
    seen = tail(run, bin_s, "beside it")
    return Finding("ok", seen.name, seen.found)
