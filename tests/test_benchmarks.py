import json

import pytest

from benchmarks.common import Row, finish, spread
from benchmarks.spine import main


def test_a_row_that_is_not_met_is_printed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("fast", 3.0, "<= 5", True), Row("good", 80.123, ">= 90", False)]
    assert finish({}, rows, as_json=False) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in printed if line] == ["met", "yes", "NO"]
    assert finish({"seeds": []}, rows, as_json=True) == 1
    acceptance = json.loads(capsys.readouterr().out)["acceptance"]
    assert acceptance[1] == {"name": "good", "value": 80.123, "goal": ">= 90", "met": False}
    assert finish({}, rows[:1], as_json=False) == 0


def test_spread_is_over_seeds() -> None:
    assert spread([1.0, 3.0]) == "2.0 +- 1.4"
    assert spread([2.0]) == "2.0 +- 0.0"


def test_help_states_the_protocol(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["spine", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "120 rewarded trials" in capsys.readouterr().out.replace("\n", " ")
