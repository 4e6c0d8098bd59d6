import pytest
import torch

from bci_align.interpretation.guide import MOST_PULL, contrast, factor_guide, fit_encoder
from bci_align.models.clip_denoiser import FrameEncoder


def moving(scale: tuple[float, ...], length: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, length, len(scale), generator=generator) * torch.tensor(scale)


def test_the_contrast_is_equation_8() -> None:
    z = moving((1.0, 0.5, 0.1))
    f = z.var(1)
    expected = (f[:, 0] / 2).exp() / (f / 2).exp().sum(1)
    assert contrast(z, 0, 2.0, torch.tensor(99.0)) == pytest.approx(expected.log())


def test_it_rises_with_the_chosen_factor_and_falls_with_the_others() -> None:
    quiet, lively, others = moving((0.5, 0.5)), moving((1.0, 0.5)), moving((0.5, 1.0))
    cap = torch.tensor(99.0)
    values = [contrast(z, 0, 4.0, cap) for z in (others, quiet, lively)]
    assert (values[0] < values[1]).all() and (values[1] < values[2]).all()


def test_beyond_the_cap_there_is_nothing_to_gain() -> None:
    z = moving((2.0, 0.5)).requires_grad_(True)
    contrast(z, 0, 4.0, torch.tensor(1.0)).sum().backward()
    assert z.grad is not None
    assert z.grad[..., 0].abs().max() == 0
    assert z.grad[..., 1].abs().max() > 0


def test_a_window_sees_the_velocity_that_one_frame_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(60, 34, 2, generator=generator).cumsum(1)
    position = (position[:, 2:] + position[:, 1:-1] + position[:, :-2]) / 3
    velocity = position.diff(dim=1, prepend=position[:, :1])
    found = []
    for window in (1, 5):
        encoder = FrameEncoder(2, 2, window)
        fit_encoder(encoder, list(position), list(velocity))
        reach = window // 2
        true = velocity[:, reach : velocity.shape[1] - reach]
        error = (encoder(position) - true).square().sum() / (true - true.mean()).square().sum()
        found.append(float(1 - error))
    assert found[0] < 0.2 and found[1] > 0.9


def test_the_guide_looks_at_the_clean_clip() -> None:
    encoder = FrameEncoder(3, 2, 3)
    encoder.weight.copy_(torch.randn(2, 9, generator=torch.Generator().manual_seed(1)))
    guide = factor_guide(encoder, 1, 4.0, 30.0, torch.tensor(9.0))
    x = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(2))
    assert guide.scale == 30.0
    assert torch.equal(guide.log_p(x, torch.zeros(4)), contrast(encoder(x), 1, 4.0, torch.tensor(9.0)))


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an odd window"):
        FrameEncoder(3, 2, 4)


def test_its_pull_is_bounded_for_every_clip_of_its_own() -> None:
    encoder = FrameEncoder(3, 2, 1)
    encoder.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
    guide = factor_guide(encoder, 0, 4.0, 1.0, torch.tensor(1e9))
    x = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([0.01, 100.0])[:, None, None]
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(guide.log_p(x * 1.0, torch.zeros(2)).sum(), x)
    quiet, wild = gradient.flatten(1).norm(dim=1).tolist()
    assert 0 < quiet < MOST_PULL
    assert wild == pytest.approx(MOST_PULL, rel=1e-4)
