import numpy as np
import torch

from bci_align.models.denoiser import LatentDenoiser
from bci_align.models.encoder import SourceModel


def model() -> SourceModel:
    torch.manual_seed(0)
    return SourceModel(channels=12, hidden=16, latents=5, outputs=2).eval()


def test_whitening_changes_the_latents_and_nothing_that_is_decoded_from_them() -> None:
    m = model()
    x = torch.poisson(torch.full((1, 600, 12), 2.0))
    with torch.no_grad():
        before, _, _ = m(x)
        rates, kinematics = m.log_rate(before), m.kinematics(before)
        m.whiten(before[0])
        after, _, _ = m(x)
        torch.testing.assert_close(m.log_rate(after), rates, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(m.kinematics(after), kinematics, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(before, after)
    np.testing.assert_allclose(np.cov(after[0].numpy().T, bias=True), np.eye(5), atol=0.02)
    np.testing.assert_allclose(after[0].mean(0).numpy(), 0, atol=1e-3)


def test_a_dead_latent_is_not_blown_up_by_whitening() -> None:
    m = model()
    m.core.mean.weight.data[3] = 0
    x = torch.poisson(torch.full((1, 400, 12), 2.0))
    with torch.no_grad():
        m.whiten(m(x)[0][0])
        z = m(x)[0][0]
    assert torch.isfinite(z).all()
    assert float(z.var(0).min()) < 0.01


def test_the_core_is_causal() -> None:
    m = model()
    x = torch.rand(1, 50, 12)
    y = x.clone()
    y[:, 30:] += 5
    with torch.no_grad():
        a, b = m(x)[0], m(y)[0]
    assert torch.equal(a[:, :30], b[:, :30])
    assert not torch.allclose(a[:, 30:], b[:, 30:])


def test_read_in_round_trip_and_plain_arrays_agree_with_torch() -> None:
    m = model()
    m.normalise(np.full(12, 2.0, np.float32), np.linspace(0, 1, 12, dtype=np.float32))
    r = m.read_in()
    x = np.random.default_rng(0).poisson(2, (7, 12)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(r.apply(x), m.activity(torch.from_numpy(x)).numpy(), atol=1e-5)
    other = model()
    other.set_read_in(r)
    assert torch.equal(other.readin.weight, m.readin.weight)
    assert torch.equal(other.gain, m.gain)


def test_denoiser_sees_other_bins_and_other_latents_and_is_small() -> None:
    torch.manual_seed(0)
    net = LatentDenoiser(latents=16, width=32, blocks=2)
    torch.nn.init.normal_(net.out.weight)
    n = sum(p.numel() for p in net.parameters())
    assert 26_000 <= n <= 130_000
    x, t = torch.randn(2, 20, 16), torch.tensor([3, 80])
    y = x.clone()
    y[:, 4, 7] += 1.0
    with torch.no_grad():
        change = (net(x, t) - net(y, t)).abs()
    assert float(change[:, 15, 7].min()) > 0  # over time
    assert float(change[:, 4, 2].min()) > 0  # over latents
    assert change.shape == x.shape
