from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bci_align.config import SinkConfig, SourceConfig
from bci_align.errors import ConfigError
from bci_align.streams.registry import make_rig, make_sink, make_source


@pytest.mark.parametrize("kind", ["lsl", "zmq"])
def test_kinds_that_come_with_the_package(kind: str) -> None:
    name = kind.capitalize()
    assert type(make_source(SourceConfig(kind=kind))).__name__ == f"{name}Source"
    assert type(make_sink(SinkConfig(kind=kind))).__name__ == f"{name}Sink"
    outlet, inlet = make_rig(kind, SourceConfig(kind=kind), SinkConfig(kind=kind))
    assert (type(outlet).__name__, type(inlet).__name__) == (f"{name}RigOutlet", f"{name}RigInlet")


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"^source\.kind: expected one of .*lsl.*zmq.*, found 'carrier pigeon'$"):
        make_source(SourceConfig(kind="carrier pigeon"))
    with pytest.raises(ConfigError, match=r"^sink\.kind: expected one of .*lsl.*zmq"):
        make_sink(SinkConfig(kind="smoke"))
    with pytest.raises(ConfigError, match=r"^rig kind: expected one of lsl, zmq, found 'smoke'$"):
        make_rig("smoke", SourceConfig(), SinkConfig())


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plug-in as pip would leave it: a module and its metadata on the path."""
    (tmp_path / "pigeon.py").write_text("class Pigeon:\n    def __init__(self, config):\n        self.config = config\n")
    info = tmp_path / "pigeon-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bci_align.sources]\npigeon = pigeon:Pigeon\nbroken = no_such_module:X\nlame = pigeon:Dove\nzmq = pigeon:Pigeon\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_plugin_is_found(plugin: Path) -> None:
    config = SourceConfig(kind="pigeon", stream="roof")
    assert make_source(config).config is config  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind, reason", [("broken", "no_such_module"), ("lame", "Dove")])
def test_a_plugin_that_cannot_be_loaded_is_named(plugin: Path, kind: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"'{kind}' is installed .* but cannot be loaded: .*{reason}"):
        make_source(SourceConfig(kind=kind))


def test_two_plugins_of_one_kind_are_refused(plugin: Path) -> None:
    with pytest.raises(ConfigError, match="'zmq' is claimed by more than one plug-in"):
        make_source(SourceConfig(kind="zmq"))


def test_liblsl_is_loaded_only_for_lsl() -> None:
    code = (
        "import sys, bci_align.streams, bci_align.streams.registry as r\n"
        "from bci_align.config import SourceConfig\n"
        "r.make_source(SourceConfig(kind='zmq'))\n"
        "assert 'pylsl' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
