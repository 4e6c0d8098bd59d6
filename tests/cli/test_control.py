"""A run in a process of its own, and orders to it from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bci_align.bundle.store import Bundle
from bci_align.cli.main import main
from bci_align.config import LiveConfig
from bci_align.runtime.replay import _free_ports
from bci_align.streams.contract import Bin, StreamSpec
from bci_align.streams.registry import make_rig

Capture = pytest.CaptureFixture[str]


def order(capsys: Capture, *words: object) -> dict[str, Any]:
    assert main(["control", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_orders_to_a_run(small_bundle: Bundle, capsys: Capture, tmp_path: Path) -> None:
    source, sink, control = _free_ports(3)
    m = small_bundle.manifest
    path = tmp_path / "run.yaml"
    content = {
        "bundle": str(small_bundle.path),
        "out": str(tmp_path / "out"),
        "source": {"kind": "zmq", "address": source},
        "sink": {"kind": "zmq", "address": sink},
        "supervisor": {"standby": False},
        "control": {"address": control},
        "recalibrations": 0,
    }
    path.write_text(yaml.safe_dump(content))
    config = LiveConfig.model_validate(content)
    outlet, inlet = make_rig("zmq", config.source, config.sink)
    outlet.open(StreamSpec(m.channels, m.bin_s, "rig", "rig-1"))
    command = [sys.executable, "-m", "bci_align.cli.main", "run", str(path), "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        outlet.wait_for_decoder(60.0)
        inlet.open(20.0)
        counts = np.ones(len(m.channels), np.float32)
        seq = 0

        def send(bins: int) -> list[Any]:
            nonlocal seq
            heard: list[Any] = []
            for _ in range(bins):
                outlet.push(Bin(seq, 10.0 + seq * m.bin_s, counts))
                seq += 1
            deadline = time.monotonic() + 20.0
            while not heard or heard[-1].seq_in < seq - 1:
                assert time.monotonic() < deadline
                heard += inlet.read(0.2)
            return heard

        def until(ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            """A sample is heard before it is counted, and a recorder may take its time to start."""
            deadline = time.monotonic() + 60.0
            while not ready(status := order(capsys, "status", "--address", control)):
                assert time.monotonic() < deadline, status
            return status

        send(20)
        status = until(lambda s: s["bins"] == 20 and s["processes"]["recorder"]["state"] == "up")
        assert (status["phase"], status["bins"], status["lost"], status["frozen"]) == ("DECODING", 20, 0, False)
        assert status["latency"]["total"]["count"] == 20
        order(capsys, "freeze", "--config", path)
        assert not any(s.values.any() for s in send(10) if s.seq_in >= 20)
        assert order(capsys, "resume", "--address", control)["order"] == "resume"
        assert send(10)[-1].values.any()
        until(lambda s: s["bins"] == 40)
        assert main(["control", "status", "--address", control]) == 0
        text = capsys.readouterr().out
        assert "decoding; generation 0, committed 0" in text
        assert "40 bins, 0 lost" in text
        assert main(["control", "align", "--address", control]) == 2
        assert "the run never aligns" in capsys.readouterr().err
        order(capsys, "stop", "--address", control)
        told = json.loads(run.communicate(timeout=30)[0])
        assert run.returncode == 0
        assert (told["why"], told["bins"], told["gaps"]) == ("stopped", 40, 0)
    finally:
        run.kill()
        run.communicate()
        outlet.close()
        inlet.close()
    assert main(["control", "status", "--address", control, "--timeout", "0.3"]) == 2
    assert "is a run going there?" in capsys.readouterr().err
