import numpy as np

from bci_align.report.factors import Matrix, Span, intervals, matrices, over_time
from bci_align.report.page import png


def test_every_cell_has_its_number() -> None:
    fig = matrices([Matrix("before", np.array([[0.9, -0.001], [-3.0, 0.5]]))], ["a", "b"], ["u", "v"])
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert texts == ["0.90", "0.00", "< -1", "0.50"]
    assert png(fig, 60)


def test_a_factor_is_turned_to_its_behaviour() -> None:
    u = np.sin(np.linspace(0, 9, 80))[:, None]
    fig = over_time([np.column_stack([-3 * u, u]) + 1], [u], ["x"], ["free 1"], 0.05)
    behaviour, factor = (line.get_ydata() for line in fig.axes[0].lines[:2])
    assert np.allclose(behaviour, factor, atol=1e-6)
    assert png(fig, 60)


def test_a_behaviour_with_gaps_is_drawn() -> None:
    u = np.sin(np.linspace(0, 9, 80))[:, None]
    u[20:30] = np.nan
    assert png(over_time([np.nan_to_num(u)], [u], ["x"], [], 0.05), 60)


def test_intervals_are_cut_where_nothing_is_left_to_see() -> None:
    fig = intervals(["x: lost"], [("after", "after", [Span(-7.0, -9.0, -5.0)])], "99 %")
    assert fig.axes[0].lines[0].get_xdata()[0] == -1.0
    assert png(fig, 60)
