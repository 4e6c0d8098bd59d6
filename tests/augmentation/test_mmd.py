import pytest
import torch

from bci_align.augmentation.mmd import mmd


@pytest.mark.parametrize("change", [lambda x: x + 0.7, lambda x: 0.4 * x, lambda x: x.abs()])
def test_it_tells_another_mean_spread_or_shape_from_the_normal(change: object) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1500, 4, generator=g).unbind()
    same = mmd(a, b)
    assert abs(float(same)) < 0.01
    assert float(mmd(change(a), b)) > 0.03  # type: ignore[operator]


def test_its_gradient_brings_codes_to_the_normal() -> None:
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(500, 3, generator=g)
    codes = (3 * torch.randn(128, 3, generator=g) + 2).requires_grad_(True)
    before = float(mmd(codes.detach(), normal))
    optimiser = torch.optim.Adam([codes], 0.1)
    for _ in range(150):
        optimiser.zero_grad()
        mmd(codes, torch.randn(128, 3, generator=g)).backward()
        optimiser.step()
    assert float(mmd(codes.detach(), normal)) < 0.1 * before
