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


def fitted(data: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str) -> Wiener | Kalman | Recurrent:
    return KINDS[kind].fit(*data)


@pytest.mark.parametrize("kind", list(KINDS))
def test_decodes_held_out_bins(data: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str) -> None:
    z, y, _ = data
    decoded = run(fitted(data, kind), z)[5000:]
    r2 = 1 - np.square(decoded - y[5000:]).sum() / np.square(y[5000:] - y[5000:].mean(0)).sum()
    assert r2 > 0.8


@pytest.mark.parametrize("kind", list(KINDS))
def test_saved_arrays_decode_bit_for_bit_alike(data: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str) -> None:
    decoder = fitted(data, kind)
    again = KINDS[kind].load(decoder.arrays())
    np.testing.assert_array_equal(run(decoder, data[0][:200]), run(again, data[0][:200]))
    assert again.kind == kind


@pytest.mark.parametrize("kind", list(KINDS))
def test_step_is_pure(data: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str) -> None:
    decoder = fitted(data, kind)
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
