"""The benchmark from end to end on little: every part runs, prints its table and gives its rows."""

import functools
import json

import pytest

from bci_align.config import AlignConfig, ExplainConfig, FactorConfig, FilmConfig
from bci_align.session.types import Session
from bci_align_sim.mixed import mixed_day
from benchmarks import interpretation, interpretation_factors, interpretation_film, interpretation_kept

pytestmark = pytest.mark.computes


def little(seed: int, trials: int, **how: object) -> Session:
    return mixed_day(seed, trials=min(trials, 60), **how)  # type: ignore[arg-type]


def test_every_part_runs_and_gives_its_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        interpretation_factors,
        "SETS",
        {
            interpretation_factors.SYNTHETIC: (
                lambda seed: (mixed_day(seed, trials=60), ExplainConfig()),
                interpretation_factors.MAIN,
            )
        },
    )
    for module in (interpretation_film, interpretation_kept):
        monkeypatch.setattr(module, "mixed_day", little)
    small = functools.partial(FilmConfig, updates=10, strides=4, width=16, blocks=2)
    monkeypatch.setattr(interpretation_film, "FilmConfig", lambda **_: small())
    shorter = interpretation_kept.BUNDLE.model_copy(update={"epochs": 2, "prior_epochs": 1})
    monkeypatch.setattr(interpretation_kept, "BUNDLE", shorter)
    monkeypatch.setattr(interpretation_kept, "FACTORS", ExplainConfig(factors=FactorConfig(updates=20)))
    monkeypatch.setattr(interpretation_kept, "CALIBRATION", 20)
    monkeypatch.setattr(interpretation_kept, "LATER", 20)
    monkeypatch.setattr(interpretation_kept, "AlignConfig", lambda: AlignConfig(steps=2))
    monkeypatch.setattr("sys.argv", ["interpretation", "--quick", "--json", "--only", "factors,film,kept"])
    assert interpretation.main() in (0, 1)  # so little learns nothing: rows need not be met
    printed = json.loads(capsys.readouterr().out)
    assert printed["quick"] is True
    names = " ".join(r["name"] for r in printed["acceptance"])
    for part in ("MIG / vanilla's", "film: selectivity", "random directions", "destroyed alignments", "cost: one film"):
        assert part in names
    assert len(printed["cases"]) >= 2
    assert {c["kind"] for c in printed["cases"]} <= {"good", "destroyed", "harmful"}
