from __future__ import annotations

import json
from pathlib import Path

import pytest

from bci_align.cli.main import main
from bci_align.streams.curve import public_key

pytestmark = pytest.mark.computes


def test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", str(tmp_path / "keys"), "--json"]) == 0
    files = [Path(f) for f in json.loads(capsys.readouterr().out)["files"]]
    assert [f.name for f in files[::2]] == ["decoder.key", "rig.key", "operator.key"]
    assert len({public_key(f, "keys") for f in files}) == 3  # a pair each
    assert main(["keys", str(tmp_path / "keys"), "rig"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["keys", str(tmp_path / "keys"), "tablet"]) == 0
    assert "tablet.key_secret: written" in capsys.readouterr().out
