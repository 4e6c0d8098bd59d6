from dataclasses import fields, replace

import numpy as np
import pytest

from bci_align_sim.subject import Subject
from bci_align_sim.task import move
from bci_align_sim.tuning import BASELINE_HZ, SOFT_HZ, Tuning

pytestmark = pytest.mark.computes

REST = np.zeros((1, 2))


def plain(tuning: Tuning) -> Tuning:
    """The same tuning without anything that makes a spike depend on more than the movement."""
    return replace(tuning, history=0 * tuning.history, shared=0 * tuning.shared)


def constant(channels: int, hz: float, history: tuple[float, float] = (0.0, 0.0), shared: float = 0.0) -> Tuning:
    zero = np.zeros(channels)
    return replace(
        Tuning.draw(channels, 0),
        baseline_hz=zero + hz,
        depth_hz=zero,
        speed_hz=zero,
        position_hz=np.zeros((channels, 2)),
        history=np.tile(history, (channels, 1)),
        shared=np.full((channels, 3), shared),
    )


def test_baselines_are_as_in_cortex():
    t = Tuning.draw(2000, 1)
    silent = t.baseline_hz < 1
    assert 0.02 < silent.mean() < 0.07
    spoken = t.baseline_hz[~silent]
    assert spoken.min() >= BASELINE_HZ[0] and spoken.max() <= BASELINE_HZ[1]
    assert 7 < np.median(spoken) < 11
    assert 0.05 < t.lead_s.mean() < 0.15 and t.lead_s.min() >= 0


def test_preferred_directions_cover_the_circle():
    t = Tuning.draw(2000, 2)
    assert abs(np.exp(1j * t.pd_rad).mean()) < 0.05


