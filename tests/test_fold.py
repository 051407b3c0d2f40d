"""Which BNs fold is read off the graph: only where it is exact, whatever the module tree looks like."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.fold import fold_batch_norms
from src.models.fuse import fuse
from tests.conftest import quick
from tests.nets import BASELINES, build, max_diff, unsettle


class Named(nn.Module):
    """Conv and BN far apart in the module tree; `reader` says who else reads what."""

    in_channels = 3

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3 if kind == "padded" else 1, padding=int(kind == "padded"), groups=2)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.norms[0](x)
        if self.kind == "both read":
            y = y + x
        y = self.norms[1](F.relu(y))
        z = self.second(y)
        if self.kind == "shared":
            z = self.second(F.relu(z))
        return self.head(F.relu(z + y) if self.kind == "norm read twice" else F.relu(z))


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "folds"), [("plain", 2), ("both read", 1), ("padded", 1), ("shared", 1), ("norm read twice", 1)]
)
def test_a_norm_folds_where_its_convolution_is_its_alone(kind: str, folds: int) -> None:
    net = unsettle(Named(kind)).double()
    expected = net(image := torch.randn(2, 3, 20, 24, dtype=torch.float64))
    folded = copy.deepcopy(net)
    assert fold_batch_norms(folded) == folds
    assert sum(isinstance(norm, nn.BatchNorm2d) for norm in folded.norms) == 2 - folds
    assert max_diff(folded(image), expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", quick(BASELINES, ("unet",)))
def test_the_usual_networks_are_folded_too(name: str) -> None:
    net = unsettle(build(name)).double()
    fused = fuse(net)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = net(image)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert max_diff(fused(image), expected) <= 1e-9 * expected.abs().max().item()


class Aliased(nn.Module):
    """Convolution and BN under two names each; `forward` uses the second."""

    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
        self.conv, self.norm, self.head = self.stages

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))))


class Chain(nn.Module):
    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@torch.no_grad()
@pytest.mark.parametrize(("make", "folds"), [(Aliased, 1), (Chain, 2)])
def test_other_names_and_chains(make: type[nn.Module], folds: int) -> None:
    net = unsettle(make()).double()
    expected = net(image := torch.randn(2, 3, 20, 24, dtype=torch.float64))
    folded = copy.deepcopy(net)
    assert fold_batch_norms(folded) == folds
    assert max_diff(folded(image), expected) < 1e-12


class Branching(nn.Module):
    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > 0 else x


@pytest.mark.parametrize(
    ("net", "message"), [(Branching(), "Branching cannot be traced"), (nn.Conv2d(3, 1, 1), "Add it")]
)
def test_what_cannot_be_traced_is_told(net: nn.Module, message: str) -> None:
    if isinstance(net, nn.Conv2d):
        net = nn.Sequential(net)
    with pytest.raises(ValueError, match=message):
        fuse(net)


@torch.no_grad()
def test_an_activation_inside_a_norm_is_kept() -> None:
    """timm's BatchNormAct2d is a BatchNorm2d that also applies an activation."""
    net = unsettle(build("unet", "model.encoder_name=tu-mobilenetv3_small_050"))
    image = torch.randn(1, 3, 64, 64)
    assert max_diff(fuse(net)(image), net(image)) < 1e-3
