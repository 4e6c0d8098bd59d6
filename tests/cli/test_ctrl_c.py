"""Ctrl-C in every command that takes long enough to be interrupted: exit 130, nothing half written, nobody left behind."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml

from bci_align.bundle.store import Bundle
from bci_align.session import io
from bci_align.session.types import Session

LIMIT_S = 90.0


def segments(pid: int) -> list[str]:
    """Names of the shared-memory segments that process ``pid`` made and that are still there."""
    return [p.name for p in Path("/dev/shm").glob(f"bci_align_{pid}_*")]


def interrupt(words: list[str], when: bytes, folder: Path) -> tuple[int, str]:
    """Run a command on a terminal, send SIGINT as soon as ``when`` has been printed, and give its status and output."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))  # on a terminal without columns a progress bar is nothing
    command = [sys.executable, "-m", "bci_align.cli.main", *words]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True)
    os.close(slave)
    heard, sent = b"", False
    deadline = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    heard += os.read(master, 65536)
                except OSError:  # the terminal's other side is closed: the command has ended
                    break
            if when in heard and not sent:
                os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
                sent = True
        assert sent, heard.decode(errors="replace")
        status = process.wait(timeout=20)
        assert nobody_left(process.pid)
        assert not segments(process.pid)
    finally:
        if not nobody_left(process.pid, 0.0):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)
    return status, heard.decode(errors="replace")


def nobody_left(group: int, patience_s: float = 5.0) -> bool:
    """Whether every process of ``group`` ends within ``patience_s``: no decoder, no aligner, no tracker stays behind."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


@pytest.fixture
def work(tmp_path: Path, small_days: tuple[Session, Session]) -> Path:
    io.save(small_days[0], tmp_path / "day0.h5")
    io.save(small_days[1], tmp_path / "dayk.h5")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_training(work: Path) -> None:
    before = files(work)
    status, heard = interrupt(["train", "day0.h5", "--out", "b"], b"source model", work)
    assert status == 130, heard
    assert "interrupted" in heard
    assert files(work) == before


def test_recalibration(work: Path, small_bundle: Bundle) -> None:
    (work / "long.yaml").write_text("align: {steps: 100000}\n")
    before = files(work)
    words = ["recalibrate", str(small_bundle.path), "dayk.h5", "--out", "b1", "--config", "long.yaml"]
    status, heard = interrupt(words, b"alignment", work)
    assert status == 130, heard
    assert files(work) == before


def test_replay(work: Path, small_bundle: Bundle) -> None:
    words = ["replay", "dayk.h5", "--bundle", str(small_bundle.path), "--speed", "1", "--calibration", "20", "--out", "out"]
    status, heard = interrupt(words, b"playing", work)
    assert status == 130, heard
    assert not any(p.name.startswith("gen") for p in (work / "out").iterdir())


def test_run(work: Path, small_bundle: Bundle) -> None:
    """A run that waits for its stream: it is interrupted once its live processes share memory."""
    config = {
        "bundle": str(small_bundle.path),
        "out": "out",
        "source": {"stream": "no-such-stream", "connect_timeout_s": 60.0},
        "control": {"address": None},
    }
    (work / "run.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "bci_align.cli.main", "run", "run.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=work,
        start_new_session=True,
        text=True,
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not segments(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert segments(process.pid)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        heard, _ = process.communicate(timeout=30)
        assert process.returncode == 130, heard
        assert nobody_left(process.pid)
        assert not segments(process.pid)
    finally:
        if not nobody_left(process.pid, 0.0):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
