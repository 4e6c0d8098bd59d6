"""The regularisers against closed forms, and the spike head against the rates that made the spikes."""

import numpy as np
import pytest
import torch

from bci_align.alignment.objective import reconstruction, sinkhorn, target_spike_head


def cloud(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sinkhorn_is_zero_for_equal_clouds_and_positive_otherwise() -> None:
    x = cloud(60, 3, 0)
    for iterations in (1, 7, 50):
        assert float(sinkhorn(x, x, 0.3, iterations)) == pytest.approx(0, abs=1e-9)
    assert float(sinkhorn(x, cloud(80, 3, 1))) > 0
    assert float(sinkhorn(x, 0.5 * x)) > 0.1


def test_sinkhorn_of_a_shifted_cloud_is_the_squared_shift() -> None:
    """W2^2 between a cloud and its translate is |shift|^2; debiasing keeps that for every blur, and no other lets it go."""
    x, shift = cloud(100, 2, 0), torch.tensor([1.5, -0.5], dtype=torch.float64)
    for blur in (0.1, 0.5, 5.0):
        assert float(sinkhorn(x, x + shift, blur, 300)) == pytest.approx(2.5, rel=0.01)
    distances = [float(sinkhorn(x, x + s * shift, 0.2)) for s in (1.0, 0.6, 0.3, 0.1)]
    assert distances == sorted(distances, reverse=True)


def test_sinkhorn_tends_to_the_wasserstein_distance_of_sorted_points() -> None:
    """In one dimension W2^2 is the mean squared difference of the sorted points, of equal number."""
    x, y = cloud(50, 1, 0), 2 * cloud(50, 1, 1) + 1
    exact = float((x.sort(0).values - y.sort(0).values).square().mean())
    assert float(sinkhorn(x, y, 0.05, 2000)) == pytest.approx(exact, rel=0.01)
    wide = float((x.mean() - y.mean()) ** 2)
    assert float(sinkhorn(x, y, 50.0)) == pytest.approx(wide, rel=0.02)
    assert abs(wide - exact) > 0.3


def test_sinkhorn_sees_neither_order_nor_side() -> None:
    x, y = cloud(40, 4, 0), cloud(30, 4, 1) + 1
    rng = np.random.default_rng(0)
    value = float(sinkhorn(x, y))
    assert float(sinkhorn(x[rng.permutation(40)], y[rng.permutation(30)])) == pytest.approx(value, rel=1e-9)
    assert float(sinkhorn(y, x)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("blur", [0.5, 1.0])
def test_sinkhorn_s_gradient_is_that_of_finite_differences(blur: float) -> None:
    x, y = cloud(12, 2, 0).requires_grad_(), cloud(9, 2, 1) + 0.5
    sinkhorn(x, y, blur, 400).backward()
    assert x.grad is not None
    for i, j in ((0, 0), (5, 1), (11, 0)):
        step = torch.zeros_like(x)
        step[i, j] = 1e-4
        with torch.no_grad():
            slope = (sinkhorn(x + step, y, blur, 400) - sinkhorn(x - step, y, blur, 400)) / 2e-4
        assert float(x.grad[i, j]) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)


def test_descending_sinkhorn_moves_a_cloud_onto_another() -> None:
    x, y = (0.3 * cloud(80, 3, 0) + 2).float().requires_grad_(), cloud(80, 3, 1).float()
    before = float(sinkhorn(x.detach(), y))
    optimiser = torch.optim.Adam([x], 0.1)
    for _ in range(60):
        loss = sinkhorn(x, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05 * before
    torch.testing.assert_close(x.detach().std(0), y.std(0), rtol=0.25, atol=0)


def test_sinkhorn_refuses_what_is_not_two_clouds() -> None:
    for x, y in (
        (torch.zeros(3, 2), torch.zeros(3, 4)),
        (torch.zeros(0, 2), torch.zeros(3, 2)),
        (torch.zeros(3), torch.zeros(3)),
    ):
        with pytest.raises(ValueError, match="expected clouds of shapes"):
            sinkhorn(x, y)
    with pytest.raises(ValueError, match="blur above 0"):
        sinkhorn(torch.zeros(3, 2), torch.zeros(3, 2), 0.0)


def spikes(bins: int, seed: int) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    """A head of 10 channels, latents (bins, 4) and the counts it makes of them; channel 9 never fires."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(4, 10).requires_grad_(False)
    head.weight.mul_(0.8)
    head.bias[9] = -40
    latents = torch.randn(bins, 4)
    return head, latents, torch.poisson(head(latents).exp())


def test_the_head_recovers_the_rates_without_labels() -> None:
    true, latents, counts = spikes(4000, 0)
    head = target_spike_head(latents, counts)
    torch.testing.assert_close(head.weight[:9], true.weight[:9], atol=0.08, rtol=0)
    torch.testing.assert_close(head.bias[:9], true.bias[:9], atol=0.08, rtol=0)
    assert all(p.requires_grad for p in head.parameters())
    # It is the minimum: without ridge, the gradient of the likelihood is zero.
    free = target_spike_head(latents, counts[:, :9], ridge=0.0)
    residual = (free(latents).exp() - counts[:, :9]).detach()
    assert float((residual.T @ latents / len(latents)).abs().max()) < 1e-4
    assert float(residual.mean(0).abs().max()) < 1e-4


def test_a_silent_channel_stays_finite_and_flat() -> None:
    _, latents, counts = spikes(500, 1)
    assert float(counts[:, 9].sum()) == 0
    head = target_spike_head(latents, counts).requires_grad_(False)
    assert torch.isfinite(head.weight).all() and torch.isfinite(head.bias).all()
    assert float(head.weight[9].abs().max()) == 0
    assert float(head.bias[9]) == pytest.approx(np.log(0.5 / 500), rel=1e-4)


def test_ridge_shrinks_and_few_bins_do_not_break_the_fit() -> None:
    _, latents, counts = spikes(30, 2)
    norms = [float(target_spike_head(latents, counts, ridge).weight.detach().norm()) for ridge in (1e-3, 1e-1, 10.0)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.4
    burst = torch.zeros(30, 1)
    burst[3] = 500  # one bin holds everything: a full Newton step overshoots
    head = target_spike_head(latents, burst)
    flat = float((burst.mean() - burst * burst.mean().log()).mean())
    assert float(reconstruction(head, latents[None], burst[None], [30]).detach()) < flat


def test_reconstruction_is_lowest_for_the_true_latents_and_for_a_head_of_today() -> None:
    true, latents, counts = spikes(2000, 3)
    z, y = latents.reshape(20, 100, 4), counts.reshape(20, 100, 10)
    lengths = [100] * 20
    right = float(reconstruction(true, z, y, lengths))
    assert right == pytest.approx(float((true(z).exp() - y * true(z)).mean()), rel=1e-5)
    assert right < float(reconstruction(true, z.roll(1, 0), y, lengths))
    assert right < float(reconstruction(true, 0.3 * z, y, lengths))
    permuted = y[..., torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    refitted = target_spike_head(latents, permuted.reshape(-1, 10))
    found = float(reconstruction(refitted, z, permuted, lengths).detach())
    assert found == pytest.approx(right, abs=0.01)
    assert found < float(reconstruction(true, z, permuted, lengths)) - 0.1


def test_reconstruction_leaves_out_run_in_and_padding_and_reaches_latents_and_head() -> None:
    true, latents, counts = spikes(60, 4)
    z, y = latents.reshape(2, 30, 4).requires_grad_(), counts.reshape(2, 30, 10).clone()
    y[0, :5], y[1, :8], y[1, 20:] = 1e6, 1e6, 1e6
    head = target_spike_head(latents, counts)
    loss = reconstruction(head, z, y, [30, 20], run_in=[5, 8])
    loss.backward()
    assert abs(float(loss.detach())) < 100
    assert z.grad is not None and head.weight.grad is not None and float(head.weight.grad.abs().max()) > 0
    used = z.grad.abs().sum(-1) > 0
    assert used.sum(1).tolist() == [25, 12]
    assert used[0, 5:].all() and used[1, 8:20].all()
    both = reconstruction(true, z, y, [30, 20], run_in=8)
    torch.testing.assert_close(both, reconstruction(true, z, y, [30, 20], run_in=[8, 8]))
    with pytest.raises(ValueError, match="expected trials with bins behind their run-in"):
        reconstruction(true, z, y, [30, 20], run_in=30)


def test_reconstruction_s_expectation_is_that_of_sampled_latents() -> None:
    true, latents, counts = spikes(20, 5)
    torch.manual_seed(0)
    whiten, logvar = torch.eye(4) + 0.2 * torch.randn(4, 4), torch.full((1, 20, 4), -1.0) + 0.3 * torch.randn(1, 20, 4)
    found = float(reconstruction(true, latents[None], counts[None], [20], logvar=logvar, whiten=whiten))
    # The core's order: noise before whitening, z = (raw - centre) @ whiten
    noise = torch.randn(20_000, 20, 4) * (0.5 * logvar).exp() @ whiten
    samples = reconstruction(true, latents + noise, counts.expand(20_000, -1, -1), [20] * 20_000)
    assert found == pytest.approx(float(samples), rel=0.01)
    assert found > float(reconstruction(true, latents[None], counts[None], [20])) + 0.02
    with pytest.raises(ValueError, match="pass logvar and whiten, or neither"):
        reconstruction(true, latents[None], counts[None], [20], logvar=logvar)
