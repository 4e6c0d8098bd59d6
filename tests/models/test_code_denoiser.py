import pytest
import torch

from bci_align.diffusion.schedule import abar
from bci_align.models.code_denoiser import CodeDenoiser, CodeEncoder
from bci_align.models.sequential_vae import SequentialVae


@pytest.mark.parametrize("bins", [8, 13, 30])
def test_any_number_of_bins_goes_through(bins: int) -> None:
    torch.manual_seed(0)
    net = CodeDenoiser(bins, 5, 4, abar("linear", 50), 8)
    x, t, c = torch.randn(3, bins, 5), torch.tensor([0, 20, 49]), torch.randn(3, 4)
    assert net(x, t, c).shape == x.shape
    assert CodeEncoder(bins, 5, 4, 8)(x).shape == (3, 4)


def test_it_begins_as_the_exact_denoiser_around_the_trunk() -> None:
    torch.manual_seed(0)
    signal = abar("linear", 50)
    net = CodeDenoiser(8, 5, 4, signal, 8)
    net.start(torch.randn(4, 40), torch.randn(8, 5))
    c, t = torch.randn(2, 4), torch.tensor([10, 40])
    a = signal[t][:, None, None]
    x = a.sqrt() * net.mean(c)  # no noise in it at all
    torch.testing.assert_close(net(x, t, c), torch.zeros(2, 8, 5), atol=1e-5, rtol=0)
    eps = torch.ones(2, 8, 5)
    share = (1 - a) / (a * net.log_variance.detach().exp() + 1 - a)
    torch.testing.assert_close(net(x + (1 - a).sqrt() * eps, t, c), share * eps)


def test_a_code_goes_on_linearly_where_the_net_has_not_been() -> None:
    torch.manual_seed(0)
    net = CodeDenoiser(8, 5, 4, abar("linear", 50), 8)
    mean = torch.randn(8, 5)
    net.start(torch.randn(4, 40), mean)
    c = torch.randn(1, 4)
    torch.testing.assert_close(net.mean(5 * c) - mean, 5 * (net.mean(c) - mean))
    torch.testing.assert_close(net.mean(torch.zeros(1, 4))[0], mean)


def test_an_encoder_is_shown_only_what_it_sees() -> None:
    torch.manual_seed(0)
    encoder = CodeEncoder(8, 5, 4, 8, sees=3)
    x = torch.randn(2, 8, 5)
    other = x.clone()
    other[..., 3:] = 9
    assert torch.equal(encoder(x), encoder(other))
    projection, mean = torch.randn(24, 4), torch.randn(8, 5)
    encoder.start(projection, mean)  # the net beside the projection begins at zero
    torch.testing.assert_close(encoder(x), (x - mean)[..., :3].flatten(1) @ projection)
    torch.testing.assert_close(encoder(mean[None]), torch.zeros(1, 4), atol=1e-5, rtol=0)


def test_the_vae_generates_from_the_code_alone() -> None:
    torch.manual_seed(0)
    vae = SequentialVae(8, 5, 3, 16)
    x = torch.randn(4, 8, 5)
    y, mean, logvar = vae(x)
    assert y.shape == x.shape and mean.shape == logvar.shape == (4, 3)
    assert torch.equal(vae.generate(mean), vae.generate(mean))
    loss = vae.loss(x, 1.0)
    loss.backward()
    assert all(p.grad is not None for p in vae.parameters())
