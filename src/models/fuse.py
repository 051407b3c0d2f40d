"""`fuse(net)`: the same EMIS-Net outputs from far fewer operations, for inference, export and the latency table.

What folds, and why it may:
- BN into the convolution before it (stem, depthwise, Ghost, coordinate attention's bottleneck);
- the BN after coordinate attention: its shift into the context branch's bias, its scale into the gate of one axis,
  which is a C x H map instead of a C x H x W one;
- ICM's linear chain, its BN and its residual into one 1x1 convolution (not when `icm_inner_act` stands between);
- EFAM and the head, linear both, into one 1x1 convolution per decoder scale at that scale's size: num_classes wide, or
  with real kernels as many times that as they have taps;
- a dilated 1x1 into a plain one;
- the concatenation of upsampled features and skip, which need not be made: the decoder's first block reads both.

Products of weights are formed in float64, so that rounding happens once.
"""

# Module surgery: submodules are replaced by others, and torch types a Sequential's layers and a conv's bias loosely.
# mypy: disable-error-code="assignment,arg-type,union-attr,index,type-var,operator,list-item"

import copy
from collections.abc import Sequence

import torch
from timm.layers.coord_attn import CoordAttn
from timm.models.ghostnet import GhostModule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from src.models.blocks import EFAM, ICM, LGFE
from src.models.emisnet import EMISNet, ScaleFusion
from src.models.fold import apply_folds, fold_batch_norms, scale_and_shift
from src.models.fused import ChannelAffine, FoldedDilatedHead, FoldedHead, FusedLGFE, Ghost, ScaledCoordAttn


def fuse(net: nn.Module) -> nn.Module:
    """A folded copy of `net` in eval mode, with the same logits (max abs difference <= 1e-4 in float32).

    Of an EMISNet all of the above; of any other network its BatchNorms, and what its own modules know to be equal in
    fewer operations (their `folded()`). The copy is for inference: it cannot be trained further, has no auxiliary
    heads, and cannot be fused again.

    Raises:
        ValueError: for a network that is fused already, and for one that torch.export cannot trace.
    """
    net = getattr(net, "_orig_mod", net)  # of torch.compile(net)
    if getattr(net, "is_fused", False):
        raise ValueError("this network is fused already. Fuse the trained one.")
    fused = copy.deepcopy(net).eval().requires_grad_(False)
    if isinstance(fused, EMISNet):
        _fold_emisnet(fused)
    else:
        apply_folds(fused)
        fold_batch_norms(fused)
    fused.is_fused = True
    return fused.eval().requires_grad_(False)


def _fold_emisnet(fused: EMISNet) -> None:
    fused.aux_heads = None
    if fused.fusion is not None:
        fused.fusion, fused.head = _fold_fusion(fused.fusion, fused.head), nn.Identity()
    for level, icm in fused.icm.items():
        fused.icm[level] = _fold_icm(icm)
    for module in list(fused.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
    for blocks in fused.encoder:
        if isinstance(blocks[0], LGFE):  # others are sequences, folded above
            _fold_stage(blocks, [blocks[0].depthwise[0].in_channels])
    for blocks, skip in zip(fused.decoder, fused.skips, strict=True):
        _fold_stage(blocks, [blocks[0].depthwise[0].in_channels - skip, skip])
    fused.join = nn.Identity()


def _fold_stage(blocks: nn.Sequential, widths: Sequence[int]) -> None:
    """`widths`: of the parts that the first block reads; the others read what that gives."""
    for i, block in enumerate(blocks):
        blocks[i] = _fold_lgfe(block, widths if i == 0 else [block.depthwise[0].in_channels])


def _conv1x1(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Conv2d:
    """A frozen 1x1 convolution of `dtype` from a matrix (C_out, C_in) and a bias (C_out)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, dtype=dtype, device=weight.device)
    conv.weight.data, conv.bias.data = weight.to(dtype)[:, :, None, None], bias.to(dtype)
    return conv.requires_grad_(False)


def _matrix(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight (C_out, C_in) and bias (C_out) of a 1x1 convolution in float64."""
    weight = conv.weight.flatten(1).double()
    return weight, weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()


def _fold_sequence(layers: nn.Sequential) -> None:
    """Conv2d followed by BatchNorm2d, as neighbours in a Sequential, become one convolution."""
    for i in range(len(layers) - 1):
        if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
            layers[i] = fuse_conv_bn_eval(layers[i], layers[i + 1])
            layers[i + 1] = nn.Identity()


def _fold_lgfe(block: LGFE, widths: Sequence[int]) -> FusedLGFE:
    """Of a block whose sequences are folded already; the BN that follows attention is left to distribute."""
    scale, shift = scale_and_shift(block.norm)
    dtype = block.norm.weight.dtype
    context = (
        [] if block.context is None else [layer for layer in block.context.modules() if isinstance(layer, nn.Conv2d)]
    )
    if context:
        context[-1].dilation = (1, 1)  # a 1x1 kernel: the rate changes nothing but the speed
        context[-1].bias.data = (context[-1].bias.double() + shift).to(dtype)
        shift = torch.zeros_like(shift)
    if isinstance(block.attention, CoordAttn):  # no bias takes the shift where there is no context
        inner = scale if context else torch.ones_like(scale)
        attention: nn.Module = _fold_attention(block.attention, inner.to(dtype))
        norm: nn.Module = nn.Identity() if context else ChannelAffine(scale.to(dtype), shift.to(dtype))
    else:
        attention, norm = nn.Identity(), ChannelAffine(scale.to(dtype), shift.to(dtype))
    has_ghost = isinstance(block.ghost, GhostModule)
    return FusedLGFE(
        depthwise=block.depthwise[0],
        act=block.act,
        mix=block.ghost.primary_conv[0] if has_ghost else block.ghost[0],
        ghost=Ghost(block.ghost.cheap_operation[0], block.ghost.out_chs) if has_ghost else nn.Identity(),
        attention=attention,
        norm=norm,
        context=context,
        widths=widths,
    )


def _fold_attention(attention: CoordAttn, scale: Tensor) -> ScaledCoordAttn:
    squeeze = nn.Sequential(fuse_conv_bn_eval(attention.conv1, attention.bn1), attention.act)
    return ScaledCoordAttn(squeeze, attention.conv_h, attention.conv_w, scale)


def _fold_icm(icm: ICM) -> nn.Module:
    convs = [layer for layer in icm.project if isinstance(layer, nn.Conv2d)]
    if not isinstance(icm.project[1], nn.Identity):
        return icm  # an activation stands between: only the BN folds, as in any sequence
    weight, bias = _matrix(convs[0])
    for conv in convs[1:]:
        matrix, offset = _matrix(conv)
        weight, bias = matrix @ weight, matrix @ bias + offset
    scale, shift = scale_and_shift(icm.project[-1])
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
