"""Networks for the tests of src.models: composed as the program does, with weights under which every part shows."""

import copy
import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.build import build_net, solve_width
from src.models.emisnet import EMISNet

CONF = Path(__file__).resolve().parent.parent / "conf"
MODELS = sorted(str(path.relative_to(CONF / "model").with_suffix("")) for path in (CONF / "model").rglob("*.yaml"))


def _text(name: str) -> str:
    """A model's config file with those it starts from."""
    text = (CONF / "model" / f"{name}.yaml").read_text()
    parent = re.search(r"^defaults: \[(\w+), _self_\]$", text, re.MULTILINE)
    return text + (_text(parent[1]) if parent else "")


STARTED = ["emisnet_lite0", "emisnet_lite0_deep"]  # from ImageNet: neither a variant of `emisnet` nor a rival
EMISNETS = [name for name in MODELS if name.startswith("emisnet") and name not in STARTED]
RIVALS = [name for name in MODELS if "src.models.rivals." in _text(name)]
BASELINES = [name for name in MODELS if name not in EMISNETS + RIVALS + STARTED]
WARNING = "A dilation > 1 meets a 1x1 kernel"  # what the network as published says when it is built


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    return solve_width(config["model"], config["data"]["size"])


def model_config(name: str, *overrides: str) -> dict[str, Any]:
    """The solved model config of `python -m src.train model=<name> <overrides>`."""
    return copy.deepcopy(_composed((f"model={name}", *overrides)))


def build(name: str, *overrides: str) -> nn.Module:
    return build_net(model_config(name, *overrides), quiet=True)


def meta(name: str, *overrides: str) -> nn.Module:
    """As `build`, without memory or arithmetic: for counting."""
    with torch.device("meta"):
        return build(name, *overrides)


def quiet(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """`make(...)` without the warning of the published dilations, and no other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=WARNING)
        return make(*args, **kwargs)


def seeded(seed: int = 0, **kwargs: Any) -> EMISNet:
    """EMISNet(**kwargs) whose initial weights are those of `seed`."""
    torch.manual_seed(seed)
    net = quiet(EMISNet, **kwargs)
    assert isinstance(net, EMISNet)
    return net


def unsettle(net: nn.Module, in_channels: int = 3, seed: int = 0) -> nn.Module:
    """`net` in eval mode as after a training that went anywhere: BN of either sign, statistics that do not match.

    Fresh BN (weight 1, bias 0, mean 0, variance 1) is nearly the identity, and folding it wrongly would go unnoticed.
    """
    torch.manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        sign = torch.where(torch.rand_like(norm.weight) < 0.3, -1.0, 1.0)
        norm.weight.data = sign * torch.empty_like(norm.weight).uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.5)
        norm.momentum = 1.0  # one pass sets the statistics, so that activations keep their size at any depth
    image = torch.randn(2, in_channels, 64, 64)
    with torch.no_grad():
        net.train()(image)
        for norm in norms:
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            # A channel that was silent in that one pass (variance 0) would be amplified 300 times in the next.
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2)).clamp_(min=0.1)
        net.eval()
        if isinstance(net, EMISNet):  # logits of a size at which 1e-4 is a small difference
            net.head.weight /= net(image).std() / 3
    return net


def worst_gradient(net: nn.Module) -> list[str]:
    """Names of the parameters without a finite gradient."""
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def max_diff(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()
