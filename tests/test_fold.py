"""Which BNs fold is read off the graph: only where it is exact, whatever the module tree looks like."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.fold import fold_batch_norms
from src.models.fuse import fuse
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
    assert fold_batch_norms(folded, 3) == folds
    assert sum(isinstance(norm, nn.BatchNorm2d) for norm in folded.norms) == 2 - folds
    assert max_diff(folded(image), expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", BASELINES)
def test_the_usual_networks_are_folded_too(name: str) -> None:
    net = unsettle(build(name)).double()
    fused = fuse(net)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = net(image)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert max_diff(fused(image), expected) <= 1e-9 * expected.abs().max().item()
