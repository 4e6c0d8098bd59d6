import numpy as np
import pytest

from bci_align.comparison import table
from bci_align.comparison.figures import cost, curve, figures, trial_latents
from bci_align.comparison.summary import Headline, Row, Summary
from bci_align.report.page import png

RNG = np.random.default_rng(0)


def row(method, kind, trials, r2, seconds=1.0, **more):
    given = {
        "worst_gain": 0.1,
        "of_oracle": 0.98,
        "recovered": 0.5,
        "worth": "12",
        "prior_loss": 0.6,
        "gaussian_kl": 0.1,
        "failed": 0,
    }
    seeds = tuple(range(len(r2))) if r2 else ()
    return Row(method, kind, trials, seeds, r2 or None, seconds=seconds, **(given | more))


RIVALS = {"none": 67.0, "renormalise": 95.4, "running": 95.2, "coral": 93.1, "mmd": 92.0, "cycle_gan": -300.0}


@pytest.fixture
def summary():
    rows = [row("ours", "ours", n, (v, v + 0.4)) for n, v in ((5, 95.0), (20, 96.1), (120, 96.7))]
    rows += [row(name, "rival", n, (v, v + 1)) for name, v in RIVALS.items() for n in (5, 20, 120)]
    rows += [row(f"supervised ({k})", "supervised", k, (v, v)) for k, v in ((5, 94.0), (10, 96.2))]
    rows += [row("supervised (all)", "supervised", 120, (97.6, 97.7), seconds=20.0)]
    line = Headline("R2 (%)", 96.9, (96.0, 97.1), 95.9, 1.0, (0.4, 1.7), ("96.9 [96, 97.1]", "95.9"))
    return Summary("isometric", 104, 120, True, False, tuple(rows), "renormalise", {"ours": (line,)}, ())


def legend(figure):
    return [t.get_text() for k in figure.legends for t in k.get_texts()]


def test_the_curve_has_supervised_dashed_against_its_labelled_trials(summary):
    figure = curve(summary)
    assert png(figure).startswith(b"\x89PNG")
    (ax,) = figure.axes
    assert legend(figure) == ["ours", "re-normalised", "supervised, labelled trials"]  # the best rival is re-normalisation
    assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--"]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([95.2, 96.3, 96.9])
    assert ax.lines[2].get_xdata() == pytest.approx([5, 10, 120], rel=0.02)
    assert ax.get_xscale() == "log"


def test_cost_names_every_method_and_keeps_the_best_apart(summary):
    figure = cost(summary)
    assert png(figure).startswith(b"\x89PNG")
    (ax,) = figure.axes
    assert [t.split()[1] for t in legend(figure)] == [
        "supervised", "ours", "renormalise", "running", "coral", "mmd", "none", "cycle_gan",
    ]  # fmt: skip
    assert ax.get_ylim()[0] > 60
    assert ["below" in t for t in legend(figure)] == [False] * 6 + [True] * 2
    marks = {(line.get_marker(), line.get_color()) for line in ax.lines}
    assert len(marks) == len(ax.lines)
    inside = figure.axes[0].get_window_extent()
    assert figure.legends[0].get_window_extent().x0 > inside.x1


def test_latents_draw_trials_of_three_panels_around_the_source(summary):
    def trials(centre):
        return [centre + m + 0.2 * RNG.normal(size=(20, 5)) for m in RNG.normal(size=(30, 5)) * (3, 0.1, 0.1, 2, 0.1)]

    days = {"source": trials(7.0), "before": trials(9.0), "after": trials(7.0)}
    figure = trial_latents(days, shown=10)
    data = png(figure)
    assert data.startswith(b"\x89PNG")
    assert [len(ax.lines) for ax in figure.axes] == [11, 21, 21]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Source day", "New day, source's read-in", "New day, aligned"]
    # The plane in which whole trials differ, from its own centre; no title is cut off.
    centre = [ax.lines[-1].get_xydata()[0] for ax in figure.axes]
    assert np.abs(centre[0]).max() < 1e-9 < 0.5 < np.abs(centre[1]).max()
    assert all(ax.title.get_window_extent().y1 < figure.bbox.y1 for ax in figure.axes)
    spread = np.std(np.concatenate([line.get_xydata() for line in figure.axes[0].lines[:-1]]), axis=0)
    assert spread.min() > 1.0


def test_figures_are_those_that_there_are_data_for(summary):
    assert set(figures(summary, {})) == {"isometric-curve", "isometric-cost"}
    blind = Summary("blind", 10, 10, False, False, (row("ours", "ours", 10, ()),), None, {}, ())
    assert figures(blind, {}) == {}


def test_tables(summary):
    main = table.main(summary)
    assert all(len(r) == len(main[0]) for r in main)
    assert [r[0] for r in main[1:]] == [
        "ours", "renormalise", "running", "coral", "mmd", "none", "cycle_gan",
        "supervised (5)", "supervised (10)", "supervised (all)",
    ]  # fmt: skip
    assert main[1][1:7] == ("96.9 +- 0.3", "96.7", "+0.1", "0.980", "50 %", "12")
    assert table.curve(summary)[1] == ("ours", "95.2", "96.3", "96.9")
    assert table.headlines(summary)[1] == ("R2 (%)", "96.9 [96, 97.1]", "95.9", "+1 [+0.4, +1.7]")
    assert "104 later trials scored; same channels" in table.title(summary)
