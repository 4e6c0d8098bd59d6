import numpy as np
import pytest
import torch

from bci_align.models.clip_denoiser import ClipDenoiser, FrameEncoder, FrameRegressor
from bci_align.models.factor_vae import FactorVAE
from bci_align.models.frame_codec import ConvCodec, PcaCodec
from bci_align.models.video_unet import VideoUNet


def test_the_factor_vae_reads_both_ways() -> None:
    torch.manual_seed(0)
    model = FactorVAE(6, 2, free=1, hidden=8).eval()
    x = torch.randn(3, 11, 6)
    mean, logvar = model(x)
    assert mean.shape == logvar.shape == (3, 11, 3)
    assert model.reconstruct(mean).shape == (3, 11, 6)
    later = x.clone()
    later[:, 8:] += 1.0
    assert not torch.allclose(model(later)[0][:, 0], mean[:, 0])


@pytest.mark.parametrize("net", [ClipDenoiser(5, 3, 16, 2), VideoUNet(3, 8, 2)], ids=["codes", "pixels"])
def test_a_condition_of_nothing_is_no_condition(net: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator)
    x = torch.randn(2, 9, *((5,) if isinstance(net, ClipDenoiser) else (8, 12)), generator=generator)
    t = torch.tensor([1, 90])
    out = net(x, t)
    assert out.shape == x.shape
    assert torch.equal(net(x, t, torch.zeros(2, 9, 4)), out)
    told = torch.zeros(2, 9, 4)
    told[..., -1] = 1  # factors at their mean are something told
    assert not torch.allclose(net(x, t, told), out)
    assert torch.allclose(net(x[1:], t[1:]), out[1:], atol=1e-5)


def test_the_unet_refuses_what_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match=r"expected a height and width divisible by 4, found \(10, 12\)"):
        VideoUNet(1, 8, 3)(torch.zeros(1, 4, 10, 12), torch.zeros(1, dtype=torch.int64))


def test_shapes_of_encoder_and_regressor() -> None:
    assert FrameEncoder(4, 3, 5)(torch.zeros(2, 10, 4)).shape == (2, 6, 3)
    assert FrameRegressor(3, 4)(torch.zeros(2, 10, 3)).shape == (2, 10, 4)


def test_the_window_is_in_order() -> None:
    codes = torch.arange(12.0).reshape(1, 6, 2)
    assert FrameEncoder(2, 1, 3).windows(codes)[0, 1].tolist() == [2, 3, 4, 5, 6, 7]


def test_codecs_keep_leading_axes() -> None:
    codec = PcaCodec(4, 6, 3)
    codec.components.copy_(torch.linalg.qr(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)))[0].T)
    codes = torch.randn(2, 5, 3)
    assert codec.decode(codes).shape == (2, 5, 4, 6)
    assert codec.encode(codec.decode(codes)).numpy() == pytest.approx(codes.numpy(), abs=1e-5)
    conv = ConvCodec(8, 12, 3, channels=4)
    assert conv.encode(torch.zeros(2, 5, 8, 12)).shape == (2, 5, 3)
    assert conv.decode(codes).shape == (2, 5, 8, 12)
    odd = ConvCodec(9, 6, 3, channels=4)  # a scene with bars is as wide as it is
    assert odd.encode(torch.zeros(2, 5, 9, 6)).shape == (2, 5, 3)
    assert odd.decode(codes).shape == (2, 5, 9, 6)


def test_normalisation() -> None:
    model = FactorVAE(2, 1, hidden=4)
    model.normalise(np.array([1, 2], np.float32), np.array([2, 0.5], np.float32))
    assert model.normalised(torch.tensor([[[2.0, 4.0]]])).tolist() == [[[2.0, 1.0]]]
