"""A small model of trials, trained for real on the small simulated day."""

import pytest

from bci_align.augmentation.model import Model, train
from bci_align.augmentation.trials import TrialSet, cut
from bci_align.config import AugmentConfig
from bci_align.session.types import Session

TINY = AugmentConfig(before_s=0.5, after_s=0.7, code=6, width=8, steps=40, updates=40, batch=32, sampling=8)


@pytest.fixture(scope="session")
def cuts(small_days: tuple[Session, Session]) -> TrialSet:
    return cut(small_days[0], small_days[0].rewarded(), TINY)[0]


@pytest.fixture(scope="session")
def model(small_days: tuple[Session, Session]) -> Model:
    return train(small_days[0], small_days[0].rewarded(), TINY, 0)
