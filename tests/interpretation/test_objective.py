import math

import pytest
import torch

from bci_align.config import FactorConfig
from bci_align.interpretation.objective import gaussian_total_correlation, loss, minibatch_total_correlation
from bci_align.models.factor_vae import FactorVAE


def frames(correlation: float, n: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=generator)
    z[:, 1] = correlation * z[:, 0] + math.sqrt(1 - correlation**2) * z[:, 1]
    return z


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_gaussian_form_is_the_total_correlation_of_a_gaussian(correlation: float) -> None:
    z = frames(correlation, 40_000)
    found = float(gaussian_total_correlation(z, torch.full_like(z, -20.0)))
    assert found == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.01)


def test_the_posterior_s_own_noise_counts() -> None:
    z = frames(0.9)
    assert float(gaussian_total_correlation(z, torch.zeros_like(z))) < 0.5 * float(
        gaussian_total_correlation(z, torch.full_like(z, -20.0))
    )


def test_minibatch_sampling_tells_dependent_factors_from_independent_ones() -> None:
    free, tied = (
        float(minibatch_total_correlation(z, z, torch.full_like(z, -2.0), len(z))) for z in (frames(0.0, 400), frames(0.95, 400))
    )
    assert tied > free + 0.3


def test_an_unlabelled_frame_carries_no_loss() -> None:
    torch.manual_seed(0)
    model = FactorVAE(5, 2, free=1, hidden=8)
    counts, labelled = torch.rand(4, 9, 5), torch.ones(4, 9, 2, dtype=torch.bool)
    labelled[:, 3:, 0] = False
    u = torch.randn(4, 9, 2)
    other = torch.where(labelled, u, 99.0)
    first, second = (
        loss(model, counts, v, labelled, FactorConfig(), 1.0, 36, torch.Generator().manual_seed(1))["behaviours"].detach()
        for v in (u, other)
    )
    assert float(first) == float(second)
    seen = loss(
        model, counts, torch.where(labelled, u + 1, u), labelled, FactorConfig(), 1.0, 36, torch.Generator().manual_seed(1)
    )
    assert float(seen["behaviours"].detach()) != float(first)


def test_the_encoder_learns_from_some_of_the_counts_and_is_judged_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = FactorVAE(50, 2, hidden=8)
    seen: list[torch.Tensor] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x: (seen.append(x), forward(x))[1])
    counts, labelled, u = 1 + torch.rand(8, 9, 50), torch.ones(8, 9, 2, dtype=torch.bool), torch.zeros(8, 9, 2)

    def terms(dropout: float) -> float:
        config = FactorConfig(dropout=dropout)
        made = loss(model, counts, u, labelled, config, 1.0, 72, torch.Generator().manual_seed(1))
        return float(made["reconstruction"].detach())

    assert terms(0.3) == terms(0.3) != terms(0.0)
    part, again, whole = seen
    assert torch.equal(whole, counts) and torch.equal(part, again)
    hidden = part == 0
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(part[~hidden], counts[~hidden] / 0.7)


def test_factors_begin_nearly_without_noise() -> None:
    _, logvar = FactorVAE(5, 2, hidden=8)(torch.zeros(1, 9, 5))
    assert float(logvar.detach().exp().max()) < 0.02


def test_without_a_head_labels_are_not_used() -> None:
    torch.manual_seed(0)
    model = FactorVAE(5, 2, hidden=8, head="none")
    ones = torch.ones(2, 9, 2, dtype=torch.bool)
    config = FactorConfig(head="none")
    terms = loss(model, torch.rand(2, 9, 5), torch.randn(2, 9, 2), ones, config, 1.0, 18, torch.Generator().manual_seed(0))
    assert set(terms) == {"reconstruction", "kl", "correlation"}


def test_the_diagonal_head_sees_one_factor_each() -> None:
    model = FactorVAE(5, 2, free=1, hidden=8)
    z = torch.randn(1, 4, 3)
    moved = z.clone()
    moved[..., 1:] += 1.0
    assert torch.equal(model.labels(z)[..., 0], model.labels(moved)[..., 0])
    assert not torch.equal(model.labels(z)[..., 1], model.labels(moved)[..., 1])


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown head 'both'; known are 'diagonal', 'full', 'none'"):
        FactorVAE(5, 2, head="both")  # type: ignore[arg-type]
