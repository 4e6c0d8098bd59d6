"""Workers end with their run, whatever ends it: a real process killed with a real signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bci_align.comparison.workers import workers

BUSY = """
import os, sys, time
from pathlib import Path
from bci_align.comparison.workers import workers

def work(told):
    Path(told).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with workers(1) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"


def begin(value: str) -> None:
    os.environ["BCI_ALIGN_TEST_WORKER"] = value


def told() -> tuple[str | None, str | None]:
    return os.environ.get("BCI_ALIGN_TEST_WORKER"), os.environ.get("OMP_NUM_THREADS")


def test_every_worker_begins_as_asked_with_one_thread() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    with workers(1, begin, ("yes",)) as pool:
        assert pool.submit(told).result(60) == ("yes", "1")
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_does_not_outlive_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    process = subprocess.Popen([sys.executable, str(tmp_path / "busy.py"), str(tmp_path / "pid")])
    try:
        deadline = time.monotonic() + 60
        while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = int((tmp_path / "pid").read_text())
        assert not gone(worker)
    finally:
        process.send_signal(how)
        process.wait()
    deadline = time.monotonic() + 20
    while not gone(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(worker)
