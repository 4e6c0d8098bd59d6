"""The probe, the closed form and the bound, against what is known exactly; and the weighted loss that the bound is made of."""

import math

import pytest
import torch

from bci_align.diffusion.divergence import Probe, drift, drift_divergence, elbo_bound, hutchinson, rate
from bci_align.diffusion.process import Diffusion, likelihood_weight, log_snr
from bci_align.diffusion.schedule import Kind, abar


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Normal(torch.nn.Module):
    """The exact denoiser of N(mean, variance I); ``off`` spoils it."""

    def __init__(self, mean: float, variance: float, alphas: torch.Tensor, off: float = 0.0) -> None:
        super().__init__()
        self.mean, self.variance, self.alphas, self.off = mean, variance, alphas, off

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.alphas[t].reshape(-1, *([1] * (x.ndim - 1)))
        return (1 - a).sqrt() * (x - a.sqrt() * self.mean) / (a * self.variance + 1 - a) + self.off


def exact_nll(x: torch.Tensor, mean: float, variance: float) -> torch.Tensor:
    squares = ((x - mean) ** 2).flatten(1).sum(1) / variance
    return 0.5 * (squares + x[0].numel() * math.log(2 * math.pi * variance))


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_rate_is_that_of_an_sde_with_the_chain_s_marginals(kind: Kind) -> None:
    """Euler-Maruyama would need small steps; the mean obeys dm = f(m) dt, whose solution over one step is exact."""
    a = abar(kind, 100)
    beta = rate(a)
    assert (beta > 0).all()
    mean = torch.exp(-0.5 * beta).cumprod(0)
    torch.testing.assert_close(mean, a.sqrt(), rtol=1e-4, atol=1e-7)
    small = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(drift(small, beta[:2])[:, 0], -0.5 * beta[:2] * small[:, 0])


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_probe_agrees_with_the_drift_s_closed_form_which_is_constant_in_z(probe: Probe) -> None:
    beta = rate(abar("cosine", 100))[torch.tensor([5, 40, 90])]
    x = torch.randn(3, 12, 4, generator=seeded(0))
    exact = drift_divergence(x, beta)
    torch.testing.assert_close(exact, -24.0 * beta)
    torch.testing.assert_close(drift_divergence(100 * x, beta), exact)
    found = hutchinson(lambda z: drift(z, beta), x, seeded(1), probe, draws=400)
    # Var(v^T J v) = 2 tr(J^2) = beta^2 n / 2 for Gaussian probes, 0 for Rademacher ones on a diagonal Jacobian
    error = 1e-5 * exact.abs() if probe == "rademacher" else 4 * beta * (48 / 2 / 400) ** 0.5
    assert ((found - exact).abs() <= error).all()
    assert probe == "rademacher" or ((found - exact).abs() > 1e-5 * exact.abs()).any()


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5)).double().requires_grad_(False)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_probe_agrees_with_the_exact_trace_of_a_network(probe: Probe) -> None:
    net, x = network(), torch.randn(4, 5, generator=seeded(4), dtype=torch.float64)
    jacobians = torch.stack([torch.func.jacrev(net)(row) for row in x])
    exact = jacobians.diagonal(dim1=1, dim2=2).sum(1)
    singles = torch.stack([hutchinson(net, x, generator, probe) for generator in [seeded(5)] for _ in range(3000)])
    error = singles.std(0) / len(singles) ** 0.5
    assert ((singles.mean(0) - exact).abs() < 4 * error).all()
    assert float(error.max()) < 0.05 * float(jacobians.flatten(1).norm(dim=1).min())
    # The docstring's variances.
    s = (jacobians + jacobians.mT) / 2
    variance = 2 * s.square().sum((1, 2)) - (2 * s.diagonal(dim1=1, dim2=2).square().sum(1) if probe == "rademacher" else 0)
    torch.testing.assert_close(singles.var(0), variance, rtol=0.2, atol=0)


def test_the_probe_has_a_gradient() -> None:
    """div(x -> x^3) = 3 sum x^2: the Jacobian is diagonal, so one Rademacher probe is exact, and its gradient is 6 x."""
    x = torch.randn(2, 3, 2, generator=seeded(0), requires_grad=True)
    found = hutchinson(lambda z: z**3, x, seeded(1))
    torch.testing.assert_close(found.detach(), 3 * x.detach().square().sum((1, 2)))
    found.sum().backward()
    torch.testing.assert_close(x.grad, 6 * x.detach())


def test_the_probe_refuses_what_has_no_divergence() -> None:
    with pytest.raises(ValueError, match="keeps the shape"):
        hutchinson(lambda z: z[:, :1], torch.zeros(2, 3), seeded(0))
    with pytest.raises(ValueError, match="unknown probe 'cauchy'"):
        hutchinson(lambda z: z, torch.zeros(2, 3), seeded(0), "cauchy")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.7, 0.3), (-0.5, 2.5)])
def test_the_bound_is_tight_for_the_exact_denoiser_wherever_the_data_lie(kind: Kind, mean: float, variance: float) -> None:
    alphas = abar(kind, 100)
    diffusion = Diffusion(Normal(mean, variance, alphas), kind)
    z = torch.randn(64, 6, 3, generator=seeded(0))
    for x in (mean + variance**0.5 * z, 1.5 * z + 1):  # the prior's own data, and another day's
        gap = elbo_bound(diffusion, x, seeded(1), draws=400) - exact_nll(x, mean, variance)
        error = float(gap.std()) / len(gap) ** 0.5
        assert error < 0.06
        # 18 dimensions and a likelihood of some 30 nats. The trapezoid rule over 100 steps may err by a few hundredths of a nat
        # either way; the last, Gaussian step costs the most where the data are narrow and far from the prior.
        assert -0.05 - 4 * error < float(gap.mean()) < 0.25 + 4 * error


