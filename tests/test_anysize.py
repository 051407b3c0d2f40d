"""AnySize: the logits of the network itself at every size, without a branch on it."""

import pytest
import torch
from torch import nn

from src.models.anysize import AnySize
from src.models.fuse import fuse
from tests.nets import build, max_diff, seeded, unsettle

SIZES = ((32, 32), (33, 47), (64, 96), (100, 65))


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"stem_stride": 2}, {"stem_stride": 4, "fusion_dilations": ()}], ids=str)
def test_the_logits_of_an_emisnet(options: dict) -> None:
    net = unsettle(seeded(channels=(4, 6, 8, 10, 12), **options)).eval()
    for module in (net, fuse(net)):
        for height, width in SIZES:
            image = torch.randn(2, 3, height, width)
            assert torch.equal(AnySize(module)(image), module(image))


@torch.no_grad()
@pytest.mark.parametrize("name", ["unext_s", "mkunet_t", "egeunet"])
def test_the_logits_of_a_rival(name: str) -> None:
    net = build(name).eval()
    for height, width in SIZES:
        image = torch.randn(1, 3, height, width)
        assert max_diff(AnySize(net)(image), net(image)) == 0


def test_a_network_that_does_not_say_what_it_pads_to_is_refused() -> None:
    with pytest.raises(TypeError, match="Conv2d does not say"):
        AnySize(nn.Conv2d(3, 1, 1))
