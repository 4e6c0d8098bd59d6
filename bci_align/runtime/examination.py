"""Collects what :mod:`bci_align.runtime.doctor` judges: looks at the machine, lets it run for a while, and asks every check."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bci_align.bundle.store import Bundle, load_bundle
from bci_align.config import LiveConfig
from bci_align.errors import BundleError
from bci_align.runtime import doctor, jitter, machine
from bci_align.runtime.doctor import Finding
from bci_align.runtime.shared import Shared

FINEST_S = 0.005
"""Period of the jitter run's deadlines, or the bin width if that is less: 20 s of them show one wake-up in 4,000."""

BIN_S = 0.02
"""Bin width that is predicted for where no configuration is given."""


def examine(
    config: LiveConfig | None, seconds: float, progress: Callable[[str, int, int], None]
) -> tuple[list[Finding], dict[str, Any]]:
    """Look at everything, then run for ``seconds``; findings, and the facts behind them for a program."""
    progress("looking", 0, 3)
    known = None if config is None else config.supervisor
    loaded, broken = _bundle(config)
    bin_s = BIN_S if loaded is None else loaded.manifest.bin_s
    channels = doctor.CHANNELS if loaded is None else len(loaded.manifest.channels)
    needed = Shared.nbytes(channels, jitter.HIDDEN if loaded is None else loaded.manifest.hidden)
    out = Path("." if config is None else config.out)
    found = machine.lsl_discovery(doctor.LSL_S)
    progress("looking", 1, 3)
    syncs = machine.sync_times(out)
    progress("looking", 2, 3)
    providers, listed = machine.gpus()
    allowed, everything = machine.cores()
    progress("looking", 3, 3)
    ahead, taken_s, started = machine.lsl_clock(), machine.stolen_s(), time.monotonic()
    period = min(bin_s, FINEST_S)
    path = None if loaded is None or config is None else config.bundle
    core = None if known is None else known.decoder_core
    plans = [jitter.Plan(seconds, period, *how, channels, path) for how in ((True, core), (False, None))]
    done = 0

    def tell(so_far: float) -> None:
        nonlocal done
        done = max(done, min(int(so_far), int(seconds)))
        progress("jitter run", done, int(seconds))

    fifo, default = jitter.run(plans, progress=tell)
    progress("jitter run", int(seconds), int(seconds))
    steal, elapsed = machine.stolen_s(), time.monotonic() - started
    drift = (machine.lsl_clock() - ahead) / elapsed * 1e6
    runs = {"fifo": fifo.summary(), "default": default.summary()}
    wanted = known is None or known.real_time
    led = runs["fifo"] if wanted else runs["default"]
    versions = machine.versions()
    findings = [
        doctor.scheduler(fifo.granted, fifo.scheduler, wanted),
        doctor.throttling(
            machine.number("/proc/sys/kernel/sched_rt_runtime_us"), machine.number("/proc/sys/kernel/sched_rt_period_us")
        ),
        doctor.background(machine.number("/proc/sys/kernel/sched_autogroup_enabled")),
        doctor.memory(machine.memory_lock()),
        doctor.kernel(*machine.kernel()),
        doctor.cores(allowed, everything, *((None, None) if known is None else (known.decoder_core, known.background_cores))),
        doctor.frequency(machine.governors()),
        doctor.clock(machine.clock_source(), drift),
        doctor.lsl(*machine.lsl_file(), found, config is None or "lsl" in (config.source.kind, config.sink.kind)),
        doctor.curve(machine.curve()),
        doctor.ports(machine.taken(_bound(config))),
        doctor.shared_memory(machine.free_bytes(Path("/dev/shm")) if Path("/dev/shm").exists() else None, needed),
        doctor.disk(str(out), machine.free_bytes(out), syncs),
        doctor.gpu(providers, listed),
        Finding("ok", "versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
        doctor.bundle(None if config is None else config.bundle, broken),
        doctor.stolen(None if steal is None or taken_s is None else steal - taken_s, elapsed * everything),
        doctor.tail(led, bin_s),
    ]
    if wanted:
        findings.append(doctor.default_tail(runs["default"], bin_s))
    return findings, {"jitter_ms": runs, "bin_ms": 1e3 * bin_s, "channels": channels, "versions": versions}


def _bundle(config: LiveConfig | None) -> tuple[Bundle | None, str | None]:
    """The configured bundle, or the sentence that says why it does not load."""
    if config is None:
        return None, None
    try:
        return load_bundle(config.bundle), None
    except BundleError as e:
        return None, str(e)


def _bound(config: LiveConfig | None) -> list[tuple[str, str]]:
    """What a run of ``config`` binds."""
    c = LiveConfig(bundle="") if config is None else config
    found = [("sink", c.sink.address)] if c.sink.kind == "zmq" else []
    found += [("control", c.control.address)] if c.control.address else []
    return found + ([("metrics", f"tcp://127.0.0.1:{c.control.metrics_port}")] if c.control.metrics_port else [])
