"""What a process of the live system does with what it has been given."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FREED = """
import sys
from pathlib import Path
from bci_align.runtime import process

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

blocks = [bytearray(100_000) for _ in range(600)]  # small enough that each is no mapping of its own
last = bytearray(100_000)  # in use above them: the heap cannot shrink from its end
held = resident()
del blocks
kept = resident()
process.trim()
print(held, kept, resident(), len(last))
"""


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim")), reason="a C library without malloc_trim"
)
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=60)
    held, kept, trimmed, _ = map(float, done.stdout.split())
    assert kept > held - 10  # what trimming is for
    assert trimmed < held - 40
