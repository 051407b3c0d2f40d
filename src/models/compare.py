"""How two networks differ: in their modules, and in what they compute."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest logit; kernels of other shapes round differently


def module_difference(net: nn.Module, reference: nn.Module) -> list[str]:
    """How the module tree of `net` differs from that of `reference`, widths apart.

    Parts that `net` has more (+) or less (-), and parts of another kind or with other arguments (->), each named at the
    outermost module that differs, numbers in names left out and equal lines counted:
    ["7x encoder.*.*.attention: CoordAttn -> Identity"].
    """
    lines = Counter(_differences(net, reference, ""))
    return [line if n == 1 else f"{n}x {line}" for line, n in lines.items()]


def _differences(net: nn.Module, reference: nn.Module, place: str) -> Iterator[str]:
    mine, theirs = dict(net.named_children()), dict(reference.named_children())
    if type(net) is not type(reference) or (not mine and not theirs and _kind(net) != _kind(reference)):
        yield f"{place or 'network'}: {_kind(reference)} -> {_kind(net)}"
        return
    for name in dict.fromkeys([*theirs, *mine]):
        below = ".".join(filter(None, [place, "*" if name.isdigit() else name]))
        if name in mine and name in theirs:
            yield from _differences(mine[name], theirs[name], below)
        else:
            yield f"{'+' if name in mine else '-'} {below}: {_kind({**theirs, **mine}[name])}"


def _kind(module: nn.Module) -> str:
    """A module in short, without widths: `Conv2d 3x3 dilation 7 depthwise`; a Sequential by what it holds."""
    if isinstance(module, nn.Sequential):
        return f"[{', '.join(map(_kind, module))}]"
    name = type(module).__name__
    if any(True for _ in module.children()) or not isinstance(module, nn.Conv2d):
        return name
    told = [f"{name} {'x'.join(map(str, module.kernel_size))}"]
    steps = (("stride", module.stride), ("dilation", module.dilation))
    told += [f"{what} {value[0]}" for what, value in steps if max(value) > 1]
    return " ".join(told + ["depthwise"] * (module.groups == module.in_channels > 1))


@torch.no_grad()
def same_function(a: nn.Module, b: nn.Module, input_shape: Sequence[int]) -> bool:
    """Whether both have the same weights and compute the same, so that training them is training one network twice.

    Build both from one seed. They are run on one random input (B, C, H, W), in training mode and then, with what
    BatchNorm has made of that, in evaluation mode; both are left as they were.
    """
    mine, theirs = a.state_dict(), b.state_dict()
    if mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine):
        return False
    one, other = copy.deepcopy(a).train(), copy.deepcopy(b).train()
    image = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for dropout and the like
        first = [*_planes(one(image)), *_planes(one.eval()(image))]
        torch.manual_seed(0)
        second = [*_planes(other(image)), *_planes(other.eval()(image))]
    return len(first) == len(second) and all(
        torch.allclose(x, y, rtol=0, atol=TOLERANCE * float(x.abs().max())) for x, y in zip(first, second, strict=True)
    )


def _planes(logits: Tensor | list[Tensor]) -> list[Tensor]:
    return [logits] if isinstance(logits, Tensor) else logits
