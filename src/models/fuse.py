"""`fuse(net)`: the same EMIS-Net outputs from far fewer operations, for inference, export and the latency table.

What folds, and why it may:
- BN into the convolution before it (stem, depthwise, Ghost, coordinate attention's bottleneck);
- the BN after coordinate attention: its shift into the context branch's bias, its scale into the gate of one axis,
  which is a C x H map instead of a C x H x W one;
- ICM's linear chain, its BN and its residual into one 1x1 convolution (not when `icm_inner_act` stands between);
- EFAM and the head, linear both, into one 1x1 convolution per decoder scale at that scale's size: num_classes wide, or
  with real kernels as many times that as they have taps;
- a dilated 1x1 into a plain one.

Products of weights are formed in float64, so that rounding happens once.
"""

# Module surgery: submodules are replaced by others, and torch types a Sequential's layers and a conv's bias loosely.
# mypy: disable-error-code="assignment,arg-type,union-attr,index,type-var"

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.coord_attn import CoordAttn
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from src.models.blocks import EFAM, ICM, LGFE
from src.models.emisnet import EMISNet, ScaleFusion, sum_of_scales
from src.models.fold import apply_folds, fold_batch_norms


def fuse(net: nn.Module) -> nn.Module:
    """A folded copy of `net` in eval mode, with the same logits (max abs difference <= 1e-4 in float32).

    Of an EMISNet all of the above; of any other network its BatchNorms, and what its own modules know to be equal in
    fewer operations (their `folded()`). The copy is for inference: it cannot be trained further, has no auxiliary
    heads, and cannot be fused again.

    Raises:
        ValueError: for a network that is fused already.
    """
    if getattr(net, "is_fused", False):
        raise ValueError("this network is fused already. Fuse the trained one.")
    fused = copy.deepcopy(net).eval().requires_grad_(False)
    if isinstance(fused, EMISNet):
        _fold_emisnet(fused)
    else:
        apply_folds(fused)
        fold_batch_norms(fused, net.in_channels)
    fused.is_fused = True
    return fused.eval().requires_grad_(False)


def _fold_emisnet(fused: EMISNet) -> None:
    fused.aux_heads = None
    if fused.fusion is not None:
        fused.fusion, fused.head = _fold_fusion(fused.fusion, fused.head), nn.Identity()
    for level, icm in fused.icm.items():
        fused.icm[level] = _fold_icm(icm)
    for module in list(fused.modules()):
        if isinstance(module, LGFE):
            _fold_lgfe(module)
        elif isinstance(module, nn.Sequential):
            _fold_sequence(module)


