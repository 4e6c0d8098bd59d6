"""Gates as plug-ins: installed ones, as pip leaves them, are found by name, and all must accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from bci_align.alignment.gate import judge
from bci_align.alignment.gates import Gates
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.config import GateConfig, LiveConfig, RecalibrateConfig, load
from bci_align.errors import ConfigError
from bci_align.runtime.check_config import check_config
from bci_align.session.types import Session, UnlabelledTrials, unlabelled

CODE = """
from bci_align.alignment.gate import Verdict

NUMBER = 3

def strict(bundle, incumbent, candidate, trials, config, matched=None, encoder=None):
    enough = len(trials) >= 60
    check = {"name": "trials", "value": len(trials), "bound": ">= 60", "passed": enough}
    return Verdict(enough, "enough" if enough else f"{len(trials)} trials, expected 60", (check,))

def never(*_):
    return Verdict(False, "not today", ())

def vague(*_):
    return True
"""
ENTRIES = """[bci_align.gates]
strict = house_rules:strict
never = house_rules:never
vague = house_rules:vague
number = house_rules:NUMBER
gone = house_rules:no_such_function
"""
EASY = GateConfig(
    prior_margin=10,
    unsteady=1e6,
    agreement=-1,
    information=(0, 1e6),
    halves=0,
    kl=1e6,
    diversity=0,
    spread=(0, 1e6),
    most_alike=1.0,
    most_stuck=1.0,
)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_rules.py").write_text(CODE)
    info = tmp_path / "house_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def today(small_bundle: Bundle, small_days: tuple[Session, Session]) -> UnlabelledTrials:
    return unlabelled(small_days[1], small_days[1].rewarded()[:25], small_bundle.manifest.run_in)


def test_the_standard_gate_alone_is_the_gate(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    candidate = renormalise(small_bundle.read_in, today)
    for config in (GateConfig(), EASY):
        found = Gates(("standard",))(small_bundle, small_bundle.read_in, candidate, today, config)
        assert found == judge(small_bundle, small_bundle.read_in, candidate, today, config)


def test_every_gate_must_accept_and_every_reason_is_told(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    candidate = renormalise(small_bundle.read_in, today)

    def asked(*names: str, config: GateConfig = EASY):  # type: ignore[no-untyped-def]
        return Gates(names)(small_bundle, small_bundle.read_in, candidate, today, config)

    assert asked("standard").accepted
    found = asked("standard", "strict")
    assert not found.accepted and found.reason == "gate strict: 25 trials, expected 60"
    assert [c["name"] for c in found.checks][-1] == "strict: trials"
    assert found.checks[0]["name"] == "standard: finite weights"
    both = asked("strict", "never", "standard", config=EASY.model_copy(update={"min_trials": 30}))
    assert both.reason == (
        "gate strict: 25 trials, expected 60; gate never: not today; gate standard: calibration trials 25, expected >= 30"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("carrier pigeon", r"^gates: expected one of gone, never, number, standard, strict, vague, found 'carrier pigeon'$"),
        ("gone", r"^gates: 'gone' is installed \(house_rules:no_such_function\) but cannot be loaded: "),
        ("number", r"^gates: 'number': expected a function, found int$"),
    ],
)
def test_a_gate_that_cannot_be_asked_is_refused_before_anything_runs(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Gates(("standard", name))
    with pytest.raises(ConfigError, match=sentence):
        check_config(LiveConfig(bundle="b", gates=("standard", name)))
    check_config(LiveConfig(bundle="b", gates=(name,), recalibrations=0))  # nothing will be judged


def test_a_gate_that_gives_no_verdict_never_accepts(small_bundle: Bundle, today: UnlabelledTrials) -> None:
    with pytest.raises(ConfigError, match=r"^gates: 'vague': expected a Verdict, found bool$"):
        Gates(("vague",))(small_bundle, small_bundle.read_in, small_bundle.read_in, today, EASY)


def test_no_gate_at_all_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("gates: []\n")
    with pytest.raises(ConfigError, match="key 'gates': Tuple should have at least 1 item"):
        load(RecalibrateConfig, tmp_path / "none.yaml")
