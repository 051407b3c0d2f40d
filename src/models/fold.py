"""BatchNorms of any network folded into their convolutions, found in its exported graph.

Which BN follows which convolution is not read off the module tree, where neighbours need not be neighbours in the
computation, but off the graph of `torch.export`: a pair folds where one reads the other and nobody else does.
"""

# Module surgery: submodules are replaced by others.
# mypy: disable-error-code="arg-type,union-attr,type-var,assignment,misc"

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

SIDE = 64  # px of the image that is traced; networks that halve more often pad it


def apply_folds(net: nn.Module) -> None:
    """Asks every module that has `folded()` for the form that its author knows to be equal, and puts it in place."""
    for name, module in list(net.named_modules()):
        if hasattr(module, "folded"):
            folded = module.folded()
            if name:
                _replace(net, module, folded)
            else:
                assert folded is net, "the network itself can only change in place"


@torch.no_grad()
def fold_batch_norms(net: nn.Module) -> int:
    """Folds, in place, every BN of a network in eval mode that can be folded exactly; returns how many were.

    A BN after a convolution goes into that; one before a convolution without padding into the next (with padding, the
    zeros around the image would not be shifted).

    Raises ValueError for a network that cannot be traced, or does not tell its `in_channels`.
    """
    channels = getattr(net, "in_channels", None)
    if not isinstance(channels, int):
        raise ValueError(f"{type(net).__name__} has no `in_channels`, which tells what image to trace it with. Add it.")
    parameter = next(net.parameters())
    image = torch.zeros(1, channels, SIDE, SIDE, device=parameter.device, dtype=parameter.dtype)
    try:
        program = torch.export.export(net, (image,), strict=False)
    except Exception as error:  # the exporter's are of every kind
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(net).__name__} cannot be traced, so it cannot be fused: {reason}") from error
    pairs = list(_pairs(net, program))
    for kind, conv, norm in pairs:
        if kind == "after":
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        else:
            _norm_first(norm, conv)
        _replace(net, norm, nn.Identity())
    return len(pairs)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BN in eval mode as x * scale + shift, in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else norm.weight.detach().double() * scale
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else norm.bias.detach().double() + shift


def _pairs(net: nn.Module, program: torch.export.ExportedProgram) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """(after or before, convolution, BN), in the order of the computation."""
    signature = program.graph_signature
    owner = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def module_of(node: object, kind: type[nn.Module]) -> nn.Module | None:
        """The module that a node computes, if its statistics or weight are used by that node alone."""
        position, tensor = {nn.Conv2d: (1, "weight"), nn.BatchNorm2d: (3, "running_mean")}[kind]
        operator = {nn.Conv2d: "aten.conv2d", nn.BatchNorm2d: "aten.batch_norm"}[kind]
        if not isinstance(node, Node) or node.op != "call_function" or not str(node.target).startswith(operator):
            return None
        value = node.args[position]
        if not isinstance(value, Node) or len(value.users) != 1:
            return None
        name, _, own = owner.get(value.name, "").rpartition(".")
        module = net.get_submodule(name)
        return module if own == tensor and type(module) is kind else None

    for node in program.graph.nodes:
        norm = module_of(node, nn.BatchNorm2d)
        if norm is None:
            continue
        source, readers = node.args[0], list(node.users)
        before = module_of(source, nn.Conv2d)
        after = module_of(readers[0], nn.Conv2d) if len(readers) == 1 else None
        if before is not None and len(source.users) == 1:
            yield "after", before, norm
        elif after is not None and not isinstance(after.padding, str) and max(after.padding) == 0:
            yield "before", after, norm


def _norm_first(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """conv(BN(x)) as one convolution, in place: W' = W s, b' = b + sum W t, with BN(x) = s x + t."""
    per_group, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    scale, shift = (
        value.view(conv.groups, 1, per_group).expand(-1, outputs, -1).reshape(conv.out_channels, per_group)
        for value in scale_and_shift(norm)
    )
    weight, dtype = conv.weight.double(), conv.weight.dtype
    bias = (weight.sum((2, 3)) * shift).sum(1)
    bias = bias if conv.bias is None else bias + conv.bias.double()
    conv.weight = nn.Parameter((weight * scale[:, :, None, None]).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _replace(net: nn.Module, module: nn.Module, by: nn.Module) -> None:
    """Under every name that it has."""
    for name, found in list(net.named_modules(remove_duplicate=False)):
        if found is module:
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, by)
