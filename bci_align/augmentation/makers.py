"""What supplies generated trials to a decoder that is refitted: a generator behind its screen."""

from __future__ import annotations

import numpy as np

from bci_align.augmentation.generate import Generator
from bci_align.augmentation.retrain import Maker
from bci_align.augmentation.screen import screen
from bci_align.augmentation.trials import TrialSet
from bci_align.config import RetrainConfig
from bci_align.decoders import Floats


def screened(generator: Generator, start: TrialSet, today: TrialSet, config: RetrainConfig) -> Maker:
    """Trials that ``generator`` makes from those of ``start`` and the screen, by the real ones of ``today``, lets pass."""

    def make(targets: Floats, count: int, seed: int) -> tuple[TrialSet, dict[str, float]]:
        made, codes = generator.towards(start, targets, count, seed)
        found = screen(made, codes, generator.navigator, today, config, np.random.default_rng(seed))
        return made.of(found.kept), found.yields

    return make
