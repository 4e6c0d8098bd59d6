import pytest
import torch

from bci_align.bundle.manifest import PriorShape
from bci_align.bundle.networks import new_prior
from bci_align.config import TrainConfig
from bci_align.models.denoiser import LatentDenoiser, Layers


def reach(layers: Layers) -> tuple[float, float, float]:
    """How much a change of one scalar moves: another bin of its latent, another latent of its bin, neither."""
    torch.manual_seed(0)
    net = LatentDenoiser(latents=6, width=16, blocks=2, layers=layers)
    torch.nn.init.normal_(net.out.weight)
    x, t = torch.randn(2, 20, 6), torch.tensor([3, 80])
    y = x.clone()
    y[:, 4, 1] += 1.0
    with torch.no_grad():
        change = (net(x, t) - net(y, t)).abs()
    assert change.shape == x.shape
    assert float(change[:, 4, 1].min()) > 0
    return float(change[:, 15, 1].min()), float(change[:, 4, 3].min()), float(change[:, 15, 3].min())


def test_each_ablation_sees_along_one_axis_only() -> None:
    over_time, over_latents, over_both = reach("both")
    assert min(over_time, over_latents, over_both) > 0
    over_time, over_latents, over_both = reach("spatial")
    assert over_latents > 0
    assert (over_time, over_both) == (0, 0)
    over_time, over_latents, over_both = reach("temporal")
    assert over_time > 0
    assert (over_latents, over_both) == (0, 0)


def test_the_ablations_are_smaller_and_the_default_keeps_its_weights_names() -> None:
    sizes = {k: sum(p.numel() for p in LatentDenoiser(6, 16, layers=k).parameters()) for k in ("both", "spatial", "temporal")}
    assert sizes["spatial"] == sizes["temporal"] < sizes["both"]
    both, spatial = LatentDenoiser(6, 16), LatentDenoiser(6, 16, layers="spatial")
    assert set(both.state_dict()) - set(spatial.state_dict()) == {k for k in both.state_dict() if ".temporal." in k}


def test_layers_travel_from_the_shape_to_the_prior() -> None:
    assert TrainConfig().prior_layers == PriorShape(width=16, blocks=1, steps=10, window=8).layers == "both"
    shape = PriorShape(width=16, blocks=1, steps=10, window=8, layers=TrainConfig(prior_layers="temporal").prior_layers)
    names = set(new_prior(6, shape).state_dict())
    assert any(".temporal." in n for n in names)
    assert not any(".spatial." in n for n in names)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown layers 'none'"):
        LatentDenoiser(6, layers="none")  # type: ignore[arg-type]
