"""LGFE, ICM and EFAM: recomputed from their weights, counted by the papers' formulas, and what a dilation reaches."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.blocks import EFAM, ICM, LGFE, coordinate_attention, ghost_module, plain_mixer
from tests.nets import max_diff, unsettle, worst_gradient

Weights = dict[str, Tensor]
ACTS = {"gelu": F.gelu, "relu": F.relu, "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def part(weights: Weights, name: str) -> Weights:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def batch_norm(x: Tensor, w: Weights) -> Tensor:
    mean, var, gamma, beta = (w[key][:, None, None] for key in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta


def conv1x1(x: Tensor, w: Weights) -> Tensor:
    out = torch.einsum("oc,bchw->bohw", w["weight"][:, :, 0, 0], x)
    return out + w["bias"][:, None, None] if "bias" in w else out


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """As the sum over its taps of the shifted image: no library convolution."""
    reach = dilation * (weight.shape[-1] // 2)
    padded, (height, width) = F.pad(x, [reach] * 4), x.shape[-2:]
    taps = range(weight.shape[-1])
    return sum(
        weight[:, 0, i, j, None, None] * padded[..., i * dilation :, j * dilation :][..., :height, :width]
        for i, j in product(taps, taps)
    )


def ghost(x: Tensor, w: Weights, out_channels: int) -> Tensor:
    """Han et al.: m intrinsic maps from the primary convolution, s - 1 cheap 3x3 ghosts of each."""
    intrinsic = F.relu(batch_norm(conv1x1(x, part(w, "primary_conv.0")), part(w, "primary_conv.1")))
    cheap = w["cheap_operation.0.weight"]
    repeated = intrinsic.repeat_interleave(len(cheap) // intrinsic.shape[1], dim=1)
    ghosts = F.relu(batch_norm(depthwise(repeated, cheap), part(w, "cheap_operation.1")))
    return torch.cat([intrinsic, ghosts], dim=1)[:, :out_channels]


def attention(x: Tensor, w: Weights) -> Tensor:
    """Hou et al.: means along each axis, one shared bottleneck with h-swish, a gate per axis."""
    height, width = x.shape[-2:]
    pooled = torch.cat([x.mean(3), x.mean(2)], dim=2)[..., None]
    squeezed = ACTS["hardswish"](batch_norm(conv1x1(pooled, part(w, "conv1")), part(w, "bn1")))
    rows, columns = squeezed.split([height, width], dim=2)
    gate_h, gate_w = (conv1x1(f, part(w, n)).sigmoid() for f, n in ((rows, "conv_h"), (columns, "conv_w")))
    return x * gate_h * gate_w.transpose(2, 3)


def dilated(x: Tensor, w: Weights, kernel_size: int, dilation: int) -> Tensor:
    return conv1x1(x, w) if kernel_size == 1 else conv1x1(depthwise(x, w["0.weight"], dilation), part(w, "1"))


def lgfe(x: Tensor, w: Weights, out_channels: int, options: dict[str, Any]) -> Tensor:
    act = ACTS[options.get("act", "gelu")]
    local = act(batch_norm(depthwise(x, w["depthwise.0.weight"]), part(w, "depthwise.1")))
    if options.get("ghost", True):
        local = ghost(local, part(w, "ghost"), out_channels)
    else:
        local = F.relu(batch_norm(conv1x1(local, part(w, "ghost.0")), part(w, "ghost.1")))
    if options.get("attention", True):
        local = attention(local, part(w, "attention"))
    local = batch_norm(local, part(w, "norm"))
    if options.get("context", True):
        kernel_size, dilation = options.get("context_kernel_size", 1), options.get("context_dilation", 7)
        local = local + dilated(x, part(w, "context"), kernel_size, dilation)
    return act(local)


def unsettled(block: nn.Module, channels: int) -> nn.Module:
    """In float64, so that a formula which is only nearly right differs."""
    return unsettle(block, in_channels=channels).double()


LGFES: list[dict[str, Any]] = [
    {},
    {"context_kernel_size": 3, "context_dilation": 2},
    {"context_kernel_size": 5},
    {"ghost_ratio": 3},
    {"ca_reduction": 1},
    {"act": "relu"},
    {"act": "hardswish"},
    {"ghost": False},
    {"attention": False},
    {"context": False},
    {"ghost": False, "attention": False, "context": False},
]


@pytest.mark.parametrize("options", LGFES, ids=str)
def test_lgfe_is_its_formula(options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    block = unsettled(LGFE(5, 11, **options), 5)
    x = torch.randn(2, 5, 19, 13, dtype=torch.float64)
    expected = lgfe(x, block.state_dict(), 11, options)
    assert max_diff(block(x), expected) < 1e-10
    assert expected.std() > 0.1


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("inner_act", [False, True])
def test_icm_is_its_formula(inner_act: bool, act: str) -> None:
    block = unsettled(ICM(6, expansion=4, act=act, inner_act=inner_act), 6)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    weights = block.state_dict()
    inner = ACTS[act] if inner_act else lambda x: x
    narrow = inner(conv1x1(x, part(weights, "project.0")))
    wide = inner(conv1x1(narrow, part(weights, "project.2")))
    assert wide.shape[1] == 24
    expected = ACTS[act](x + batch_norm(conv1x1(wide, part(weights, "project.4")), part(weights, "project.5")))
    assert max_diff(block(x), expected) < 1e-10


@pytest.mark.parametrize("dilations", [(1, 3, 5), (2,), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_efam_is_its_formula(kernel_size: int, dilations: tuple[int, ...]) -> None:
    block = EFAM(7, 4, dilations=dilations, kernel_size=kernel_size).double()
    x = torch.randn(2, 7, 12, 15, dtype=torch.float64)
    weights = block.state_dict()
    branches = [dilated(x, part(weights, f"branches.{i}"), kernel_size, rate) for i, rate in enumerate(dilations)]
    assert max_diff(block(x), conv1x1(torch.cat(branches, dim=1), part(weights, "merge"))) < 1e-10


def test_published_efam_equals_one_1x1_convolution() -> None:
    block = EFAM(7, 4).double()
    x = torch.randn(2, 7, 5, 6, dtype=torch.float64)
    weight, bias = block.as_conv()
    assert weight.shape == (4, 7, 1, 1)
    assert max_diff(block(x), F.conv2d(x, weight, bias)) < 1e-10


# Ghost (Han et al.): C_out = s m maps; primary k^2 C_in m, cheap d^2 m (s - 1), neither with bias, each with a BN.
@pytest.mark.parametrize(
    ("c_in", "c_out", "s"), [(16, 16, 2), (48, 32, 2), (7, 12, 3), (16, 64, 4), (10, 11, 2), (3, 2, 5)]
)
def test_ghost_has_the_papers_parameters(c_in: int, c_out: int, s: int) -> None:
    k, d, m = 1, 3, -(-c_out // s)  # where s does not divide C_out, as GhostNet's code: rounded up, the surplus cut off
    primary, cheap = k**2 * c_in * m, d**2 * m * (s - 1)
    module = ghost_module(c_in, c_out, s)
    assert size(module) == primary + 2 * m + cheap + 2 * m * (s - 1)
    assert module(torch.randn(2, c_in, 6, 5)).shape == (2, c_out, 6, 5)


# CA (Hou et al., and their code): 1x1 C -> mip and two 1x1 mip -> C, all with bias, and a BN; mip = max(8, C // 32).
@pytest.mark.parametrize("channels", [5, 16, 160, 256, 320, 1000])
def test_coordinate_attention_has_the_papers_parameters(channels: int) -> None:
    mip = max(8, channels // 32)
    down, norm, up = (channels + 1) * mip, 2 * mip, (mip + 1) * channels
    assert size(coordinate_attention(channels, 32)) == down + norm + 2 * up


@pytest.mark.parametrize(("c_in", "c_out"), [(16, 16), (48, 32), (288, 128)])
def test_lgfe_has_the_sum_of_its_parts_parameters(c_in: int, c_out: int) -> None:
    """And each switch takes out exactly the part that it names."""
    depthwise, norm, context = 25 * c_in + 2 * c_in, 2 * c_out, (c_in + 1) * c_out
    ghost, attention = size(ghost_module(c_in, c_out, 2)), size(coordinate_attention(c_out, 32))
    whole = depthwise + ghost + attention + norm + context
    assert size(LGFE(c_in, c_out)) == whole
    assert size(LGFE(c_in, c_out, attention=False)) == whole - attention
    assert size(LGFE(c_in, c_out, context=False)) == whole - context
    assert size(LGFE(c_in, c_out, ghost=False)) == whole - ghost + c_in * c_out + 2 * c_out
    assert size(LGFE(c_in, c_out, context_kernel_size=3)) == whole + 9 * c_in


@pytest.mark.parametrize("c", [4, 160])
def test_icm_and_efam_have_their_formulas_parameters(c: int) -> None:
    assert size(ICM(c)) == (c + 1) * c + (c + 1) * 4 * c + 4 * c * c + 2 * c
    assert size(EFAM(3 * c, c, dilations=(1, 3, 5))) == 3 * (3 * c + 1) * c + (3 * c + 1) * c
    assert size(EFAM(3 * c, c, dilations=(1, 3), kernel_size=3)) == 2 * (9 * 3 * c + (3 * c + 1) * c) + (2 * c + 1) * c


def reached(block: nn.Module, channels: int, side: int = 23) -> set[tuple[int, int]]:
    """Offsets of the input pixels that the output at the centre depends on."""
    for p in block.parameters():
        p.data.abs_()  # with nothing negative no ReLU hides a path
    x = torch.rand(1, channels, side, side, requires_grad=True)
    centre = side // 2
    block(x)[..., centre, centre].square().sum().backward()
    return {(i - centre, j - centre) for i, j in x.grad.abs().sum(1)[0].nonzero().tolist()}


def square(*offsets: int) -> set[tuple[int, int]]:
    return set(product(offsets, offsets))


def test_a_dilation_reaches_further_with_kernel_3_and_nowhere_with_kernel_1() -> None:
    local = square(*range(-3, 4))  # depthwise 5x5, then Ghost's cheap 3x3
    for kernel_size, context in ((1, {(0, 0)}), (3, square(-7, 0, 7))):
        block = LGFE(4, 4, context_kernel_size=kernel_size, attention=False, act="hardswish").eval()
        assert reached(block, 4) == local | context, kernel_size
    assert reached(EFAM(4, 4), 4) == {(0, 0)}
    assert reached(EFAM(4, 4, kernel_size=3), 4) == square(-1, 0, 1) | square(-3, 0, 3) | square(-5, 0, 5)


@pytest.mark.parametrize(
    "block",
    [LGFE(3, 6), LGFE(3, 6, context_kernel_size=3), ICM(3), ICM(3, inner_act=True), EFAM(3, 6)],
    ids=lambda block: type(block).__name__,
)
def test_every_parameter_of_a_block_alone_gets_a_finite_gradient(block: nn.Module) -> None:
    block(torch.randn(2, 3, 9, 8)).square().sum().backward()
    assert worst_gradient(block) == []


def test_a_missing_ghost_module_is_a_plain_convolution_of_the_same_kernel() -> None:
    conv, norm, act = plain_mixer(4, 6)
    assert conv.kernel_size == ghost_module(4, 6, 2).primary_conv[0].kernel_size
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(act, nn.ReLU)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: LGFE(4, 4, act="swoosh"), "swoosh.*gelu, relu, hardswish"),
        (lambda: LGFE(4, 4, context_kernel_size=2), "kernel size 2.*odd"),
        (lambda: LGFE(4, 4, context_kernel_size=-1), "kernel size -1.*odd"),
        (lambda: LGFE(4, 4, context_dilation=0), "dilation 0.*at least 1"),
        (lambda: LGFE(4, 4, ghost_ratio=1), "ghost_ratio=1.*at least 2.*ghost=False"),
        (lambda: LGFE(4, 4, ca_reduction=0), "ca_reduction=0.*at least 1"),
        (lambda: ICM(4, act="elu"), "elu.*gelu, relu, hardswish"),
        (lambda: EFAM(4, 4, dilations=()), "no dilation rate.*at least one"),
        (lambda: EFAM(4, 4, dilations=(1, -2)), "dilation -2.*at least 1"),
        (lambda: EFAM(4, 4, kernel_size=4), "kernel size 4.*odd"),
    ],
)
def test_a_bad_argument_is_answered_with_what_is_possible(make: Any, received: str) -> None:
    with pytest.raises(ValueError, match=received):
        make()
