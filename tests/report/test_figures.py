import matplotlib
import numpy as np
import pytest

from bci_align.report.figures import Bar, Curve, scores, stages, timeline
from bci_align.report.latents import Cloud, latents, movement_plane
from bci_align.report.movement import Paths, Stretch, traces, trajectories
from bci_align.report.page import png
from bci_align.report.style import COLOUR

RNG = np.random.default_rng(0)


def drawn(figure):
    """Render, which must not warn, and give the axes, none of them empty and all of them labelled."""
    data = png(figure)
    assert data.startswith(b"\x89PNG") and data == png(figure)
    for ax in figure.axes:
        assert ax.has_data() or ax.patches
    assert any(ax.get_xlabel() for ax in figure.axes)
    return figure.axes


def texts(figure):
    return {t.get_text() for ax in figure.axes for t in ax.texts} | {t.get_text() for k in figure.legends for t in k.get_texts()}


def test_scores_show_every_number_in_its_colour():
    figure = scores([Bar("day 0", 91.25, "day 0"), Bar("no alignment", -312.0, "before"), Bar("swap", 84.0, "after")])
    (ax,) = drawn(figure)
    assert texts(figure) == {"91.2", "-312.0", "84.0"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["day 0", "no alignment", "swap"]
    assert "R²" in ax.get_xlabel() and "%" in ax.get_xlabel()
    assert matplotlib.colors.same_color(ax.patches[1].get_facecolor(), COLOUR["before"])
    # A hopeless decoder must not squeeze the others into a corner.
    assert ax.get_xlim()[0] == -50


@pytest.mark.parametrize("lost", [[], [0.5, 0.6]])
def test_timeline_marks_calibration_swap_and_lost_bins(lost):
    t = np.linspace(0.1, 2, 20)
    curves = [Curve("old", t[:12], 60 + t[:12], "before"), Curve("new", t[12:], 80 + t[12:], "after")]
    figure = timeline(curves, (0.0, 1.0), [1.2], lost, trials_per_point=5)
    (ax,) = drawn(figure)
    shown = texts(figure)
    assert {"old", "new", "swap", "calibration trials (no labels)", "aligning beside decoding"} <= shown
    assert ("lost bins" in shown) == bool(lost)
    assert "min" in ax.get_xlabel() and "5 trials" in ax.get_ylabel()
    assert any(np.allclose(line.get_xdata(), 1.2) for line in ax.lines)


def test_timeline_without_a_swap():
    figure = timeline([Curve("old", np.arange(4.0), np.array([np.nan, -200.0, 10.0, 20.0]), "before")])
    (ax,) = drawn(figure)
    assert ax.get_ylim() == (-60.0, 100.0)
    assert "swap" not in texts(figure)


STAGES = [
    {"stage": "identity", "denoising": 0.5, "kl": 2.0},
    {"stage": "tuning transfer", "share": 0.75, "denoising": 0.4, "kl": 1.5},
    {"stage": "refinement", "denoising": 0.35, "kl": 0.25},
]


def test_stages_show_both_terms_from_the_first_stage_down():
    figure = stages(STAGES)
    left, right = drawn(figure)
    assert [t.get_text() for t in left.get_yticklabels()] == ["identity", "tuning transfer\n(75 % of the way)", "refinement"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first stage on top
    for ax, key in ((left, "denoising"), (right, "kl")):
        assert list(ax.lines[0].get_xdata()) == [s[key] for s in STAGES]
        assert ax.get_xlabel()


def test_traces_have_a_row_per_output_and_one_legend_entry_per_role():
    t = np.arange(30) * 0.05
    true, y = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 2))
    y[4:6] = np.nan  # lost bins leave a gap
    one = Stretch("before", t, true, {"before": y}, [(0.0, 1.0)])
    two = Stretch("after", t, true, {"before": y, "after": y})
    figure = traces([one, two], ("vx", "vy"), "cm/s")
    axes = drawn(figure)
    assert len(axes) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["true", "source generation", "aligned generation"]
    assert {ax.get_ylabel() for ax in axes} == {"vx (cm/s)", "vy (cm/s)", ""}


def test_trajectories_give_each_target_one_colour_in_every_panel():
    angle = np.arange(16) % 8 * np.pi / 4
    target = 8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    straight = [np.linspace(0, 1, 9)[:, None] * p for p in target]
    astray = [5 * p for p in straight]
    figure = trajectories([Paths("True", straight), Paths("No alignment", astray)], target, "cm")
    axes = drawn(figure)
    colours = [[line.get_color() for line in ax.lines[0:32:2]] for ax in axes]
    assert colours[0] == colours[1] and colours[0][:8] == colours[0][8:] and len(set(colours[0])) == 8
    # A path that runs far out is cut, or the true reaches would be a dot.
    assert 8 < axes[0].get_xlim()[1] < 15
    assert "cm" in axes[0].get_xlabel() and "cm" in axes[0].get_ylabel()


def test_movement_plane_finds_the_axes_that_tell_the_movement():
    z = RNG.normal(size=(4000, 6))
    v = np.stack([3 * z[:, 4], 0.5 * z[:, 1]], axis=1) + 0.01 * RNG.normal(size=(4000, 2))
    plane = movement_plane(z, v)
    assert np.allclose(plane.T @ plane, np.eye(2), atol=1e-9)
    assert plane[4, 0] > 0.99 and plane[1, 1] > 0.99


@pytest.mark.parametrize("scale", [1.0, 0.05, 40.0])
def test_latents_draw_the_source_day_and_each_target(scale):
    source = scale * RNG.normal(size=(900, 4))
    clouds = [Cloud("before", source + 1.0, "before"), Cloud("after", source, "after")]
    figure = latents(Cloud("day 0", source, "day 0"), clouds, np.eye(4)[:, :2], ("vx", "vy"))
    axes = drawn(figure)
    assert len(axes) == 2 and "vx" in axes[0].get_xlabel() and "vy" in axes[0].get_ylabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()][1:] == ["before", "after"]


def test_figures_leave_no_trace_in_matplotlib():
    before = dict(matplotlib.rcParams)
    png(stages(STAGES))
    assert dict(matplotlib.rcParams) == before
