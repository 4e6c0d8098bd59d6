"""Partial noising and denoising: exactly known for a Gaussian, and what it is for on a circle."""

import math

import pytest
import torch

from bci_align.diffusion.process import Diffusion
from bci_align.diffusion.schedule import abar

MEAN, SD = 0.5, 0.4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Normal(torch.nn.Module):
    """The exact denoiser of N(MEAN, SD^2 I), which counts its calls and the samples in them."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = abar("cosine", 100)
        self.calls: list[tuple[int, int]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), int(t[0])))
        a = self.alphas[t].reshape(-1, 1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * SD**2 + 1 - a)


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5, 1.0])
def test_the_mean_of_the_projection_is_the_gaussian_s_closed_form(level: float) -> None:
    """The probability flow maps x_t to m + s (x_t - sqrt(a) m) / sqrt(a s^2 + 1 - a): in the mean, x0 shrinks towards m."""
    diffusion = Diffusion(Normal())
    x0 = torch.tensor([-1.0, 0.5, 3.0]).reshape(3, 1, 1).expand(3, 4, 2)
    a = float(diffusion.abar[diffusion.step_at(level)])
    kept = SD * math.sqrt(a / (a * SD**2 + 1 - a))
    found = diffusion.project(x0, level, seeded(0), steps=100, draws=2000)
    torch.testing.assert_close(found, MEAN + kept * (x0 - MEAN), atol=0.05, rtol=0.02)
    # and a single draw has the noise that the flow passes on
    spread = diffusion.project(torch.full((4000, 1, 1), MEAN), level, seeded(0), steps=100, draws=1).std()
    assert float(spread) == pytest.approx(SD * math.sqrt((1 - a) / (a * SD**2 + 1 - a)), rel=0.05)


def test_levels_and_strides_and_one_call_for_all_draws() -> None:
    diffusion = Diffusion(net := Normal())
    x0 = torch.zeros(5, 3, 2)
    assert diffusion.project(x0, 0.25, seeded(0), steps=8, draws=4).shape == x0.shape
    assert [n for n, _ in net.calls] == [20] * 8
    steps = [t for _, t in net.calls]
    assert steps[0] == 24 and steps[-1] == 0 and steps == sorted(set(steps), reverse=True)
    net.calls.clear()
    diffusion.project(x0, 0.03, seeded(0), steps=8, draws=1)
    assert [t for _, t in net.calls] == [2, 1, 0]  # no step twice
    assert [diffusion.step_at(v) for v in (1e-6, 0.01, 0.254, 0.256, 1.0)] == [0, 0, 24, 25, 99]
    for level in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a noise level above 0 and at most 1"):
            diffusion.project(x0, level, seeded(0))


def test_the_same_generator_gives_the_same_and_a_low_level_leaves_the_data() -> None:
    diffusion, x0 = Diffusion(Normal()), torch.randn(6, 3, 2, generator=seeded(1))
    assert torch.equal(diffusion.project(x0, 0.3, seeded(0)), diffusion.project(x0, 0.3, seeded(0)))
    far = [float((diffusion.project(x0, v, seeded(0), draws=200) - x0).square().mean()) for v in (0.01, 0.25, 1.0)]
    assert far == sorted(far)
    assert far[0] < 0.01 < far[1]


class Points(torch.nn.Module):
    """The exact denoiser of a finite set of points (n, d): the posterior mean is a softmax over them."""

    def __init__(self, points: torch.Tensor) -> None:
        super().__init__()
        self.points, self.alphas = points, abar("cosine", 100)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.alphas[t].reshape(-1, 1)
        distance = (x[:, None] - a.sqrt()[..., None] * self.points).square().sum(-1)
        share = torch.softmax(-distance / (2 * (1 - a)), 1)
        return (x - a.sqrt() * (share @ self.points)) / (1 - a).sqrt()


@pytest.mark.parametrize("radius", [0.6, 1.4])
def test_points_off_a_circle_come_back_to_it_where_they_left_it(radius: float) -> None:
    angle = torch.linspace(0, 2 * math.pi, 129)[:-1]
    on = torch.stack([angle.cos(), angle.sin()], 1)
    diffusion = Diffusion(Points(on))
    single = diffusion.project(radius * on, 0.2, seeded(0), steps=20, draws=1)
    assert float((single.norm(dim=1) - 1).abs().mean()) < 0.02
    mean = diffusion.project(radius * on, 0.2, seeded(0), steps=20, draws=64)
    assert float(torch.nn.functional.cosine_similarity(mean, on).min()) > 0.95
    # A mean of points on a circle lies inside it: what draws buy in steadiness they take from the spread.
    assert 0.8 < float(mean.norm(dim=1).mean()) < float(single.norm(dim=1).mean())
