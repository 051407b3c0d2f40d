"""fuse(): the same logits from fewer operations, on networks whose every BN matters."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.models import fuse as module
from src.models.cost import measure_cost
from src.models.emisnet import EMISNet
from src.models.fuse import fuse
from tests.nets import EMISNETS, build, max_diff, meta, seeded, unsettle

TOLERANCE = 1e-4  # of float32 logits, which `unsettle` makes about 3 large
EXACT = 1e-9  # in float64, where a fold that is only nearly right shows

# (parameters, after fuse, MACs, after fuse) of one 3x256x256 image. Whoever changes an architecture corrects its row.
COSTS = {
    "emisnet": (438105, 217481, 742449152, 659296256),
    "emisnet_base": (1987160, 934590, 2789652480, 2407233536),
    "emisnet_no_ca": (417873, 198193, 741056512, 657903616),
    "emisnet_no_context": (344665, 125577, 472965120, 389812224),
    "emisnet_no_efam": (425753, 217257, 710807552, 658378752),
    "emisnet_no_ghost": (480985, 260361, 856952832, 773799936),
    "emisnet_no_icm": (206585, 191721, 683466752, 652742656),
    "emisnet_intended": (422825, 416025, 172213248, 164516864),
    "emisnet_ratio_1111": (417769, 197561, 676388864, 593235968),
    "emisnet_ratio_1131": (438105, 217481, 742449152, 659296256),
    "emisnet_ratio_1311": (424889, 204457, 757915648, 674762752),
    "emisnet_ratio_3111": (420585, 200249, 788848640, 705695744),
    "emisnet_ratio_d1131": (458441, 237401, 808509440, 725356544),
    "emisnet_ratio_d3111": (440921, 220169, 854908928, 771756032),
    "emisnet_small": (504273, 240065, 770385920, 676093952),
    "emisnet_tiny": (105129, 63641, 89929728, 81819648),
    "emisnet_plus": (430115, 425227, 578886208, 578886208),
}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"in_channels": 5, "num_classes": 4},
    {"stem_stride": 2},
    {"stem_stride": 4},
    {"act": "relu"},
    {"act": "hardswish", "ghost_ratio": 3, "ca_reduction": 1},
    {"icm_levels": (0, 2, 4)},
    {"icm_levels": (0, 2, 4), "icm_inner_act": True},
    {"icm_levels": ()},
    {"context_kernel_size": 3},
    {"context_kernel_size": 5, "attention": False},
    {"fusion_kernel_size": 3, "fusion_dilations": (2, 4)},
    {"fusion_dilations": (2,)},
    {"fusion_dilations": ()},
    {"ghost": False},
    {"attention": False},
    {"context": False},
    {"context": False, "attention": False, "ghost": False, "icm_levels": (), "fusion_dilations": ()},
    {"deep_supervision": True, "encoder_depths": (2, 1, 1, 1, 1), "decoder_depths": (1, 2, 1, 1)},
]


@functools.cache
def folded(name: str) -> tuple[nn.Module, EMISNet]:
    """A variant and what fuse makes of it, without weights."""
    net = meta(name)
    return net, fuse(net)


def small(**kwargs: Any) -> EMISNet:
    """In float64, with few channels."""
    net = seeded(**{"channels": (4, 6, 8, 10, 12)} | kwargs)
    unsettle(net, in_channels=net.in_channels)
    return net.double()


def image_for(net: EMISNet, height: int, width: int) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(2, net.in_channels, height, width, dtype=net.stem[0].weight.dtype)


@torch.no_grad()
def difference(net: EMISNet, fused: EMISNet, sizes: Sequence[tuple[int, int]] = ((33, 47), (70, 33))) -> float:
    """The largest between the logits, which are first made sure to be large enough to differ."""
    worst = 0.0
    for height, width in sizes:
        image = image_for(net, height, width)
        logits = net(image)
        assert logits.abs().max() > 1 and logits.std() > 0.5
        worst = max(worst, max_diff(logits, fused(image)))
    return worst


@pytest.mark.parametrize("name", EMISNETS)
def test_every_variant_gives_the_same_logits(name: str) -> None:
    net = unsettle(build(name))
    assert difference(net, fuse(net)) <= TOLERANCE


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_is_folded_exactly(options: dict[str, Any]) -> None:
    net = small(**options)
    assert difference(net, fuse(net), [(33, 47), (64, 64), (100, 64)]) <= EXACT


def test_the_table_holds_every_variant() -> None:
    assert sorted(COSTS) == EMISNETS


@pytest.mark.parametrize("name", EMISNETS)
def test_fused_has_so_many_fewer_parameters_and_macs(name: str) -> None:
    net, fused = folded(name)
    before, after = measure_cost(net), measure_cost(fused)
    assert after.params < before.params
    assert after.macs < before.macs or name == "emisnet_plus"  # which has no ICM, EFAM or context to fold
    assert (before.params, after.params, before.macs, after.macs) == COSTS[name]
    assert list(fused.buffers()) == [], "a constant outside the parameters would not be counted"


@pytest.mark.parametrize("name", EMISNETS)
def test_fused_has_no_batch_norm_no_dilated_1x1_and_cannot_be_fused_again(name: str) -> None:
    _, fused = folded(name)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in fused.modules())
    convs = [part for part in fused.modules() if isinstance(part, nn.Conv2d)]
    assert not [conv for conv in convs if conv.kernel_size == (1, 1) and conv.dilation != (1, 1)]
    with pytest.raises(ValueError, match="fused already"):
        fuse(fused)


def test_fused_is_for_inference_only() -> None:
    net = small(deep_supervision=True).train()
    fused = fuse(net)
    assert isinstance(fused, EMISNet) and fused.aux_heads is None
    assert not any(part.training for part in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    assert isinstance(fused.train()(image_for(net, 32, 32)), Tensor)  # one plane even when someone forgets eval()


@pytest.mark.parametrize(
    "options", [{}, {"icm_inner_act": True, "context_kernel_size": 3}, {"context": False}], ids=str
)
def test_the_original_is_left_as_it_was(options: dict[str, Any]) -> None:
    net = small(**options).train()
    before, structure = copy.deepcopy(net.state_dict()), repr(net)
    fused = fuse(net)
    for p in fused.parameters():
        p.data.fill_(float("nan"))  # would show through any weight that the two share
    assert net.training and repr(net) == structure
    assert all(p.requires_grad for p in net.parameters())
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [{}, {"icm_inner_act": True, "context_kernel_size": 3, "fusion_kernel_size": 3}, {"context": False}],
    ids=str,
)
def test_every_single_folded_weight_matters(options: dict[str, Any]) -> None:
    """The comparison would notice one wrong tensor: each parameter in turn is shifted by 0.5."""
    shallow = {"channels": (8, 10, 12), "encoder_depths": (1, 2, 1), "decoder_depths": (1, 1), "icm_levels": (2,)}
    net = small(**options, **shallow, act="hardswish")
    fused = fuse(net)
    image = image_for(net, 32, 32)
    logits, unnoticed = net(image), []
    assert max_diff(logits, fused(image)) <= EXACT
    for name, p in fused.named_parameters():
        p.data += 0.5
        if max_diff(logits, fused(image)) <= TOLERANCE:
            unnoticed.append(name)
        p.data -= 0.5
    assert unnoticed == []


def no_mean(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double()


def no_eps(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double())
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@pytest.mark.parametrize("broken", [no_mean, no_eps])
def test_a_broken_fold_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any]) -> None:
    net = small()
    monkeypatch.setattr(module, "scale_and_shift", broken)
    assert difference(net, fuse(net)) > EXACT
