import numpy as np
import pytest

from bci_align.report.style import TARGETS
from bci_align.report.trials_overview import colours


@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_neighbours_on_a_ring_have_neighbouring_colours(turn: float) -> None:
    angle = np.arange(8) * np.pi / 4 + turn
    ring = 3 + 5 * np.c_[np.cos(angle), np.sin(angle)]
    shuffled = np.random.default_rng(0).permutation(8)
    given = dict(zip(shuffled.tolist(), colours(ring[shuffled]), strict=True))
    order = [TARGETS.index(given[k]) for k in range(8)]
    assert sorted(order) == list(range(8))
    assert all((b - a) % 8 == 1 for a, b in zip(order, [*order[1:], order[0]], strict=True))


def test_targets_on_a_line_and_more_than_there_are_colours_have_some() -> None:
    assert colours(np.array([[1.0], [-3.0], [2.0]])) == [TARGETS[1], TARGETS[0], TARGETS[2]]
    assert len(colours(np.random.default_rng(0).normal(size=(30, 2)))) == 30