class ScaledCoordAttn(nn.Module):
    """Coordinate attention with its BN folded and a per-channel scale multiplied into the gate over H."""

    def __init__(self, attention: CoordAttn, scale: Float[Tensor, " c"]):
        super().__init__()
        self.squeeze = nn.Sequential(fuse_conv_bn_eval(attention.conv1, attention.bn1), attention.act)
        self.conv_h, self.conv_w, self.gate = attention.conv_h, attention.conv_w, attention.gate
        self.scale = _frozen(scale[None, :, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(-1, -2)
        rows, columns = self.squeeze(torch.cat([rows, columns], dim=2)).split([height, width], dim=2)
        gate_h = self.gate(self.conv_h(rows)) * self.scale
        return x * self.gate(self.conv_w(columns.transpose(-1, -2))) * gate_h


class ChannelAffine(nn.Module):
    """x * scale + shift per channel: what is left of a BN that has no convolution to fold into."""

    def __init__(self, scale: Float[Tensor, " c"], shift: Float[Tensor, " c"]):
        super().__init__()
        self.scale = _frozen(scale[None, :, None, None])
        self.shift = _frozen(shift[None, :, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.addcmul(self.shift, x, self.scale)


class FoldedHead(nn.Module):
    """EFAM and the head as one 1x1 convolution per scale: sum_i up(W_i D_i) + b."""

    def __init__(self, weight: Float[Tensor, "n c 1 1"], bias: Float[Tensor, " n"], channels: Sequence[int]):
        super().__init__()
        self.bias = _frozen(bias)
        self.channels = tuple(channels)
        self.weights = nn.ParameterList(_frozen(part.clone()) for part in weight.split(self.channels, dim=1))

    def forward(self, scales: list[Tensor]) -> Tensor:
        return sum_of_scales(scales, list(self.weights), self.bias)


class FoldedDilatedHead(nn.Module):
    """EFAM with real dilated kernels and the head: one 1x1 convolution per scale, then each tap moved to its place.

    A tap of a branch's kernel is a 1x1 convolution to num_classes maps, which may as well run before the scales are
    brought to one size; a convolution with one-hot kernels at the branch's rate moves the maps and sums them up.
    """

    def __init__(
        self,
        weight: Float[Tensor, "d n k k c"],
        bias: Float[Tensor, " n"],
        channels: Sequence[int],
        dilations: Sequence[int],
    ):
        super().__init__()
        _, self.num_classes, size, _, _ = weight.shape
        self.dilations, self.channels = tuple(dilations), tuple(channels)
        self.bias = _frozen(bias)
        taps = weight.flatten(0, 3)[:, :, None, None]
        self.weights = nn.ParameterList(_frozen(part.clone()) for part in taps.split(self.channels, dim=1))
        one_hot = torch.eye(size * size, dtype=weight.dtype, device=weight.device).view(1, -1, size, size)
        self.shifts = _frozen(one_hot.repeat(self.num_classes, 1, 1, 1))

    def forward(self, scales: list[Tensor]) -> Tensor:
        maps = sum_of_scales(scales, list(self.weights), None).chunk(len(self.dilations), dim=1)
        reach = self.shifts.shape[-1] // 2
        total = self.bias[None, :, None, None]
        for part, rate in zip(maps, self.dilations, strict=True):
            total = total + F.conv2d(part, self.shifts, padding=rate * reach, dilation=rate, groups=self.num_classes)
        return total


def _frozen(value: Tensor) -> nn.Parameter:
    """A parameter rather than a buffer, so that a count of the folded network's parameters leaves nothing out."""
    return nn.Parameter(value, requires_grad=False)


def _conv1x1(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Conv2d:
    """A frozen 1x1 convolution of `dtype` from a matrix (C_out, C_in) and a bias (C_out)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, dtype=dtype, device=weight.device)
    conv.weight.data, conv.bias.data = weight.to(dtype)[:, :, None, None], bias.to(dtype)
    return conv.requires_grad_(False)


def _matrix(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight (C_out, C_in) and bias (C_out) of a 1x1 convolution in float64."""
    weight = conv.weight.flatten(1).double()
    return weight, weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BN in eval mode as x * scale + shift, in float64."""
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _fold_sequence(layers: nn.Sequential) -> None:
    """Conv2d followed by BatchNorm2d, as neighbours in a Sequential, become one convolution."""
    for i in range(len(layers) - 1):
        if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
            layers[i] = fuse_conv_bn_eval(layers[i], layers[i + 1])
            layers[i + 1] = nn.Identity()


def _fold_lgfe(block: LGFE) -> None:
    scale, shift = _scale_and_shift(block.norm)
    dtype = block.norm.weight.dtype
    if block.context is None:  # no bias takes the shift, so BN stays an affine map, and attention folds its own BN only
        if isinstance(block.attention, CoordAttn):
            block.attention = ScaledCoordAttn(block.attention, torch.ones_like(scale, dtype=dtype))
        block.norm = ChannelAffine(scale.to(dtype), shift.to(dtype))
        return
    last = block.context if isinstance(block.context, nn.Conv2d) else block.context[-1]
    last.dilation = (1, 1)  # a 1x1 kernel: the rate changes nothing but the speed
    last.bias.data = (last.bias.double() + shift).to(dtype)
    if isinstance(block.attention, CoordAttn):
        block.attention, block.norm = ScaledCoordAttn(block.attention, scale.to(dtype)), nn.Identity()
    else:
        block.norm = ChannelAffine(scale.to(dtype), torch.zeros_like(scale, dtype=dtype))


def _fold_icm(icm: ICM) -> nn.Module:
    convs = [layer for layer in icm.project if isinstance(layer, nn.Conv2d)]
    if not isinstance(icm.project[1], nn.Identity):
        return icm  # an activation stands between: only the BN folds, as in any sequence
    weight, bias = _matrix(convs[0])
    for conv in convs[1:]:
        matrix, offset = _matrix(conv)
        weight, bias = matrix @ weight, matrix @ bias + offset
    scale, shift = _scale_and_shift(icm.project[-1])
    weight = scale[:, None] * weight + torch.eye(len(weight), dtype=weight.dtype, device=weight.device)  # the residual
    return nn.Sequential(_conv1x1(weight, scale * bias + shift, convs[0].weight.dtype), icm.act)


def _fold_fusion(fusion: ScaleFusion, head: nn.Conv2d) -> nn.Module:
    efam: EFAM = fusion.efam
    dtype = head.weight.dtype
    head_weight, head_bias = _matrix(head)
    merge_weight, merge_bias = _matrix(efam.merge)
    merge_weight, merge_bias = head_weight @ merge_weight, head_weight @ merge_bias + head_bias
    pointwise = [_matrix(branch if fusion.pointwise else branch[-1]) for branch in efam.branches]
    columns = merge_weight.chunk(len(pointwise), dim=1)
    weights = [column @ weight for column, (weight, _) in zip(columns, pointwise, strict=True)]
    bias = merge_bias + sum(column @ offset for column, (_, offset) in zip(columns, pointwise, strict=True))
    if fusion.pointwise:
        return FoldedHead(sum(weights).to(dtype)[:, :, None, None], bias.to(dtype), fusion.channels)
    taps = []
    for weight, branch in zip(weights, efam.branches, strict=True):
        kernel = branch[0].weight.double()[:, 0].permute(1, 2, 0)  # depthwise: (C, 1, k, k) -> (k, k, C)
        taps.append(weight[:, None, None, :] * kernel)
    rates = [branch[0].dilation[0] for branch in efam.branches]
    return FoldedDilatedHead(torch.stack(taps).to(dtype), bias.to(dtype), fusion.channels, rates)
