"""EMISNet: any image, any option, a gradient everywhere, and a word about dilations that change nothing."""

import inspect
import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.models.blocks import EFAM, ICM, LGFE
from src.models.emisnet import EMISNet, ScaleFusion, pad_to_multiple
from tests.nets import EMISNETS, WARNING, build, max_diff, model_config, quiet, seeded, unsettle, worst_gradient

SMALL = (4, 6, 8, 10, 12)
DILATED = {"context_kernel_size": 3, "fusion_kernel_size": 3}  # no 1x1 kernel meets a dilation
OPTIONS: list[dict[str, Any]] = [
    {},
    {"channels": (4, 6), "encoder_depths": (1, 2), "decoder_depths": (1,), "icm_levels": (0, 1)},
    {"channels": (4, 5, 6, 7, 8, 9), "encoder_depths": (1,) * 6, "decoder_depths": (1,) * 5},
    {"encoder_depths": (2, 1, 1, 1, 2), "decoder_depths": (1, 3, 1, 2)},
    {"act": "relu"},
    {"act": "hardswish"},
    {"icm_levels": ()},
    {"icm_levels": (0, 2, 4), "icm_inner_act": True},
    {"context_kernel_size": 3, "context_dilation": 2},
    {"context_kernel_size": 3, "context_dilation": (7, 5, 3, 2, 1)},
    {"local_kernel_size": 3},
    {"fusion_dilations": (2,)},
    {"fusion_dilations": ()},
    {"fusion_kernel_size": 5},
    {"ghost_ratio": 3},
    {"ca_reduction": 1},
    {"ghost": False},
    {"attention": False},
    {"context": False},
]


