"""The soak: its report on known faults, and a minute of it for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.latency_control import Lateness
from benchmarks.soak_report import Found, Memory, Told

from .made import NOTHING, heard

FIFO = "SCHED_FIFO, priority 10"


def found(trip: list[float], told: Told | None = None, control: Lateness = NOTHING, **change: Any) -> Found:
    n = len(trip)
    return Found(heard(trip, **change), told or Told(), control, Memory(), {}, 0.02, 0, FIFO, 0, recorded=n, audit="verified")


def missed(f: Found, wanted: int) -> list[str]:
    return [r.name.split(",")[0] for r in f.rows(f.figures(), wanted) if not r.met]


def test_a_run_without_a_fault_meets_every_row() -> None:
    told = Told()
    told.hear([{"from": "decoder", "report": "swapped", "generation": 1, "bin": 2}], 0.0)
    f = found([0.001] * 4, told, generation=np.array([0, 0, 1, 1]))
    assert missed(f, 4) == []
    assert f.figures()["swaps"] == [2]


def test_what_is_lost_repeated_late_or_changed_is_seen() -> None:
    n = 6
    answers = np.array([1, 0, 0, 1, 2, 1])
    order = np.array([0, 3, 5, 4, 4])
    trip = [0.001, np.nan, np.nan, 0.001, 0.001, 0.030]
    f = found(trip, answers=answers, order=order)
    figures = f.figures()
    assert (figures["lost"], figures["repeated"], figures["out_of_order"], figures["late"]) == (2, 1, 1, 1)
    assert figures["gaps"] == [[1, 2]]
    assert {"bins lost", "bins repeated", "samples out of order", "chain over (seq"} <= set(missed(f, n))
    wrong = found([0.001] * 3, t_out=np.array([11.0, 11.02, 11.041]))
    assert missed(wrong, 3) == ["chain over (seq"]
    # A generation that decoded without ever having been swapped in.
    assert missed(found([0.001] * 3, generation=np.array([0, 0, 1])), 3) == ["chain over (seq"]


def test_lateness_that_the_control_shares_is_the_machines() -> None:
    still = Lateness(np.array([10.021]), np.array([0.02]))
    f = found([0.001, 0.025, 0.001], control=still)
    assert (f.figures()["late"], f.figures()["late_machine"]) == (1, 1)
    assert missed(f, 3) == []
    assert missed(found([0.001, 0.025, 0.001]), 3) == ["bins late"]


def test_without_fifo_nothing_is_promised() -> None:
    f = found([0.001] * 3)
    f.scheduler = "default scheduler"
    assert missed(f, 3) == ["bins late"]


def test_a_rollback_changes_what_must_have_decoded() -> None:
    told = Told()
    told.hear([{"report": "swapped", "generation": 1, "bin": 2}, {"report": "rolled_back", "to": 0, "bin": 4}], 0.0)
    assert told.generations(6).tolist() == [0, 0, 1, 1, 0, 0]


def test_memory_that_grows_is_seen_and_a_peak_is_not_growth() -> None:
    m = Memory()
    assert m.growth() is None
    for at in np.arange(0.0, 3600.0, 10.0):
        mb = {"decoder": 200 + at / 360, "aligner": 300.0 + (50 if at % 70 < (60 if at > 3000 else 10) else 0)}
        if at < 100:
            mb["decoder"] += 100  # before it has settled
        m.add(at, mb | ({"standby": 190.0} if at > 50 else {}))
    grown = m.growth()
    assert grown is not None
    assert grown["decoder"] == pytest.approx((3600 - 600) / 360, abs=0.1)
    assert grown["aligner"] == grown["standby"] == 0.0
    f = found([0.001] * 3)
    f.memory = m
    assert missed(f, 3) == ["memory after 5 minutes"]


def test_time_at_work_is_from_aligning_to_verdict() -> None:
    told = Told()
    told.hear([{"report": "aligning"}], 10.0)
    told.hear([{"report": "progress"}, {"report": "verdict"}], 14.0)
    assert told.aligning_s == 4.0
    assert told.kinds["progress"] == 1
    assert told.of("verdict")
    assert not told.of("progress")


@pytest.mark.timeout(600)
def test_a_minute_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "soak.json"
    monkeypatch.setattr("sys.argv", ["soak", "--minutes", "1", "--channels", "32", "--out", str(out)])
    soak.main()
    report = json.loads(out.read_text())
    rows = {r["name"]: r for r in report["acceptance"]}
    # How late bins are is this machine's business, and no assertion of a test.
    assert [name for name, r in rows.items() if not r["met"] and not name.startswith("bins late")] == []
    assert report["bins"] == report["recorded_bins"] >= 3000
    assert len(report["swaps"]) >= 1
    assert report["memory_growth_mb"] is None
    printed = capsys.readouterr()
    assert report["chain_sent"] in printed.out
    assert "acceptance" in printed.out
    assert "minute 1: " in printed.err


@pytest.mark.parametrize(
    ("words", "says"), [(["--minutes", "0.1"], "at least 0.9"), (["--out", "/none/x"], "folder that exists")]
)
def test_bad_arguments(words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["soak", *words])
    with pytest.raises(SystemExit, match="2"):
        soak.main()
    assert says in capsys.readouterr().err
