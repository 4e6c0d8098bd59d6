"""The README's rig is a rig: its code is run as it stands, and the decoder's source reads what it sends."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from bci_align.config import SourceConfig
from bci_align.session.types import bin_of
from bci_align.streams.contract import Bin, TrialEvent
from bci_align.streams.registry import make_source

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_rig_of_the_readme_connects() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    source = make_source(SourceConfig())
    try:
        spec = source.open(20.0)
        assert len(spec.channels) == 96
        assert spec.channels[0] == "elec1"
        assert spec.bin_s == pytest.approx(0.05)
        t = names["pylsl"].local_clock()
        names["events"].push_sample(["start_time"], t + 0.02)
        names["counts"].push_sample([1.0] * 96 + [0], t + 0.05)
        names["events"].push_sample([json.dumps({"event": "end_time", "trial_success": True})], t + 0.07)
        names["counts"].push_sample([2.0] * 96 + [1], t + 0.10)
        heard: list[Bin | TrialEvent] = []
        deadline = time.monotonic() + 20
        while len(heard) < 4 and time.monotonic() < deadline:
            heard += source.read(0.2)
    finally:
        source.close()
    bins = [i for i in heard if isinstance(i, Bin)]
    events = [i for i in heard if isinstance(i, TrialEvent)]
    assert [b.seq for b in bins] == [0, 1]
    assert [(e.name, e.value) for e in events] == [("start", None), ("end", True)]
    assert [bin_of(e.t - t, 0.05) for e in events] == [0, 1]


def test_every_command_and_path_it_names_exists() -> None:
    from bci_align.cli.main import COMMANDS

    root = Path(__file__).resolve().parents[1]
    assert {f"bci-align {name}" for name in COMMANDS} <= set(re.findall(r"bci-align \w+", README))
    for path in re.findall(r"`((?:configs|bci_align|benchmarks|docs)/[\w./]+)`", README) + re.findall(
        r"\]\((docs/[^)]+)\)", README
    ):
        assert (root / path).exists(), path
