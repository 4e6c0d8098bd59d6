"""``bci-align doctor`` as it is typed: one short real run, and what it leaves with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bci_align.cli import doctor
from bci_align.cli.main import main
from bci_align.runtime.doctor import Finding

Capture = pytest.CaptureFixture[str]


def test_a_short_real_run_in_words(capsys: Capture) -> None:
    status = main(["doctor", "--seconds", "1"])
    out = capsys.readouterr().out
    assert "untrained step of 96 channels" in out
    assert "bin-to-output p50" in out
    assert status == (0 if " 0 fault" in out else 1)
    counted = out.splitlines()
    assert counted[-1].startswith(f"{len(counted) - 1} checks: ")


def test_a_fault_is_status_one_and_the_report_is_still_told(capsys: Capture, tmp_path: Path) -> None:
    config = tmp_path / "live.yaml"
    config.write_text(f"bundle: {tmp_path / 'gone'}\nout: {tmp_path}\n")
    assert main(["doctor", "--seconds", "1", "--config", str(config), "--json"]) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["fit"] is False
    assert [f["name"] for f in report["findings"] if f["level"] == "fault"].count("bundle") == 1
    assert "not fit to decode" in report["error"]
    assert "no such bundle directory" in said.err
    assert {"fifo", "default"} == set(report["jitter_ms"])


def test_a_configuration_that_is_none_is_bad_input(capsys: Capture, tmp_path: Path) -> None:
    assert main(["doctor", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_worst_comes_last() -> None:
    text = doctor.lines([Finding("fault", "a", "x", "y"), Finding("ok", "b", "z"), Finding("warning", "c", "u", "v")])
    assert [line.split()[0] for line in text.splitlines()] == ["ok", "warning", "fault", "3"]
    assert text.splitlines()[2].endswith("x -> y")
