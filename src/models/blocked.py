"""A folded EMIS-Net in operations that suit an engine which computes in blocks of channels.

ONNX Runtime on x86 keeps feature maps in blocks of 16 channels (NCHWc; 8 without AVX-512) while every operator can.
Each one that cannot is paid for twice, by a copy out of the blocks and one back into them: on `emisnet` these copies,
and the concatenations between them, took a third of the time. Same function, other operations:

- the Ghost concatenation where a half does not fill blocks: the 1x1 convolution writes its output twice, and the cheap
  convolution keeps the first copy by a kernel of a single one (in padded blocks both are free);
- coordinate attention's gates brought to the map's size, since a product of maps of one size stays in blocks; its means
  by pooling where channels fill blocks;
- the head, a 1x1 convolution to a few planes, as a matrix product: in blocks its one plane would be sixteen.

In other engines these are detours: PyTorch and OpenVINO are faster on what `fuse` returns (experiments/performance).
"""

# torch types a convolution's bias loosely.
# mypy: disable-error-code="union-attr,arg-type,index"

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.emisnet import EMISNet, upsample
from src.models.fused import FoldedHead, FusedLGFE, Ghost, ScaledCoordAttn

BLOCK = 16  # channels


def blocked(fused: nn.Module) -> nn.Module:
    """What `fuse` returned for an EMISNet, rearranged, as a copy; any other network as it is.

    A graph that is exported of it holds for images of one size: its poolings' kernels are as large as the maps.

    Raises ValueError for an EMISNet that is not fused.
    """
    if not isinstance(fused, EMISNet):
        return fused
    if not getattr(fused, "is_fused", False):
        raise ValueError("blocked() rearranges what fuse() returns. Fuse the network first.")
    net = copy.deepcopy(fused)
    for module in net.modules():
        if isinstance(module, FusedLGFE):
            if isinstance(module.ghost, Ghost):
                _without_concat(module, module.ghost)
            if isinstance(module.attention, ScaledCoordAttn):
                attention = module.attention
                module.attention = BlockedCoordAttn(
                    attention.squeeze, attention.conv_h, attention.conv_w, attention.scale.flatten()
                )
    if isinstance(net.fusion, FoldedHead):
        net.fusion = ProductHead(net.fusion)
    return net


class BlockedCoordAttn(ScaledCoordAttn):
    """Coordinate attention whose products are of maps of one size."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        if x.shape[1] % BLOCK == 0:
            rows, columns = F.avg_pool2d(x, (1, width)), F.avg_pool2d(x, (height, 1))
        else:  # ONNX Runtime pools whole blocks only
            rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        gate_h, gate_w = (F.interpolate(gate, size=(height, width)) for gate in self.gates(rows, columns))
        return x * gate_w * gate_h


class CheapOnly(nn.Module):
    """A Ghost module's second half of what was written twice: the first copy kept, the second convolved."""

    def __init__(self, cheap: nn.Conv2d):
        super().__init__()
        self.cheap = cheap

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(self.cheap(x))


def _without_concat(block: FusedLGFE, ghost: Ghost) -> None:
    """x is not negative, so ReLU keeps what a kernel of a single one passes on."""
    half, width = ghost.cheap.in_channels, ghost.width
    if half % BLOCK == 0 or ghost.cheap.out_channels != half:
        return
    copied = width - half
    for conv in block.mix:
        assert isinstance(conv, nn.Conv2d)
        conv.weight.data = torch.cat([conv.weight, conv.weight[:copied]])
        if conv.bias is not None:
            conv.bias.data = torch.cat([conv.bias, conv.bias[:copied]])
        conv.out_channels = width
    weight = ghost.cheap.weight.new_zeros(width, *ghost.cheap.weight.shape[1:])
    weight[:half, :, weight.shape[2] // 2, weight.shape[3] // 2] = 1
    weight[half:] = ghost.cheap.weight[:copied]
    bias = torch.cat([torch.zeros_like(ghost.cheap.bias), ghost.cheap.bias[:copied]])
    cheap = copy.deepcopy(ghost.cheap)
    cheap.in_channels = cheap.out_channels = cheap.groups = width
    cheap.weight.data, cheap.bias.data = weight, bias
    block.ghost = CheapOnly(cheap)


class ProductHead(nn.Module):
    """A FoldedHead by matrix products: sum_i up(W_i D_i) + b."""

    def __init__(self, head: FoldedHead):
        super().__init__()
        self.weights, self.bias = head.weights, head.bias

    def forward(self, scales: list[Tensor]) -> Tensor:
        size = scales[0].shape[-2:]
        planes = [
            torch.matmul(weight.flatten(1), scale.flatten(2)).unflatten(2, scale.shape[-2:])
            for weight, scale in zip(self.weights, scales, strict=True)
        ]
        total = planes[0] + self.bias[:, None, None]
        for plane in planes[1:]:
            total = total + upsample(plane, size)
        return total
