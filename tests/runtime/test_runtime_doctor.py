"""What the doctor says of one fact after another, and what the machine and a run on it really tell."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.bundle.store import Bundle
from bci_align.config import LiveConfig
from bci_align.errors import RuntimeFault
from bci_align.runtime import doctor, examination, jitter, machine
from bci_align.runtime.doctor import Finding


def run_of(p999: float, wake: float = 0.1, step: float = 0.2) -> dict[str, Any]:
    def q(v: float) -> dict[str, float]:
        return {"p50": v / 2, "p99": v, "p99.9": v, "max": 2 * v}

    return {"scheduler": "SCHED_FIFO, priority 10", "both": q(p999), "wake": q(wake), "step": q(step)}


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (doctor.scheduler(True, "SCHED_FIFO, priority 10"), "ok", "SCHED_FIFO"),
        (doctor.scheduler(False, "SCHED_FIFO was not granted"), "warning", "rtprio"),
        (doctor.scheduler(True, "SCHED_FIFO", wanted=False), "warning", "supervisor.real_time"),
        (doctor.throttling(950_000, 1_000_000), "ok", "950 of every 1000 ms"),
        (doctor.throttling(-1, 1_000_000), "ok", "not limited"),
        (doctor.throttling(None, None), "ok", "does not"),
        (doctor.throttling(100_000, 1_000_000), "warning", "sysctl kernel.sched_rt_runtime_us"),
        (doctor.throttling(0, 1_000_000), "fault", "sysctl"),
        (doctor.background(1), "warning", "sched_autogroup_enabled=0"),
        (doctor.background(0), "ok", "every process"),
        (doctor.background(None), "ok", "every process"),
        (doctor.memory(-1), "ok", "not limited"),
        (doctor.memory(None), "ok", "does not tell"),
        (doctor.memory(8 * 2**20), "warning", "limited to 8 MB"),
        (doctor.kernel("Linux 6.1", True), "ok", "with PREEMPT_RT"),
        (doctor.kernel("Linux 6.1", False), "ok", "without PREEMPT_RT"),
        (doctor.cores((0, 1), 8, None, None), "ok", "2 of 8"),
        (doctor.cores((0,), 8, None, None), "warning", "give it two"),
        (doctor.cores((0, 1), 8, 5, (0,)), "fault", "not core 5"),
        (doctor.cores((0, 1), 8, 1, (1,)), "warning", "keep them apart"),
        (doctor.cores((0, 1), 8, 1, (0,)), "ok", "2 of 8"),
        (doctor.frequency(()), "ok", "no governor"),
        (doctor.frequency(("performance",)), "ok", "performance"),
        (doctor.frequency(("performance", "powersave")), "warning", "cpupower"),
        (doctor.clock("tsc", 0.3), "ok", r"tsc; LSL's clock runs \+0.3 ppm"),
        (doctor.clock("hpet", 0.0), "warning", "clocksource=tsc"),
        (doctor.clock("tsc", -900.0), "fault", "-900"),
        (doctor.lsl(None, True, 0.1), "ok", "no configuration file; its own stream found in 0.1 s"),
        (doctor.lsl("lsl_api.cfg", True, 3.0), "warning", "KnownPeers"),
        (doctor.lsl(None, True, None), "fault", "multicast"),
        (doctor.lsl(None, True, None, needed=False), "warning", "multicast"),
        (doctor.lsl("/nowhere.cfg", False, 0.1), "fault", "LSLAPICFG names /nowhere.cfg"),
        (doctor.curve(True), "ok", "CURVE"),
        (doctor.curve(False), "warning", "libsodium"),
        (doctor.ports([]), "ok", "free"),
        (doctor.ports(["control tcp://127.0.0.1:1"]), "fault", "in use: control"),
        (doctor.shared_memory(2**30, 2**20), "ok", "1024 MB free"),
        (doctor.shared_memory(2**19, 2**20), "fault", "--shm-size"),
        (doctor.shared_memory(None, 2**20), "ok", "no /dev/shm"),
        (doctor.disk("out", 2**34, [0.001, 0.003]), "ok", "slowest sync 3.0 ms"),
        (doctor.disk("out", 2**34, [0.001, 0.2]), "warning", "faster disk"),
        (doctor.disk("out", 2**34, [0.9]), "warning", "a kill could lose more"),
        (doctor.disk("out", 2**26, [0.001]), "fault", "make room"),
        (doctor.disk("out", 2**34, None), "fault", "cannot be written"),
        (doctor.gpu(("CPUExecutionProvider",), None), "ok", "none .*without CUDA"),
        (doctor.gpu(("CUDAExecutionProvider",), "H100"), "ok", "H100; ONNX Runtime built with CUDA"),
        (doctor.bundle(None, None), "ok", "none configured"),
        (doctor.bundle("b", None), "ok", "every hash agrees"),
        (doctor.bundle("b", "b: no such bundle directory"), "fault", "no such bundle"),
        (doctor.stolen(0.01, 40.0), "ok", "0.03 %"),
        (doctor.stolen(1.0, 40.0), "warning", "reserve cores"),
        (doctor.stolen(None, 40.0), "ok", "does not tell"),
        (doctor.tail(run_of(0.9), 0.02), "ok", r"p99\.9 0\.90, max 1\.80 ms of a 20 ms bin"),
        (doctor.tail(run_of(9.0, wake=8.0), 0.02), "warning", "the wake-up is what is late"),
        (doctor.tail(run_of(30.0, step=29.0), 0.02), "fault", "the step itself is what is late"),
        (doctor.default_tail(run_of(30.0), 0.02), "ok", "30.00"),
    ],
)
def test_a_fact_gives_a_finding(finding: Finding, level: str, says: str) -> None:
    import re

    assert finding.level == level
    assert re.search(says, f"{finding.found} {finding.change}"), finding
    # What is wrong can be changed; what is right need not be.
    assert bool(finding.change) == (level != "ok")


def test_the_machine_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.text(str(tmp_path / "none")) is None
    (tmp_path / "n").write_text("-1\n")
    assert machine.number(str(tmp_path / "n")) == -1
    (tmp_path / "n").write_text("tsc\n")
    assert machine.number(str(tmp_path / "n")) is None
    allowed, everything = machine.cores()
    assert 1 <= len(allowed) <= everything
    assert machine.existing(tmp_path / "a" / "b") == tmp_path
    assert (machine.free_bytes(tmp_path / "a") or 0) > 0
    times = machine.sync_times(tmp_path / "a")
    assert times is not None
    assert min(times) > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "n"]
    assert machine.versions()["python"] == sys.version.split()[0]
    monkeypatch.setenv("LSLAPICFG", str(tmp_path / "gone.cfg"))
    assert machine.lsl_file() == (str(tmp_path / "gone.cfg"), False)
    monkeypatch.setenv("LSLAPICFG", str(tmp_path / "n"))
    assert machine.lsl_file() == (str(tmp_path / "n"), True)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
        assert machine.taken([("sink", address), ("control", "ipc:///tmp/x")]) == [f"sink {address}"]
    assert machine.taken([("sink", address)]) == []


def test_an_own_stream_is_found() -> None:
    assert machine.lsl_discovery(20.0) is not None


def test_deadlines_stay_on_their_grid_and_late_work_makes_the_next_ones_late() -> None:
    calls = iter(range(100))

    def work() -> None:
        if next(calls) == 3:  # one step of some five periods
            until = jitter.time.monotonic() + 0.05
            while jitter.time.monotonic() < until:
                pass

    late = jitter.measure(0.3, 0.01, work)
    assert len(late.wake) == len(late.done) == 30
    assert (late.wake >= 0).all()
    assert (late.done >= late.wake).all()
    assert late.done[3] >= 0.05
    np.testing.assert_array_less(np.array([0.039, 0.029, 0.019, 0.009]), late.wake[4:8])
    assert jitter.quantiles(np.array([0.001, 0.003]))["max"] == 3.0


def test_a_run_of_a_bundle_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match=r"jitter run: BundleError: .*gone: no such bundle directory"):
        jitter.run([jitter.Plan(0.1, 0.01, False, bundle=str(tmp_path / "gone"))], load=False)


def test_a_whole_examination(bundle: Bundle, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    config = LiveConfig.model_validate({"bundle": str(bundle.path), "out": str(tmp_path / "out")})
    findings, facts = examination.examine(config, 1.0, lambda *p: heard.append(p))
    by_name = {f.name: f for f in findings}
    assert len(by_name) == len(findings) == 19
    assert by_name["bundle"].level == "ok"
    assert by_name["disk"].level != "fault"  # how fast it is depends on who else writes
    assert (facts["channels"], facts["bin_ms"]) == (len(bundle.manifest.channels), pytest.approx(1e3 * bundle.manifest.bin_s))
    granted = hasattr(os, "sched_setscheduler") and facts["jitter_ms"]["fifo"]["granted"]
    assert by_name["scheduler"].level == ("ok" if granted else "warning")
    for run in facts["jitter_ms"].values():
        assert run["n"] == 200
        assert 0 < run["step"]["p50"] <= run["both"]["p50"] <= run["both"]["max"]
    assert heard[-1] == ("jitter run", 1, 1)
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_does_not_load_is_a_finding_and_the_run_goes_on(tmp_path: Path) -> None:
    config = LiveConfig.model_validate({"bundle": str(tmp_path / "gone"), "out": str(tmp_path)})
    loaded, sentence = examination._bundle(config)
    assert loaded is None
    assert "no such bundle directory" in str(sentence)
