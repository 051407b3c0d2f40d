"""A network in the benchmark: as it is trained and as it is deployed, with what both cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.benchmarking.counts import Traffic, count_traffic
from src.build import build_net
from src.models.cost import Cost, measure_cost
from src.models.fuse import fuse


@dataclass(frozen=True)
class Contender:
    """`net` in eval mode, `fused` its folded copy, or None and in `note` why; costs and traffic of one image."""

    name: str
    config: Mapping[str, Any]
    net: nn.Module
    fused: nn.Module | None
    note: str
    cost: Cost
    traffic: Traffic
    fused_cost: Cost | None
    fused_traffic: Traffic | None

    @property
    def in_channels(self) -> int:
        return int(self.cost.input_shape[1])


def make_contender(name: str, config: Mapping[str, Any], size: int) -> Contender:
    """Builds the network of a model config with random weights. ValueError where it takes no images of size x size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            net = settled(build_net(config, started=False, quiet=True), (2, config["in_channels"], size, size))
        except RuntimeError as error:
            raise ValueError(f"{name} does not run at size={size}: {' '.join(str(error).split())}") from error
    image = random_images(1, config["in_channels"], size)
    fused, note = None, ""
    try:
        fused = fuse(net).eval()
    except (TypeError, ValueError) as error:
        note = f"not fused: {error}"
    return Contender(
        name,
        config,
        net,
        fused,
        note,
        measure_cost(net, image.shape),
        count_traffic(net, image),
        measure_cost(fused, image.shape) if fused else None,
        count_traffic(fused, image) if fused else None,
    )


def random_images(batch: int, channels: int, size: int) -> torch.Tensor:
    """(B, C, size, size), the same in every engine."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def settled(net: nn.Module, shape: tuple[int, int, int, int]) -> nn.Module:
    """`net` in eval mode with BatchNorm's statistics taken from random images of `shape`.

    With those of a fresh network activations shrink from layer to layer, so that every engine would be found to agree
    on logits of almost nothing, and numbers too small for float32's normal range are slow to compute with.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(shape))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()