def test_the_bound_lies_above_the_likelihood_for_a_wrong_denoiser() -> None:
    """No model codes N(0, 1) in fewer nats than its entropy; the offset adds its square times half the fall of the log SNR."""
    alphas = abar("cosine", 100)
    x = torch.randn(256, 6, 3, generator=seeded(0))
    exact = float(exact_nll(x, 0, 1).mean())
    wrong = float(elbo_bound(Diffusion(Normal(0, 1, alphas, off=0.1)), x, seeded(1), 200).mean())
    snr = log_snr(alphas)
    expected = 0.5 * 18 * 0.01 * (float(snr[0] - snr[-1]) + 1)
    assert wrong - exact == pytest.approx(expected, rel=0.15)
    narrow = float(elbo_bound(Diffusion(Normal(0, 0.3, alphas)), x, seeded(1), 200).mean())
    assert narrow > exact + 1


def test_the_bound_reaches_the_data_and_ranks_it() -> None:
    diffusion = Diffusion(Normal(0, 1, abar("cosine", 100)))
    x = torch.randn(32, 8, 2, generator=seeded(0)).requires_grad_()
    near = elbo_bound(diffusion, x, seeded(1), 200)
    near.sum().backward()
    assert x.grad is not None
    # -log N(x; 0, I) has gradient x
    slope = float((x.grad * x.detach()).sum() / x.detach().square().sum())
    assert slope == pytest.approx(1, abs=0.1)
    assert (elbo_bound(diffusion, 3 * x.detach(), seeded(1), 200) > near.detach()).all()


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_likelihood_weight_is_beta_over_variance_with_mean_one(kind: Kind) -> None:
    a = abar(kind, 1000)
    w = likelihood_weight(a)
    assert float(w.mean()) == pytest.approx(1, rel=1e-5)
    inner = slice(100, 900)
    ratio = w[inner] / (rate(a) / (1 - a))[inner]
    assert float(ratio.max() / ratio.min()) < 1.02


def test_the_default_loss_is_the_uniform_one_bit_for_bit() -> None:
    diffusion, x = Diffusion(Normal(0, 2, abar("cosine", 100))), torch.randn(16, 5, 2, generator=seeded(0))
    plain = diffusion.loss(x, seeded(1), reduce=False)
    assert torch.equal(plain, diffusion.loss(x, seeded(1), reduce=False, weight="uniform"))
    assert torch.equal(plain, diffusion.loss(x, seeded(1), reduce=False, weight=None))
    # The numbers of the version before there were weights.
    b = 16
    g = seeded(1)
    strata = (torch.arange(b) + torch.rand(b, generator=g)) / b
    t = (strata * 100).long().clamp(max=99)[torch.randperm(b, generator=g)]
    eps = torch.randn(x.shape, generator=g)
    err = (diffusion.net(diffusion.q_sample(x, t, eps), t) - eps).square().flatten(1).mean(1)
    assert torch.equal(plain, err)
    weighted = diffusion.loss(x, seeded(1), reduce=False, weight="likelihood")
    torch.testing.assert_close(weighted, plain * likelihood_weight(diffusion.abar)[t])
    assert float(diffusion.loss(x, seeded(1), weight="likelihood")) == pytest.approx(float(weighted.mean()))
    with pytest.raises(ValueError, match="unknown weight 'snr'"):
        diffusion.loss(x, seeded(1), weight="snr")  # type: ignore[arg-type]


def test_a_weighted_loss_of_constant_error_is_that_error_over_any_range() -> None:
    class Wrong(torch.nn.Module):
        """Off by 2 from the noise, which it knows because the data are zero."""

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x / (1 - alphas[t].reshape(-1, 1, 1)).sqrt() + 2

    alphas = abar("cosine", 100)
    diffusion, x = Diffusion(Wrong()), torch.zeros(4000, 1, 1)
    for t_range in (None, (10, 60), (0, 5)):
        assert float(diffusion.loss(x, seeded(0), t_range, weight="likelihood")) == pytest.approx(4, rel=0.03)


def test_the_bound_s_denoising_term_is_the_likelihood_weighted_loss() -> None:
    """Two denoisers: the difference of their bounds is that of their weighted losses, times n / 2 and the fall of the log SNR."""
    alphas = abar("cosine", 100)
    good, bad = Diffusion(Normal(0, 1, alphas)), Diffusion(Normal(0, 4, alphas))
    x = torch.randn(2000, 4, 1, generator=seeded(0))
    bounds = [float(elbo_bound(d, x, seeded(1), 50).mean()) for d in (good, bad)]
    losses = [float(sum(d.loss(x, seeded(i), weight="likelihood") for i in range(20)) / 20) for d in (good, bad)]
    snr = log_snr(alphas)
    assert bounds[1] - bounds[0] == pytest.approx(0.5 * 4 * float(snr[0] - snr[-1]) * (losses[1] - losses[0]), rel=0.1)
