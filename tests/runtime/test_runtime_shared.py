"""Shared memory across processes: nobody but its creator removes it, and nobody complains at exit."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from bci_align.errors import RuntimeFault
from bci_align.runtime import shared as module
from bci_align.runtime.ring import RingReader
from bci_align.runtime.shared import Cell, Shared

from .attached import attached
from .conftest import segments
from .rigs import kill


def test_a_spawned_process_writes_and_leaves_the_segment_to_its_creator(capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    shared = Shared.create(5, 3)
    ours, theirs = context.Pipe()
    child = context.Process(target=attached, args=(shared.layout, theirs))
    child.start()
    theirs.close()
    try:
        assert ours.recv() == "written"
        ours.send("end")
        child.join(20)
        assert child.exitcode == 0
        assert len(RingReader(shared.ring).read()[1]) == 10
        found = shared.mailbox.poll()
        assert found is not None
        assert found[1] == 4
        assert shared.get(Cell.BINS) == 10
        assert shared.layout.name in segments()
    finally:
        ours.close()
        child.close()
        shared.close()
        shared.close()
    assert shared.layout.name not in segments()
    assert capfd.readouterr().err == ""


def test_a_killed_process_leaves_the_segment_usable() -> None:
    context = multiprocessing.get_context("spawn")
    shared = Shared.create(5, 3)
    ours, theirs = context.Pipe()
    child = context.Process(target=attached, args=(shared.layout, theirs))
    child.start()
    theirs.close()
    try:
        ours.recv()
        kill(child.pid)
        child.join(20)
        assert len(RingReader(shared.ring).read()[1]) == 10
    finally:
        ours.close()
        child.close()
        shared.close()


def test_an_unrelated_process_that_attaches_does_not_remove_it_at_exit() -> None:
    """With a resource tracker of its own: Python 3.11's would unlink the segment and warn."""
    shared = Shared.create(5, 3)
    try:
        code = f"""
            from bci_align.runtime.shared import Layout, Shared
            s = Shared.attach({shared.layout!r})
            print(s.ring.head)
            s.close()
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == ("0", "")
        assert shared.layout.name in segments()
    finally:
        shared.close()


def test_a_full_shared_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(segment: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_reserve", full)
    with pytest.raises(RuntimeFault, match=r"shared memory: expected .* \(No space left"):
        Shared.create(5, 3)


def test_the_ring_is_bounded_in_bytes() -> None:
    shared = Shared.create(1024, 3)
    try:
        assert 2**12 < shared.layout.capacity < 2**14
    finally:
        shared.close()
