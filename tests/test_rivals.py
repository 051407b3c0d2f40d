"""The rivals: as large as their own programs, true to their formulas, trainable, and folded without a difference."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.cost import measure_cost
from src.models.fuse import fuse
from src.models.rivals.cmunext import CMUNeXt
from src.models.rivals.egeunet import EGEUNet, HadamardAttention
from src.models.rivals.lvunet import VanillaBlock
from src.models.rivals.malunet import InvertedExternalAttention, MALUNet
from src.models.rivals.mkunet import MKUNet, MultiKernelBlock
from src.models.rivals.ulite import AxialDepthwise, FoldedAxial, ULite
from src.models.rivals.unext import UNeXt, shift
from src.rundir import RunDir
from src.train import train
from tests.nets import RIVALS, build, max_diff, unsettle, worst_gradient

# Millions of parameters and GMACs at 3x256x256, measured apart from this project with the rivals' own programs. They
# are not ours to correct.
PUBLISHED = {
    "unext": (1.472, 0.562),
    "unext_s": (0.254, 0.099),
    "ulite": (0.878, 0.737),
    "malunet": (0.178, 0.083),
    "egeunet": (0.053, 0.072),
    "cmunext": (3.149, 7.231),
    "cmunext_s": (0.418, 1.012),
    "mkunet": (0.316, 0.278),
    "mkunet_t": (0.027, 0.050),
    "mkunet_s": (0.093, 0.104),
    "lvunet": (0.935, 0.175),
}
DEPLOYED = {"lvunet": (0.514, 0.157)}  # in the paper's deploy form
LEFT = {"cmunext": 17, "cmunext_s": 13}  # BNs that a padded convolution or a sum follows: they fold into nothing
# of `digest`
REVIEWED = {
    "cmunext": (-1.0202401, 2.22346729, -0.500381701),
    "cmunext_s": (-0.381776112, 0.0789713458, -0.33119096),
    "egeunet": (0.0229746248, 0.41109253, 0.0856324609),
    "lvunet": (1.02809304, 0.00865265464, 1.02913105),
    "malunet": (2.78658961, 0.475962701, 3.87033508),
    "mkunet": (0.0691411843, 0.0947374622, -0.0172831091),
    "mkunet_s": (-0.392767472, 0.0820283036, -0.406102913),
    "mkunet_t": (-1.33899438, 0.109908625, -1.18988347),
    "ulite": (0.26869268, 0.00933207417, 0.271001876),
    "unext": (-0.579079308, 0.553904749, -0.436084223),
    "unext_s": (-0.325063448, 0.378377047, -0.147522592),
}
EXACT = 1e-9  # of the logits' standard deviation, in float64


@functools.cache
def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name)


def test_every_rival_is_here() -> None:
    assert sorted(PUBLISHED) == RIVALS


@pytest.mark.parametrize("name", RIVALS)
def test_parameters_and_macs_are_those_of_their_own_programs(name: str) -> None:
    params, gmacs = PUBLISHED[name]
    cost = measure_cost(net_of(name))
    assert cost.params / 1e6 == pytest.approx(params, rel=0.03)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.03)


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (70, 129)], ids=str)
@pytest.mark.parametrize("name", RIVALS)
def test_logits_have_the_images_size(name: str, size: tuple[int, int]) -> None:
    logits = net_of(name).eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all() and logits.std() > 0


@pytest.mark.parametrize("name", RIVALS)
def test_other_channels_and_classes(name: str) -> None:
    net = build(name, "model.in_channels=5", "model.num_classes=4").eval()
    assert net(torch.randn(1, 5, 40, 64)).shape == (1, 4, 40, 64)
    with pytest.raises(ValueError, match=r"3 channels.*takes 5.*model.in_channels=3"):
        net(torch.randn(1, 3, 40, 64))


@pytest.mark.parametrize("name", RIVALS)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    net = copy.deepcopy(net_of(name)).train()
    logits = net(torch.randn(2, 3, 64, 96))
    F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    assert worst_gradient(net) == []


@torch.no_grad()
@pytest.mark.parametrize("name", RIVALS)
def test_fused_is_the_same_function_without_batch_norm(name: str) -> None:
    net = unsettle(copy.deepcopy(net_of(name))).double()
    structure, fused = repr(net), fuse(net)
    image = torch.randn(2, 3, 70, 96, dtype=torch.float64)
    logits = net(image)
    assert logits.std() > 1e-3
    assert max_diff(logits, fused(image)) <= EXACT * logits.std().item()
    assert sum(isinstance(part, nn.BatchNorm2d) for part in fused.modules()) == LEFT.get(name, 0)
    assert repr(net) == structure and not any(p.requires_grad for p in fused.parameters())
    with pytest.raises(ValueError, match="fused already"):
        fuse(fused)


def test_lv_unet_fused_is_its_deploy_form() -> None:
    params, gmacs = DEPLOYED["lvunet"]
    cost = measure_cost(fuse(net_of("lvunet")))
    assert cost.params / 1e6 == pytest.approx(params, rel=0.03)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.03)


@pytest.mark.parametrize(
    "name",
    ["unext_s", "ulite", "malunet", "egeunet", "cmunext_s", "mkunet_t", "lvunet"],
)
def test_trained_by_the_same_command(tiny: Callable[..., dict[str, Any]], name: str) -> None:
    overrides = ["deep_supervision=true"] if name == "egeunet" else []
    config = tiny(f"model={name}", *overrides, "trainer.max_epochs=1")
    train(config)
    assert 0 <= RunDir.open(config["run_dir"]).metrics()["scores"]["val"]["dice"] <= 1


# --- the formulas, each written a second time ---


def test_shift_is_that_of_rolled_and_cut_groups() -> None:
    x = torch.randn(2, 12, 7, 9)
    padded = F.pad(x, (2, 2, 2, 2))
    for axis in (2, 3):
        groups = [torch.roll(part, by, axis) for part, by in zip(padded.chunk(5, 1), range(-2, 3), strict=False)]
        assert torch.equal(shift(x, axis), torch.cat(groups, 1)[:, :, 2:-2, 2:-2])


def test_a_group_moves_and_zeros_enter() -> None:
    x = torch.arange(1.0, 6.0).view(1, 1, 5, 1).repeat(1, 5, 1, 1)
    columns = shift(x, 2)[0, :, :, 0].tolist()
    assert columns == [[3, 4, 5, 0, 0], [2, 3, 4, 5, 0], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]


@torch.no_grad()
def test_folded_axial_is_one_cross_shaped_kernel() -> None:
    axial = AxialDepthwise(3, 7, dilation=2).double()
    norm = nn.BatchNorm2d(3).double().eval()
    unsettled = [norm.weight, norm.bias, norm.running_mean]
    for value in unsettled:
        value.normal_()
    cross = torch.zeros(3, 1, 7, 7, dtype=torch.float64)
    cross[:, :, :, 3:4] += axial.down.weight
    cross[:, :, 3:4, :] += axial.across.weight
    cross[:, :, 3, 3] += 1
    x = torch.randn(1, 3, 20, 17, dtype=torch.float64)
    expected = F.conv2d(x, cross, axial.down.bias + axial.across.bias, padding=6, dilation=2, groups=3)
    assert max_diff(axial(x), expected) < 1e-12
    assert max_diff(FoldedAxial(copy.deepcopy(axial), norm)(x), norm(expected)) < 1e-12


@torch.no_grad()
def test_hadamard_attention_is_that_of_permuted_planes() -> None:
    """As the paper draws it: each pair of axes brought to the front and its map resized in two dimensions."""
    block = HadamardAttention(16, 8).double()
    for parameter in (block.plane, block.rows, block.columns):
        parameter.normal_()
    x = torch.randn(2, 16, 10, 12, dtype=torch.float64)
    a, b, c, d = F.layer_norm(x.permute(0, 2, 3, 1), (16,), eps=1e-6).permute(0, 3, 1, 2).chunk(4, 1)

    def plane(values: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(values, size=size, mode="bilinear", align_corners=True)

    a = a * block.plane_gate(plane(block.plane, (10, 12)))
    b = (b.permute(0, 3, 1, 2) * block.row_gate(plane(block.rows[None], (4, 10))[0])[None]).permute(0, 2, 3, 1)
    c = (c.permute(0, 2, 1, 3) * block.column_gate(plane(block.columns[None], (4, 12))[0])[None]).permute(0, 2, 1, 3)
    y = torch.cat([a, b, c, block.local(d)], 1)
    y = F.layer_norm(y.permute(0, 2, 3, 1), (16,), eps=1e-6).permute(0, 3, 1, 2)
    assert max_diff(block(x), block.project(y)) < 1e-12


@torch.no_grad()
def test_the_shuffle_moves_into_the_weights() -> None:
    block = MultiKernelBlock(6, 8, expansion=2, kernel_sizes=(1, 3)).double().eval()
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    expected = block(x)
    assert block.shuffle.groups == 4  # gcd(12, 8)
    folded = block.folded()
    assert isinstance(folded.shuffle, nn.Identity)
    assert max_diff(folded(x), expected) < 1e-12


@torch.no_grad()
def test_external_attention_sums_to_one_over_its_memories() -> None:
    block = InvertedExternalAttention(8).double()
    seen = []
    block.memory_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(torch.randn(1, 8, 5, 6, dtype=torch.float64))
    assert seen[0].shape == (1, 32, 5, 6)
    assert max_diff(seen[0].sum(1), torch.ones(1, 5, 6, dtype=torch.float64)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("down", [True, False])
def test_a_vanilla_block_folds_to_three_operations(down: bool) -> None:
    block = VanillaBlock(6, 10, down=down)
    unsettle(nn.Sequential(nn.Conv2d(3, 6, 1), block))
    x = torch.randn(1, 6, 8, 8)
    expected = block(x)
    folded = block.folded()
    assert isinstance(folded.mix, nn.Conv2d)
    assert max_diff(folded(x), expected) < 1e-5


def test_ege_unet_supervises_what_the_bridge_reads() -> None:
    net = EGEUNet(deep_supervision=True).train()
    planes = net(torch.randn(2, 3, 40, 70))
    assert [plane.shape for plane in planes] == [(2, 1, 40, 70)] * 6
    assert isinstance(net.eval()(torch.randn(1, 3, 40, 70)), Tensor)
    assert net.aux_heads is net.mask_heads and EGEUNet().aux_heads is None
    assert isinstance(fuse(net).train()(torch.randn(2, 3, 40, 70)), Tensor)  # fused is for inference


def digest(name: str) -> tuple[float, float, float]:
    """Mean, standard deviation and one value of the logits of an image of waves, all weights being waves, too."""
    net = build(name).double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            waves = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + i).view_as(parameter)
            parameter.copy_(waves / fan_in**0.5 if parameter.dim() > 1 else 0.5 + 0.5 * waves)
        x, y = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
        image = torch.stack([torch.sin(0.3 * x + 0.1 * y), torch.cos(0.2 * y), torch.sin(0.05 * x * y)])
        logits = net(image[None].double())
    return logits.mean().item(), logits.std().item(), logits[0, 0, 20, 33].item()


@pytest.mark.parametrize("name", RIVALS)
def test_the_function_is_the_one_that_was_reviewed(name: str) -> None:
    """Values of this project's own networks, taken when they had been read beside their authors' programs (MK-UNet:
    beside copies of it). They prove nothing of those, but an activation, a dilation or an order that changes shows."""
    assert digest(name) == pytest.approx(REVIEWED[name], rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNeXt(channels=(8, 16)), "five levels"),
        (lambda: ULite(channels=(8,)), "two levels"),
        (lambda: CMUNeXt(depths=(1, 1)), "one of each per level"),
        (lambda: MKUNet(channels=(3, 8, 16, 24, 32)), "even width"),
        (lambda: MALUNet(channels=(8, 16, 24, 32, 48, 60)), "MALUNet has six levels, each a multiple of 8"),
        (lambda: UNeXt(num_classes=0), "at least 1"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
