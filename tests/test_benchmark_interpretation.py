"""The benchmark's own instruments: its tracker, its destroyer, its acceptance rows."""

import numpy as np
import pytest

from bci_align.interpretation.scene import Scene, field
from bci_align.models.read_in import ReadIn
from bci_align_sim.mixed import mixed_day
from benchmarks import interpretation_factors as factors
from benchmarks import interpretation_film as film
from benchmarks import interpretation_kept as kept

SIZE = 16
SCENE = Scene(
    kind="cursor", position=("x", "y"), integrated=False, centre=(0, 0), reach=1, levels=("g",), low=(0,), high=(1,), size=SIZE
)


def test_the_tracker_finds_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    place, level = rng.uniform(-0.9, 0.9, (50, 2)), rng.uniform(0, 1, (50, 1))
    clips = SCENE.draw(place, level)[None]
    x, y, bar = film.track(clips)
    margin, span = field(SIZE)
    assert x[0] == pytest.approx(margin + span * (place[:, 0] + 1) / 2, abs=0.1)
    assert y[0] == pytest.approx(margin + span * (1 - place[:, 1]) / 2, abs=0.1)
    assert bar[0] == pytest.approx(level[:, 0], abs=0.01)
    assert film.residual(clips) < 1e-4


def test_a_frame_that_no_scene_has_leaves_a_residual() -> None:
    clips = SCENE.draw(np.zeros((4, 2)), np.full((4, 1), 0.5))[None]
    assert film.residual(np.clip(clips + 0.3, 0, 1)) > 0.02


def test_variances_are_those_of_velocity_and_level() -> None:
    t = np.linspace(0, 4 * np.pi, 48)
    still, moving = np.zeros((48, 2)), np.column_stack([0.8 * np.sin(t), np.zeros(48)])
    quiet, lively = (film.variances(SCENE.draw(p, np.full((48, 1), 0.5))[None]) for p in (still, moving))
    assert lively[0] > 100 * max(quiet[0], 1e-9)
    assert lively[1] < 1e-3 * lively[0]


def test_selectivity_is_against_the_mean_of_the_others() -> None:
    assert film.selectivity(np.array([6.0, 1.0, 2.0]), 0) == 4.0


def test_a_destroyed_read_in_is_not_correlated_with_the_behaviour_any_more() -> None:
    day = mixed_day(0, trials=200)
    c = day.counts.shape[1]
    mean = day.counts.mean(0).astype(np.float32)
    weight = np.random.default_rng(0).standard_normal((c, 6)).astype(np.float32)
    whole = ReadIn(mean, np.ones(c, np.float32), weight, np.zeros(6, np.float32))
    bad = kept.destroyed(whole, day, 1)
    assert day.kinematics is not None
    r = [[np.corrcoef(r.apply(day.counts)[:, i], day.kinematics[:, 1])[0, 1] for i in range(6)] for r in (whole, bad)]
    assert np.abs(r[0]).max() > 0.1
    assert np.abs(r[1]).max() < 1e-3


def measures(mig: float, diagonal: float, off: float, rec: float) -> dict[str, object]:
    return {
        "mig": mig, "diagonal": np.full(3, diagonal), "r2_full": np.full(3, 0.9), "off_diagonal": off, "relative_gap": 0.9,
        "reconstruction_r2": rec, "cpu_s": 10.0,
    }  # fmt: skip


def test_acceptance_rows_of_the_factors() -> None:
    good = {factors.OURS: [measures(0.4, 0.89, 0.01, 0.30)], factors.VANILLA: [measures(0.03, 0.1, 0.4, 0.32)]}
    assert all(r.met for r in factors.acceptance(factors.SYNTHETIC, good))
    bad = {factors.OURS: [measures(0.2, 0.80, 0.2, 0.20)], factors.VANILLA: [measures(0.03, 0.1, 0.4, 0.32)]}
    assert [r.met for r in factors.acceptance(factors.SYNTHETIC, bad)] == [False, False, True, False, False]
    assert len(factors.acceptance("centre-out", bad)) == 4


def test_acceptance_rows_of_the_report() -> None:
    cases = [{"kind": "good", "right": True}, {"kind": "destroyed", "right": True}, {"kind": "destroyed", "right": False}]
    assert [(r.value, r.met) for r in kept.acceptance(cases)] == [("1", False), ("0", True)]