def small(**kwargs: Any) -> EMISNet:
    return seeded(**{"channels": SMALL} | kwargs)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 64)], ids=str)
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 4), (3, 1), (5, 1)])
def test_logits_have_the_images_size(
    size: tuple[int, int], in_channels: int, num_classes: int, stem_stride: int
) -> None:
    net = small(in_channels=in_channels, num_classes=num_classes, stem_stride=stem_stride).eval()
    logits = net(torch.randn(2, in_channels, *size))
    assert logits.shape == (2, num_classes, *size)
    assert logits.isfinite().all() and logits.std() > 0


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_padding_repeats_the_border_and_is_cropped_again(stem_stride: int) -> None:
    """An image padded by hand gives the same logits, and nothing is shifted or resized."""
    net = unsettle(small(stem_stride=stem_stride))
    image = torch.randn(1, 3, 50, 71)
    divisor = 16 * stem_stride
    rows, columns = (torch.arange(-(-side // divisor) * divisor).clamp(max=side - 1) for side in (50, 71))
    padded = image[:, :, rows][..., columns]
    assert torch.equal(pad_to_multiple(image, divisor), padded)
    assert max_diff(net(image), net(padded)[..., :50, :71]) < 1e-5


def gradients(net: nn.Module, deep_supervision: bool) -> None:
    """One backward pass in training mode, from all the logits there are."""
    logits = net.train()(torch.randn(2, 3, 33, 47))
    assert isinstance(logits, list) == deep_supervision
    planes = logits if deep_supervision else [logits]
    assert [plane.shape for plane in planes] == [(2, 1, 33, 47)] * (len(net.decoder) if deep_supervision else 1)
    sum(F.binary_cross_entropy_with_logits(plane, torch.ones_like(plane)) for plane in planes).backward()


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_gives_every_parameter_a_finite_gradient(options: dict[str, Any], deep_supervision: bool) -> None:
    net = small(**options, deep_supervision=deep_supervision)
    gradients(net, deep_supervision)
    assert worst_gradient(net) == []


@pytest.mark.parametrize(("name", "deep_supervision"), [("emisnet", False), *((name, True) for name in EMISNETS)])
def test_every_variant_gives_every_parameter_a_finite_gradient(name: str, deep_supervision: bool) -> None:
    net = build(name, f"deep_supervision={deep_supervision}")
    gradients(net, deep_supervision)
    assert worst_gradient(net) == []


def test_every_parameter_reaches_the_logits() -> None:
    """Biases before a BN aside, whose gradient is zero in training: it is taken in eval mode."""
    net = unsettle(small(act="hardswish", channels=(8, 12, 16, 20, 24)))  # few channels may all be silenced by a ReLU
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if not p.grad.any()]
    assert silent == []


def test_deep_supervision_adds_heads_for_training_and_changes_nothing_else() -> None:
    plain, deep = small(num_classes=2), small(num_classes=2, deep_supervision=True)
    added = {name for name, _ in deep.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert {name.split(".")[0] for name in added} == {"aux_heads"}
    assert len(added) == 2 * 3  # weight and bias at the three lower decoder scales
    deep.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 3, 40, 50)
    assert torch.equal(plain.eval()(image), deep.eval()(image))
    logits, *aux = deep.train()(image)
    assert torch.equal(plain.train()(image), logits)
    assert [plane.shape for plane in aux] == [logits.shape] * 3


def test_the_parts_stand_where_the_design_says() -> None:
    """Five levels, blocks (1, 1, 3, 1, 1) and (1, 1, 1, 1), one ICM at the bottleneck, EFAM over all decoder scales."""
    net = quiet(EMISNet)
    assert [len(stage) for stage in net.encoder] == [1, 1, 3, 1, 1]
    assert [len(stage) for stage in net.decoder] == [1, 1, 1, 1]
    assert sum(isinstance(module, LGFE) for module in net.modules()) == 7 + 4
    assert [m.project[0].in_channels for m in net.modules() if isinstance(m, ICM)] == [160]
    (efam,) = (module for module in net.modules() if isinstance(module, EFAM))
    assert efam.merge.out_channels == 16 and [b.in_channels for b in efam.branches] == [16 + 32 + 64 + 128] * 3
    features = net.eval().encode(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 64, 96),
        (32, 32, 48),
        (64, 16, 24),
        (128, 8, 12),
        (160, 4, 6),
    ]
    assert [tuple(scale.shape[1:]) for scale in net.decode(features)] == [tuple(f.shape[1:]) for f in features[:-1]]


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_the_stem_divides_the_first_levels_size(stem_stride: int) -> None:
    features = small(stem_stride=stem_stride).eval().encode(torch.randn(1, 3, 64, 128))
    assert features[0].shape[-2:] == (64 // stem_stride, 128 // stem_stride)


def test_icm_stands_behind_the_levels_that_are_named() -> None:
    """An ICM made to give zeros silences exactly the features of its level."""
    net = small(icm_levels=(1, 4)).eval()
    for icm in net.icm.values():
        icm.forward = torch.zeros_like
    features = net.encode(torch.randn(1, 3, 64, 64))
    assert [bool(f.any()) for f in features] == [True, False, True, True, False]


def test_each_level_may_have_its_rate() -> None:
    """Of the encoder and of the decoder block at the same resolution."""
    net = small(context_kernel_size=3, context_dilation=(7, 5, 3, 2, 1))
    rates = [[block.context[0].dilation for block in blocks] for blocks in (*net.encoder, *net.decoder)]
    assert rates == [[(7, 7)], [(5, 5)], [(3, 3)] * 3, [(2, 2)], [(1, 1)], [(7, 7)], [(5, 5)], [(3, 3)], [(2, 2)]]


def test_without_efam_the_last_decoder_stage_goes_straight_to_the_head() -> None:
    net = small(fusion_dilations=()).eval()
    image = torch.randn(1, 3, 64, 64)
    assert max_diff(net(image), net.head(net.decode(net.encode(image))[0])) < 1e-6
    assert not any(isinstance(module, EFAM) for module in net.modules())


@pytest.mark.parametrize("dilations", [(1, 3, 5), (2,)], ids=str)
@pytest.mark.parametrize("sizes", [[(20, 28), (10, 14), (5, 7)], [(9, 13), (5, 7), (2, 3)]], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_fusion_is_efam_of_the_concatenated_scales_values_and_gradients(
    kernel_size: int, sizes: list[tuple[int, int]], dilations: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    channels = (4, 6, 9)
    fusion = ScaleFusion(channels, dilations=dilations, kernel_size=kernel_size).double()
    scales = [
        torch.randn(2, width, *size, dtype=torch.float64, requires_grad=True)
        for width, size in zip(channels, sizes, strict=True)
    ]
    leaves = [*fusion.efam.parameters(), *scales]
    up = [F.interpolate(scale, sizes[0], mode="bilinear", align_corners=False) for scale in scales]
    literal, actual = fusion.efam(torch.cat(up, dim=1)), fusion(scales)
    assert max_diff(actual, literal) < 1e-12
    weight = torch.randn_like(literal)  # of the outputs, so that no gradient is a mere sum
    expected = torch.autograd.grad((literal * weight).sum(), leaves)
    got = torch.autograd.grad((actual * weight).sum(), leaves)
    for a, b in zip(got, expected, strict=True):
        assert max_diff(a, b) < 1e-10
        assert b.abs().max() > 1e-3


def warnings_of(**kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EMISNet(channels=SMALL, **kwargs)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "context_dilation=7.*and.*fusion_dilations up to 5"),
        ({"fusion_kernel_size": 3}, "context_dilation=7"),
        ({"fusion_dilations": (1,)}, "context_dilation=7"),
        ({"context_kernel_size": 3}, "fusion_dilations up to 5"),
        ({"context": False}, "fusion_dilations up to 5"),
        ({"context_dilation": 1, "fusion_dilations": (1, 2)}, "fusion_dilations up to 2"),
    ],
    ids=str,
)
def test_a_dilated_1x1_is_warned_of_once(options: dict[str, Any], named: str) -> None:
    for _ in range(2):  # each construction speaks for itself
        (message,) = warnings_of(**options)
        assert message.startswith(WARNING) and re.search(named, message)
        assert message.count("context_dilation") == named.count("context_dilation")
        assert message.count("fusion_dilations") == named.count("fusion_dilations")


@pytest.mark.parametrize(
    "options",
    [
        DILATED,
        {"context_dilation": 1, "fusion_dilations": (1, 1)},
        {"context_dilation": 1, "fusion_kernel_size": 3},
        {"context": False, "fusion_dilations": ()},  # parts that are not there
    ],
    ids=str,
)
def test_a_dilation_that_means_something_is_not_warned_of(options: dict[str, Any]) -> None:
    assert warnings_of(**options) == []


@pytest.mark.parametrize(
    "changed", [{"context_dilation": 2}, {"fusion_dilations": (2, 4, 8)}, {"context_dilation": 1}], ids=str
)
def test_a_dilation_changes_nothing_at_kernel_1_and_something_at_kernel_3(changed: dict[str, Any]) -> None:
    image = torch.randn(1, 3, 64, 64)

    def logits(**kwargs: Any) -> torch.Tensor:
        return small(**kwargs).eval()(image)

    assert torch.allclose(logits(), logits(**changed), rtol=0, atol=1e-6)
    assert max_diff(logits(**DILATED), logits(**DILATED, **changed)) > 1e-4


@pytest.mark.parametrize(
    ("options", "received", "required"),
    [
        ({"channels": (8,)}, "channels=(8,)", "at least two levels"),
        ({"channels": ()}, "channels=()", "at least two levels"),
        ({"channels": (8, 0, 8, 8, 8)}, "channels=(8, 0, 8, 8, 8)", "at least 1 wide"),
        ({"channels": (8, 8, 8)}, "encoder_depths=(1, 1, 3, 1, 1)", "3 channels ask for 3 depths"),
        ({"encoder_depths": (1, 1, 0, 1, 1)}, "encoder_depths=(1, 1, 0, 1, 1)", "a level has from 1 to 100 blocks"),
        ({"decoder_depths": (1, 1, 1)}, "decoder_depths=(1, 1, 1)", "ask for 4 depths"),
        ({"decoder_depths": ()}, "decoder_depths=()", "ask for 4 depths"),
        ({"icm_levels": (4, 5)}, "icm_levels=(4, 5): [5]", "levels 0 to 4"),
        ({"icm_levels": (-1,)}, "icm_levels=(-1,)", "levels 0 to 4"),
        ({"stem_stride": 3}, "stem_stride=3", "1, 2 or 4"),
        ({"act": "gelo"}, "act='gelo'", "gelu, relu, hardswish"),
        ({"in_channels": 0}, "in_channels=0", "at least 1"),
        ({"num_classes": 0}, "num_classes=0", "at least 1"),
        ({"context_kernel_size": 4}, "kernel size 4", "odd"),
        ({"fusion_kernel_size": 2}, "kernel size 2", "odd"),
        ({"context_dilation": 0}, "dilation 0", "at least 1"),
        ({"context_dilation": (7, 5)}, "context_dilation=[7, 5]", "one for each of 5 levels"),
        ({"local_kernel_size": 4}, "local_kernel_size=4", "odd"),
        ({"fusion_dilations": (1, 0)}, "dilation 0", "at least 1"),
        ({"ghost_ratio": 1}, "ghost_ratio=1", "at least 2"),
        ({"ca_reduction": 0}, "ca_reduction=0", "at least 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_answered_with_received_and_required(
    options: dict[str, Any], received: str, required: str
) -> None:
    with pytest.raises(ValueError) as error:
        quiet(EMISNet, **options)
    assert received in str(error.value) and required in str(error.value)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((1, 3, 31, 64), ["31x64", "32x32"]),
        ((1, 3, 64, 8), ["64x8", "32x32"]),
        ((1, 1, 64, 64), ["1 channels", "takes 3", "model.in_channels=1"]),
        ((1, 4, 16, 16), ["4 channels", "takes 3"]),
    ],
    ids=str,
)
def test_a_bad_image_is_answered_with_received_and_required(shape: tuple[int, ...], told: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        small()(torch.randn(shape))
    assert [text for text in told if text not in str(error.value)] == []


def test_the_shipped_default_is_the_constructors() -> None:
    """conf/model/emisnet.yaml says what EMISNet() does, key by key."""
    config = model_config("emisnet")
    for key in ("_target_", "_convert_", "match_params", "match_macs"):
        del config[key]
    defaults = {p.name: p.default for p in inspect.signature(EMISNet).parameters.values()}
    assert config == {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
