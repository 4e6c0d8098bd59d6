"""Conditions, guides, inversion, averages and interrupted trainings of the diffusion core."""

import pytest
import torch
from torch import Tensor, nn

from bci_align.diffusion.ema import Ema
from bci_align.diffusion.fit import Conditioning, fit
from bci_align.diffusion.guide import Condition, Guide
from bci_align.diffusion.process import Diffusion, Noised
from bci_align.diffusion.schedule import abar


class Exact(nn.Module):
    """The exact denoiser of N(cond, s^2) (of N(0, s^2) when nothing is told)."""

    def __init__(self, variance: float, steps: int = 100) -> None:
        super().__init__()
        self.variance, self.alphas = variance, abar("linear", steps)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        a = self.alphas[t][:, None]
        mean = 0.0 if cond is None else a.sqrt() * cond
        return (1 - a).sqrt() * (x - mean) / (a * self.variance + 1 - a)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_condition_moves_what_is_sampled() -> None:
    diffusion = Diffusion(Exact(0.25), "linear")
    cond = torch.tensor([[1.0, -2.0]]).expand(2000, 2)
    x = diffusion.sample((2000, 2), seeded(), 100, cond=cond)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), atol=0.05, rtol=0)
    assert float(x.std(0).mean()) == pytest.approx(0.5, rel=0.05)


def test_classifier_free_weight_leans_on_the_condition() -> None:
    diffusion = Diffusion(Exact(0.25), "linear")
    cond, noise = torch.ones(1, 2), torch.zeros(1, 2)

    def at(weight: float, null: Tensor | None = noise) -> float:
        told = Condition(cond, null, weight)
        return float(diffusion.sample((1, 2), seeded(), 100, x_T=noise, cond=told).mean())

    assert at(0.0) == pytest.approx(0.0, abs=1e-3)
    assert at(1.0) == at(1.0, None)
    assert at(2.0) > at(1.0) + 0.5 > at(0.0) + 1.0
    with pytest.raises(ValueError, match="expected a null condition"):
        at(2.0, None)


def test_a_guide_gives_the_gaussian_posterior() -> None:
    """Prior N(0, 1) and an observation y = x + N(0, r^2): exact once the likelihood of x0_hat knows the variance left in it."""
    r2, y, steps = 0.25, 2.0, 200
    diffusion = Diffusion(Exact(1.0, steps), "linear", steps)

    def log_p(x0: Tensor, t: Tensor) -> Tensor:
        left = 1 - diffusion.abar[t]  # variance of x0 given x_t, for a N(0, 1) prior
        return -0.5 * ((y - x0) ** 2).sum(1) / (r2 + left)

    x = diffusion.sample((4000, 1), seeded(), steps, guide=Guide(log_p))
    assert float(x.mean()) == pytest.approx(y / (1 + r2), abs=0.05)
    assert float(x.var()) == pytest.approx(r2 / (1 + r2), rel=0.15)
    unguided = diffusion.sample((4000, 1), seeded(), steps)
    assert torch.equal(unguided, diffusion.sample((4000, 1), seeded(), steps, guide=Guide(log_p, scale=0.0)))
    assert torch.equal(unguided, diffusion.sample((4000, 1), seeded(), steps, guide=Guide(log_p, window=(1.5, 2.0))))
    late = diffusion.sample((4000, 1), seeded(), steps, guide=Guide(log_p, window=(0.0, 0.2)))
    assert 0.1 < float(late.mean()) < float(x.mean()) - 0.1


def test_a_guide_s_gradient_goes_through_the_net() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 0.5 * x

    diffusion = Diffusion(Net(), "linear")
    a = diffusion.abar[60]
    x, t = torch.ones(1, 1), torch.tensor([60])
    eps = diffusion._eps(x, t, 60, None, Guide(lambda x0, _: x0.sum(1)))
    through = (1 - 0.5 * (1 - a).sqrt()) / a.sqrt()  # d x0_hat / d x_t, the net's own slope in it
    torch.testing.assert_close(eps, 0.5 * x - (1 - a).sqrt() * through)


@pytest.mark.parametrize("steps", [20, 50])
def test_inversion_and_sampling_are_each_other_s_inverse(steps: int) -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 3))

        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return self.f(torch.cat([x, cond, t[:, None] / 100], 1))

    diffusion = Diffusion(Net(), "linear")
    x0, cond = torch.randn(16, 3), torch.randn(16, 1)
    noise = diffusion.invert(x0, steps, cond, 30)
    assert float((noise - x0).abs().mean()) > 0.1
    torch.testing.assert_close(diffusion.sample((16, 3), seeded(), steps, x_T=noise, cond=cond), x0, atol=1e-3, rtol=1e-3)
    other = diffusion.sample((16, 3), seeded(), steps, x_T=noise, cond=cond + 1)
    assert float((other - x0).abs().mean()) > 1e-2


def test_inversion_uses_the_alphas_of_the_stride_it_undoes() -> None:
    """Of N(0, s^2) DDIM is a product of known factors: what comes out is x0 divided by exactly those."""
    diffusion = Diffusion(Exact(4.0), "linear")
    ts = diffusion._strides(10)
    factor = 1.0
    for t, t_next in zip(ts, [*ts[1:], None], strict=True):
        a, b = float(diffusion.abar[t]), 1.0 if t_next is None else float(diffusion.abar[t_next])
        slope = (1 - a) ** 0.5 / (4 * a + 1 - a)
        factor *= b**0.5 * (1 - (1 - a) ** 0.5 * slope) / a**0.5 + (1 - b) ** 0.5 * slope
    found = diffusion.invert(torch.ones(1, 1), 10, iterations=60)
    assert float(found) == pytest.approx(1 / factor, rel=1e-4)