def test_rate_is_a_cosine_of_the_direction_with_its_peak_at_the_preferred_one():
    t = plain(Tuning.draw(96, 3))
    # Baselines high enough that the rectifier stays out of the cosine's way.
    t = replace(t, baseline_hz=t.baseline_hz + 200.0)
    angles = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    speed = 10.0
    rates = t.rates(np.zeros((64, 2)), speed * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    first = (rates * np.exp(1j * angles)[:, None]).mean(0) * 2
    np.testing.assert_allclose(np.angle(np.exp(1j * (np.angle(first) - t.pd_rad))), 0, atol=1e-3)
    np.testing.assert_allclose(np.abs(first), speed * t.depth_hz, rtol=1e-3)
    np.testing.assert_allclose(rates.mean(0), t.baseline_hz + speed * t.speed_hz, rtol=1e-3)


def test_a_fit_to_the_counts_recovers_the_preferred_directions():
    t = Tuning.draw(48, 4)
    m = move(80, 4)
    counts = Subject(t).run(np.random.default_rng(0), m.position, m.velocity)
    errors = []
    for c in np.flatnonzero(t.baseline_hz * t.depth_hz > 1.0):
        ahead = round(t.lead_s[c] / 0.02)
        v, p = m.velocity[ahead:], m.position[ahead:]
        x = np.concatenate([v, np.linalg.norm(v, axis=1, keepdims=True), p, np.ones((len(v), 1))], axis=1)
        w = np.linalg.lstsq(x, counts[: len(v), c].astype(float), rcond=None)[0]
        errors.append(np.rad2deg(np.angle(np.exp(1j * (np.arctan2(w[1], w[0]) - t.pd_rad[c])))))
    assert len(errors) > 15
    assert np.median(np.abs(errors)) < 8


def test_position_moves_the_rate_by_its_gradient():
    t = replace(constant(3, 50.0), position_hz=np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    change = t.rates(np.array([[4.0, 3.0]]), REST) - t.rates(REST, REST)
    np.testing.assert_allclose(change, [[4.0, 6.0, 0.0]], atol=0.01)


def test_rates_are_never_negative_and_dead_channels_never_fire():
    t = Tuning.draw(96, 5)
    t = replace(t, alive=np.arange(96) != 7)
    fast = 60 * np.random.default_rng(0).standard_normal((500, 2))
    rates = t.rates(np.zeros((500, 2)), fast)
    assert rates.min() >= 0 and (rates[:, 7] == 0).all() and (rates[:, 8] > 0).all()
    assert Subject(t).run(np.random.default_rng(0), fast, fast)[:, 7].sum() == 0
    assert constant(1, 0.0).rates(REST, REST)[0, 0] == pytest.approx(SOFT_HZ)


@pytest.mark.parametrize("bin_s", [0.01, 0.02, 0.05])
def test_stepping_equals_running(bin_s):
    m = move(4, 6, bin_s)
    s = Subject(Tuning.draw(24, 6), bin_s)
    whole = s.run(np.random.default_rng(1), m.position, m.velocity)
    rng = np.random.default_rng(1)
    state = s.state0(m.position[: s.lead], m.velocity[: s.lead])
    for k in range(len(whole)):
        ahead = k + s.lead
        inside = ahead < len(whole)
        state, counts = s.step(rng, state, m.position[min(ahead, len(whole) - 1)], m.velocity[ahead] if inside else np.zeros(2))
        np.testing.assert_array_equal(counts, whole[k])
    assert whole.dtype == counts.dtype == np.int32


def test_cortex_leads_the_movement():
    t = replace(constant(60, 40.0), depth_hz=np.full(60, 4.0), pd_rad=np.zeros(60), lead_s=np.full(60, 0.1))
    velocity = np.zeros((400, 2))
    velocity[200:, 0] = 10.0
    counts = Subject(t).run(np.random.default_rng(0), np.zeros((400, 2)), velocity).mean(1)
    assert np.abs(counts[:195].mean() - 0.8) < 0.05
    assert np.abs(counts[195:].mean() - 1.6) < 0.05
    assert counts[195:200].mean() > 1.3


def test_mean_counts_follow_the_rates():
    t = Tuning.draw(96, 7)
    m = move(40, 7)
    s = Subject(t)
    counts = s.run(np.random.default_rng(0), m.position, m.velocity)
    expected = t.rates(m.position, m.velocity).mean(0)
    loud = t.baseline_hz > 4
    np.testing.assert_allclose(counts[:, loud].mean(0) / s.bin_s, expected[loud], rtol=0.12)


def autocorrelation(tuning: Tuning) -> float:
    z = Subject(tuning).run(np.random.default_rng(0), np.zeros((8000, 2)), np.zeros((8000, 2))).astype(float)
    z -= z.mean(0)
    return float(((z[1:] * z[:-1]).mean(0) / z.var(0)).mean())


def test_history_makes_spike_trains_refractory_or_bursty():
    assert abs(autocorrelation(constant(12, 20.0))) < 0.01
    assert autocorrelation(constant(12, 20.0, (-1.0, 0.0))) < -0.05
    assert autocorrelation(constant(12, 20.0, (0.25, 0.05))) > 0.02


def test_self_excitation_does_not_run_away():
    counts = Subject(constant(8, 30.0, (0.25, 0.06))).run(np.random.default_rng(0), np.zeros((20000, 2)), np.zeros((20000, 2)))
    assert counts[-5000:].mean() == pytest.approx(0.6, rel=0.1)


def test_shared_noise_correlates_channels_and_leaves_their_means():
    rest = np.zeros((20000, 2))
    means, correlations = [], []
    for shared in (0.0, 0.3):
        counts = Subject(constant(6, 30.0, shared=shared)).run(np.random.default_rng(0), rest, rest)
        means.append(counts.mean())
        correlations.append(np.corrcoef(counts.T)[np.triu_indices(6, 1)].mean())
    assert abs(correlations[0]) < 0.01 and correlations[1] > 0.05
    assert means[1] == pytest.approx(means[0], rel=0.1)


def test_same_seed_same_subject():
    a, b, c = Tuning.draw(32, 8), Tuning.draw(32, 8), Tuning.draw(32, 9)
    for f in fields(Tuning):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))
    assert not np.array_equal(a.pd_rad, c.pd_rad)
