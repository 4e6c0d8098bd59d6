import numpy as np
import pytest

from bci_align.decoders import KINDS, Kalman, Recurrent, Wiener, run


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth kinematics seen through noisy latents, and the bins to fit on."""
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.standard_normal((6000, 2)), 0)
    y = np.stack([np.convolve(c - np.convolve(c, np.ones(80) / 80, "same"), np.ones(5) / 5, "same") for c in y.T], 1)
    y /= y.std(0)
    z = y @ rng.standard_normal((2, 6)) + 0.8 * rng.standard_normal((6000, 6)) + 0.3
    return z, y, np.arange(50, 5000)


Fitted = tuple[str, Wiener | Kalman | Recurrent]


@pytest.fixture(scope="module", params=list(KINDS))
def fitted(data: tuple[np.ndarray, np.ndarray, np.ndarray], request: pytest.FixtureRequest) -> Fitted:
    """Every kind, and a decoder of it."""
    return request.param, KINDS[request.param].fit(*data)


def test_decodes_held_out_bins(data: tuple[np.ndarray, np.ndarray, np.ndarray], fitted: Fitted) -> None:
    z, y, _ = data
    decoded = run(fitted[1], z)[5000:]
    r2 = 1 - np.square(decoded - y[5000:]).sum() / np.square(y[5000:] - y[5000:].mean(0)).sum()
    assert r2 > 0.8


def test_saved_arrays_decode_bit_for_bit_alike(data: tuple[np.ndarray, np.ndarray, np.ndarray], fitted: Fitted) -> None:
    kind, decoder = fitted
    again = KINDS[kind].load(decoder.arrays())
    np.testing.assert_array_equal(run(decoder, data[0][:200]), run(again, data[0][:200]))
    assert again.kind == kind


def test_step_is_pure(data: tuple[np.ndarray, np.ndarray, np.ndarray], fitted: Fitted) -> None:
    _, decoder = fitted
    state, _ = decoder.step(decoder.state0(), data[0][0])
    kept = state.copy()
    first = decoder.step(state, data[0][1])[1]
    second = decoder.step(state, data[0][1])[1]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(state, kept)


def test_wiener_equals_the_regression_written_out(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    z = data[0]
    decoder = Wiener.fit(*data, lags=3)
    w = decoder.weight.reshape(3, 6, 2)
    expected = sum(z[100 - k] @ w[k] for k in range(3)) + decoder.bias
    np.testing.assert_allclose(run(decoder, z[:101])[100], expected, atol=1e-12)


@pytest.fixture(scope="module")
def cut_data(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Trials of 14 bins, cut from all over the recording and laid end to end in another order."""
    z, y, _ = data
    trials = np.random.default_rng(3).permutation(6000 // 14)[:200]
    rows = (trials[:, None] * 14 + np.arange(14)).ravel()
    return z[rows], y[rows], np.arange(150 * 14), tuple(range(14, 200 * 14, 14))


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_crosses_a_break(cut_data: tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]], kind: str) -> None:
    """Trials in another order, and their breaks with them, are the same data: every pair of neighbours within a trial is."""
    z, y, rows, breaks = cut_data
    decoder = KINDS[kind].fit(z, y, rows, breaks=breaks)
    whole = run(decoder, z, breaks)
    np.testing.assert_array_equal(whole[28:42], run(decoder, z[28:42]))
    assert 1 - np.square(whole[2100:] - y[2100:]).sum() / np.square(y[2100:]).sum() > 0.6
    if kind == "recurrent":  # its windows are drawn by place, so another order is another draw
        return
    order = np.r_[np.random.default_rng(0).permutation(150), np.arange(150, 200)]
    moved = (order[:, None] * 14 + np.arange(14)).ravel()
    again = KINDS[kind].fit(z[moved], y[moved], rows, breaks=breaks)
    blind = KINDS[kind].fit(z[moved], y[moved], rows)
    for name, array in decoder.arrays().items():
        np.testing.assert_allclose(again.arrays()[name], array, rtol=1e-3, atol=1e-4)
    assert max(np.abs(blind.arrays()[n] - a).max() for n, a in decoder.arrays().items()) > 1e-2


def test_recurrent_windows_stay_in_their_stretch(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """What lies behind a break is never read: stretches of 14, 100 and 40 bins, of which the last is in no row."""
    z, y, breaks, rows = data[0][:154], data[1][:154], (14, 114), np.arange(114)
    spoilt = z.copy()
    spoilt[114:] = 1e6
    a, b = (Recurrent.fit(x, y, rows, steps=4, breaks=breaks).arrays() for x in (z, spoilt))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_recurrent_counts_no_bin_of_a_short_stretch_again() -> None:
    """Most bins pull the bias down and the last one of each short stretch up; repeated to a window's length it would win."""
    z, breaks = np.zeros((14 * 10 + 60, 3)), tuple(range(14, 14 * 10 + 1, 14))
    y = np.full((len(z), 1), -1.0)
    y[13:140:14] = 1.0
    before, after = (Recurrent.fit(z, y, np.arange(140), steps=n, breaks=breaks).arrays()["bias_out"] for n in (0, 1))
    assert after[0] < before[0]


def test_recurrent_fits_the_first_bins_of_a_stretch() -> None:
    """Kinematics that only the first five bins of a trial have: with a burn-in there would be nothing to learn from."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((14 * 60, 3))
    y = np.where((np.arange(len(z)) % 14 < 5)[:, None], 2.0, 0.0) * z[:, :1]
    rows = np.flatnonzero(np.arange(len(z)) % 14 < 5)
    breaks = tuple(range(14, len(z), 14))
    decoded = run(Recurrent.fit(z, y, rows, breaks=breaks), z, breaks)[rows]
    assert 1 - np.square(decoded - y[rows]).sum() / np.square(y[rows]).sum() > 0.9


def test_recurrent_equals_torch(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import torch

    decoder = Recurrent.fit(*data, steps=5)
    a = {k: torch.from_numpy(v) for k, v in decoder.arrays().items()}
    gru = torch.nn.GRU(6, decoder.hidden, batch_first=True)
    gru.load_state_dict({f"{k}_l0": a[k] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    z = torch.from_numpy(data[0][:100]).float()
    with torch.no_grad():
        y = torch.cat([gru(z[None])[0][0], z], 1) @ a["weight_out"].T + a["bias_out"]
    np.testing.assert_allclose(run(decoder, data[0][:100].astype(np.float32).astype(float)), y.numpy(), atol=1e-5)
