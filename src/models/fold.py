"""BatchNorms of any network folded into their convolutions, found in its exported graph.

Which BN follows which convolution is not read off the module tree, where neighbours need not be neighbours in the
computation, but off the graph of `torch.export`: a pair folds where one reads the other and nobody else does.
"""

# Module surgery: submodules are replaced by others.
# mypy: disable-error-code="arg-type,union-attr,type-var"

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE = 64  # px of the image that is traced; networks that halve more often pad it


def apply_folds(net: nn.Module) -> None:
    """Puts in place of every submodule that has `folded()` what that returns: the form its author knows to be equal."""
    for name, module in list(net.named_modules()):
        if name and hasattr(module, "folded"):
            _replace(net, name, module.folded())


@torch.no_grad()
def fold_batch_norms(net: nn.Module, in_channels: int) -> int:
    """Folds, in place, every BN of a network in eval mode that can be folded exactly; returns how many were.

    A BN after a convolution goes into that; one before a convolution without padding into the next (with padding, the
    zeros around the image would not be shifted).
    """
    parameter = next(net.parameters())
    image = torch.zeros(1, in_channels, SIDE, SIDE, device=parameter.device, dtype=parameter.dtype)
    pairs = list(_pairs(net, image))
    for kind, conv_name, norm_name in pairs:
        conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
        _replace(net, conv_name, fuse_conv_bn_eval(conv, norm) if kind == "after" else _norm_first(norm, conv))
        _replace(net, norm_name, nn.Identity())
    return len(pairs)


def _pairs(net: nn.Module, image: Tensor) -> Iterator[tuple[str, str, str]]:
    """(after or before, name of the convolution, name of the BN)."""
    program = torch.export.export(net, (image,), strict=False)
    owner = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    taken: set[str] = set()
    for node in program.graph.nodes:
        norm = _module_of(node, "aten.batch_norm", owner)
        if norm is None:
            continue
        source, readers = node.args[0], list(node.users)
        before = _module_of(source, "aten.conv2d", owner) if isinstance(source, Node) else None
        after = _module_of(readers[0], "aten.conv2d", owner) if len(readers) == 1 else None
        if before is not None and before not in taken and len(source.users) == 1:
            taken.add(before)
            yield "after", before, norm
        elif after is not None and after not in taken and _is_unpadded(net.get_submodule(after)):
            taken.add(after)
            yield "before", after, norm


def _module_of(node: Node, operator: str, owner: dict[str, str]) -> str | None:
    """The name of the module whose own weight a call of `operator` uses, if it is used by that call alone."""
    if node.op != "call_function" or not str(node.target).startswith(operator) or not isinstance(node.args[1], Node):
        return None
    weight = node.args[1]
    name = owner.get(weight.name, "")
    return name.removesuffix(".weight") if name.endswith(".weight") and len(weight.users) == 1 else None


def _is_unpadded(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str) and max(conv.padding) == 0


def _norm_first(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """conv(BN(x)) as one convolution: W' = W s, b' = b + sum W t, with BN(x) = s x + t."""
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    per_group = conv.in_channels // conv.groups
    outputs = conv.out_channels // conv.groups
    scale = scale.view(conv.groups, 1, per_group).expand(-1, outputs, -1).reshape(conv.out_channels, per_group)
    shift = shift.view(conv.groups, 1, per_group).expand(-1, outputs, -1).reshape(conv.out_channels, per_group)
    weight, dtype = conv.weight.double(), conv.weight.dtype
    bias = (weight.sum((2, 3)) * shift).sum(1)
    bias = bias if conv.bias is None else bias + conv.bias.double()
    conv.weight = nn.Parameter((weight * scale[:, :, None, None]).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return conv


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)
