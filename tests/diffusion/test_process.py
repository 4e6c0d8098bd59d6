import numpy as np
import pytest
import torch

from bci_align.diffusion.fit import fit
from bci_align.diffusion.process import Diffusion
from bci_align.diffusion.schedule import abar
from bci_align.diffusion.windows import cut, pad, window_length


class Oracle(torch.nn.Module):
    """The exact denoiser of data that is N(0, s^2): E[eps | x_t] = sqrt(1 - a) x_t / (a s^2 + 1 - a)."""

    def __init__(self, variance: float, alphas: torch.Tensor) -> None:
        super().__init__()
        self.variance, self.alphas = variance, alphas

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.alphas[t].reshape(-1, 1, 1)
        return (1 - a).sqrt() * x / (a * self.variance + 1 - a)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_schedules_fall_from_signal_to_noise(kind: str) -> None:
    a = abar(kind, 100)  # type: ignore[arg-type]
    assert (a.diff() < 0).all()
    assert a[0] > 0.98
    assert a[-1] < 0.01


def test_sampling_with_the_exact_denoiser_gives_the_data_s_variance() -> None:
    alphas = abar("cosine", 100)
    diffusion = Diffusion(Oracle(4.0, alphas))
    x = diffusion.sample((400, 8, 4), torch.Generator().manual_seed(0), steps=100)
    assert float(x.std()) == pytest.approx(2.0, rel=0.05)
    again = diffusion.sample((400, 8, 4), torch.Generator().manual_seed(0), steps=100)
    assert torch.equal(x, again)


def test_the_clean_sample_follows_from_the_noise() -> None:
    diffusion = Diffusion(torch.nn.Identity())
    x0, eps = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    t = torch.tensor([0, 10, 40, 60, 90])
    torch.testing.assert_close(diffusion.x0_hat(diffusion.q_sample(x0, t, eps), t, eps), x0, atol=2e-4, rtol=1e-4)


def test_loss_reaches_the_clean_sample_and_is_lower_for_likelier_data() -> None:
    diffusion = Diffusion(Oracle(1.0, abar("cosine", 100)))
    good = torch.randn(256, 8, 4, requires_grad=True)
    loss = diffusion.loss(good, torch.Generator().manual_seed(1))
    loss.backward()
    assert good.grad is not None and float(good.grad.abs().sum()) > 0
    bad = diffusion.loss(3 * good.detach(), torch.Generator().manual_seed(1))
    assert float(bad) > float(loss.detach()) + 0.1


def test_fit_learns_a_correlated_gaussian() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU())
            self.out = torch.nn.Linear(64, 2)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.out(self.f(torch.cat([x, t[:, None] / 100], 1)))

    torch.manual_seed(0)
    z = torch.randn(2000, 2)
    data = torch.stack([z[:, 0], 0.9 * z[:, 0] + 0.436 * z[:, 1]], 1)
    diffusion = Diffusion(Net())
    seen: list[tuple[int, int]] = []
    history = fit(diffusion, lambda: data, 40, torch.Generator().manual_seed(0), batch=128, progress=lambda *p: seen.append(p))
    assert history[-1] < history[0] - 0.1
    assert seen[-1] == (40, 40)
    sample = diffusion.sample((2000, 2), torch.Generator().manual_seed(2))
    assert float(torch.corrcoef(sample.T)[0, 1]) > 0.7


def test_windows_lie_inside_the_trial_and_use_the_run_in_only_when_needed() -> None:
    trials = [np.arange(n, dtype=np.float32)[:, None] for n in (30, 18, 9)]
    padded, lengths = pad(trials)
    assert lengths == [30, 18, 9]
    rng = np.random.default_rng(0)
    for _ in range(50):
        w = cut(padded, lengths, run_in=[5, 5, 5], window=15, rng=rng)
        assert w.shape == (2, 15, 1)  # the trial of 9 bins cannot fill a window
        assert 5 <= float(w[0, 0, 0]) <= 15
        assert float(w[1, 0, 0]) == 3  # 18 bins: the window must begin in the run-in
    assert {float(cut(padded, lengths, [0, 3, 0], 15, rng)[0, 0, 0]) for _ in range(300)} == set(range(16))
    assert window_length([50, 60, 70], [10, 10, 10]) == 41
    assert window_length([14, 14, 24], [0, 0, 10]) == 14  # a trial at a break has no run-in
