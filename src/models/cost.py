"""What a network costs: parameters, multiply-adds (MACs) and FLOPs = 2 x MACs, whole, per stage and per block.

Papers often print MACs as FLOPs; here both are named. Counted are convolutions and matrix products, by
`torch.utils.flop_counter` on the meta device (shapes only, no arithmetic); activations, norms, pooling and resizing are
not, as is the custom.
"""

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = 0.02


@dataclass(frozen=True)
class Cost:
    """`by_module` maps a module's dotted name to its (params, macs), for every module that has either."""

    params: int
    macs: int
    input_shape: tuple[int, ...]
    by_module: dict[str, tuple[int, int]]

    @property
    def flops(self) -> int:
        return 2 * self.macs

    def rows(self, depth: int = 1) -> list[tuple[str, int, int]]:
        """(module, params, macs) of the outermost `depth` levels: 1 encoder, decoder, ...; 2 stages; 3 blocks."""
        return [(name, *cost) for name, cost in self.by_module.items() if name.count(".") < depth]


def measure_cost(net: nn.Module, input_shape: Sequence[int] = (1, 3, 256, 256)) -> Cost:
    """Cost of one forward pass of `net` in eval mode for an input (B, C, H, W); `net` is left as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # construction already said what it had to say
        meta = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.empty(tuple(input_shape), device="meta"))
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    root = type(meta).__name__

    def macs_of(name: str, module: nn.Module) -> int:
        """A container such as ModuleList has no forward, hence no count of its own: its children's, then."""
        own = flops.get(f"{root}.{name}", 0) // 2
        return own or sum(macs_of(f"{name}.{child}", part) for child, part in module.named_children())

    by_module = {}
    for name, module in net.named_modules():
        params = sum(p.numel() for p in module.parameters())
        macs = macs_of(name, module) if name else 0
        if params or macs:
            by_module[name] = (params, macs)
    by_module.pop("", None)
    return Cost(
        params=sum(p.numel() for p in net.parameters()),
        macs=counter.get_total_flops() // 2,
        input_shape=tuple(input_shape),
        by_module=by_module,
    )


def match_params(build: Callable[..., nn.Module], target: int) -> tuple[int, ...]:
    """The `channels` with which `build(channels=...)` has `target` parameters within 2 %.

    Solves one width multiplier over the default channels of `build`, so an ablated variant keeps the proportions of the
    full one. Raises ValueError where no multiplier comes within 2 %, or `build` takes no `channels`.
    """
    return _match(build, target, "params", lambda net: sum(p.numel() for p in net.parameters()))


def match_macs(build: Callable[..., nn.Module], target: int, input_shape: Sequence[int]) -> tuple[int, ...]:
    """As `match_params`, for the multiply-adds of one forward pass at `input_shape`."""
    return _match(build, target, "macs", lambda net: measure_cost(net, input_shape).macs)


def _match(
    build: Callable[..., nn.Module], target: int, name: str, cost_of: Callable[[nn.Module], int]
) -> tuple[int, ...]:
    base = _default_channels(build)

    @functools.cache  # rounded to whole channels, the halving below asks for the same widths again and again
    def cost(channels: tuple[int, ...]) -> int:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            net = build(channels=channels)
        return cost_of(net)  # outside of the context, in which every operation takes longer

    low, high = 0.01, 1.0
    while cost(_scaled(base, high)) < target and high < 64:
        low, high = high, 2 * high
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(_scaled(base, middle)) < target else (low, middle)
    best = min((_scaled(base, low), _scaled(base, high)), key=lambda channels: abs(cost(channels) - target))
    best = _refined(best, target, cost)
    if abs(cost(best) - target) > TOLERANCE * target:
        raise ValueError(
            f"no width multiplier over channels={base} comes within 2 % of {target} {name}; "
            f"the nearest is channels={best} with {cost(best)}. Choose a target near that, or other base channels."
        )
    return best


def _refined(channels: tuple[int, ...], target: int, cost: Callable[[tuple[int, ...]], int]) -> tuple[int, ...]:
    """Where rounding leaves more than 2 %, move single widths by one channel while that helps."""
    while abs(cost(channels) - target) > TOLERANCE * target:
        neighbours = [
            (*channels[:i], width + step, *channels[i + 1 :])
            for i, width in enumerate(channels)
            for step in (-1, 1)
            if width + step > 0
        ]
        nearest = min(neighbours, key=lambda candidate: abs(cost(candidate) - target))
        if abs(cost(nearest) - target) >= abs(cost(channels) - target):
            break
        channels = nearest
    return channels


def _scaled(channels: Sequence[int], multiplier: float) -> tuple[int, ...]:
    return tuple(max(1, round(width * multiplier)) for width in channels)


def _default_channels(build: Callable[..., nn.Module]) -> tuple[int, ...]:
    parameter = inspect.signature(build).parameters.get("channels")
    if parameter is None or parameter.default is inspect.Parameter.empty:
        raise ValueError(f"{build} takes no `channels` with a default, so its width cannot be matched to a budget.")
    return tuple(parameter.default)
