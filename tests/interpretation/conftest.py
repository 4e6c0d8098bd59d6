"""One small synthetic day and one factor model of it, with films, for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest

from bci_align.config import ExplainConfig, FactorConfig, FilmConfig
from bci_align.interpretation.store import FactorModel
from bci_align.interpretation.train import train_model
from bci_align.session.types import Session
from bci_align_sim.mixed import Mixed, mixed_day

TINY = ExplainConfig(
    factors=FactorConfig(hidden=24, updates=120, batch=32, free=1),
    film=FilmConfig(size=12, length=16, components=16, width=32, blocks=2, updates=120, strides=20, scale=300),
)
ARRAY = Mixed(neurons=24, hidden=1)


@pytest.fixture(scope="session")
def mixed() -> Session:
    """160 trials of 20 bins, 24 channels."""
    return mixed_day(3, trials=160, bins=20, array=ARRAY)


@pytest.fixture(scope="session")
def factor_model(mixed: Session, tmp_path_factory: pytest.TempPathFactory) -> FactorModel:
    """A factor model with films: seconds of training, poor pictures, the same machinery."""
    return train_model(mixed, TINY, 0, Path(tmp_path_factory.mktemp("factors")) / "model")