def test_shared_noise_is_what_begins_every_sample() -> None:
    diffusion = Diffusion(Exact(1.0), "linear")
    x = diffusion.sample((3, 2), seeded(), x_T=torch.randn(1, 2, generator=seeded(5)))
    assert torch.equal(x[0], x[1]) and torch.equal(x[1], x[2])


def test_an_average_follows_the_weights_and_comes_back() -> None:
    module = nn.BatchNorm1d(1)
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(3.0)
    module.num_batches_tracked.fill_(7)
    for _ in range(3):
        ema.update(module)
    # decays (1 + n) / (10 + n): 0.1, 2/11, 0.25 of the distance to 3 that was left
    assert float(ema.average["weight"]) == pytest.approx(3 - 2 * 0.1 * (2 / 11) * 0.25)
    again = Ema(nn.BatchNorm1d(1), 0.9)
    again.load(ema.state())
    again.copy_to(module)
    assert again.updates == 3 and torch.equal(module.weight.detach(), ema.average["weight"])
    assert int(module.num_batches_tracked) == 7
    with pytest.raises(ValueError, match="decay"):
        Ema(module, 1.0)


class Told(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.f(torch.cat([x, cond, t[:, None] / 50], 1))


def halves() -> Tensor:
    """Samples around (2, 2) and (-2, -2)."""
    z = torch.randn(512, 2, generator=seeded(3))
    return 0.3 * z + torch.where(torch.arange(512) % 2 == 0, 2.0, -2.0)[:, None]


def test_fit_trains_an_encoder_along_and_its_code_decides_the_sample() -> None:
    torch.manual_seed(0)
    diffusion, encoder, x = Diffusion(Told(), "linear", 50), nn.Linear(2, 1), halves()
    conditioning = Conditioning(encoder)
    seen: list[Noised] = []

    def extra(batch: Noised) -> Tensor:
        seen.append(batch)
        assert batch.cond is not None
        return 0.1 * batch.cond.square().mean()

    before = encoder.weight.detach().clone()
    history = fit(diffusion, lambda: x, 60, seeded(), 3e-3, 128, conditioning=conditioning, extra=extra, ema=0.99)
    assert history[-1] < history[0] and len(seen) == 60 * 4 and not torch.equal(before, encoder.weight)
    codes = encoder(torch.tensor([[2.0, 2.0], [-2.0, -2.0]])).detach()
    out = diffusion.sample((2, 2), seeded(), x_T=torch.zeros(1, 2), cond=codes)
    assert float(out[0].mean()) > 1 and float(out[1].mean()) < -1


def test_a_given_condition_is_dropped_as_often_as_asked() -> None:
    x, null, told = halves(), torch.tensor([9.0]), []

    class Net(Told):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            told.append(cond.detach().clone())
            return super().forward(x, t, cond)

    diffusion = Diffusion(Net(), "linear", 50)
    fit(diffusion, lambda: (x, x[:, :1].sign()), 4, seeded(), conditioning=Conditioning(drop=0.25, null=null))
    share = float((torch.cat(told) == 9).float().mean())
    assert 0.2 < share < 0.3
    with pytest.raises(ValueError, match="null condition"):
        fit(diffusion, lambda: x, 1, seeded(), conditioning=Conditioning(drop=0.5))


def test_whole_batches_are_full_and_no_sample_is_left_out_for_good() -> None:
    x, seen = torch.arange(9.0)[:, None].repeat(1, 2), []

    def watched(batch: Noised) -> Tensor:
        seen.append(batch.x0[:, 0].clone())
        return torch.zeros(())

    diffusion = Diffusion(Told(), "linear", 50)
    history = fit(diffusion, lambda: (x, x[:, :1]), 12, seeded(), batch=4, conditioning=Conditioning(), extra=watched, whole=True)
    assert len(history) == 12 and [len(s) for s in seen] == [4] * 24
    assert set(torch.cat(seen).tolist()) == set(range(9))


class Kept:
    """A checkpoint in memory, which interrupts after some epochs."""

    def __init__(self, stop: int) -> None:
        self.stop, self.state = stop, None

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {k: v.clone() for k, v in state.items()}
        if int(state["epoch"]) == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_training_goes_on_to_the_same_bits(ema: float | None) -> None:
    x = halves()

    def make() -> tuple[Diffusion, nn.Linear]:
        torch.manual_seed(1)
        return Diffusion(Told(), "linear", 50), nn.Linear(2, 1)

    def train(kept: Kept | None, seed: int) -> tuple[list[float], dict[str, Tensor]]:
        diffusion, encoder = make()
        history = fit(diffusion, lambda: x, 6, seeded(seed), conditioning=Conditioning(encoder), ema=ema, checkpoint=kept)
        return history, diffusion.state_dict() | {f"e.{k}": v for k, v in encoder.state_dict().items()}

    whole, weights = train(None, 0)
    kept = Kept(2)
    with pytest.raises(KeyboardInterrupt):
        train(kept, 0)
    kept.stop = 6
    with pytest.raises(KeyboardInterrupt):
        train(kept, 99)  # the seed comes out of the checkpoint
    history, again = train(kept, 99)  # interrupted after the last epoch
    assert history == pytest.approx(whole, abs=0) and all(torch.equal(v, again[k]) for k, v in weights.items())
