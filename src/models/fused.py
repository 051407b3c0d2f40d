"""The parts of a folded EMIS-Net: what `src.models.fuse` puts in the place of those that were trained."""

# torch types a convolution's bias loosely.
# mypy: disable-error-code="union-attr,arg-type,index"

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.emisnet import sum_of_scales


class ScaledCoordAttn(nn.Module):
    """Coordinate attention with its BN folded and a per-channel scale multiplied into the gate over H.

    Both axes' means pass the shared bottleneck one after the other, in the layout they have: side by side, as in the
    paper, they would have to be transposed, concatenated and split.
    """

    def __init__(self, squeeze: nn.Module, conv_h: nn.Module, conv_w: nn.Module, scale: Float[Tensor, " c"]):
        super().__init__()
        self.squeeze, self.conv_h, self.conv_w = squeeze, conv_h, conv_w
        self.scale = frozen(scale[None, :, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gate_h, gate_w = self.gates(x.mean(3, keepdim=True), x.mean(2, keepdim=True))
        return x * gate_w * gate_h

    def gates(self, rows: Float[Tensor, "b c h 1"], columns: Float[Tensor, "b c 1 w"]) -> tuple[Tensor, Tensor]:
        gate_h = torch.sigmoid(self.conv_h(self.squeeze(rows))) * self.scale
        return gate_h, torch.sigmoid(self.conv_w(self.squeeze(columns)))


class Ghost(nn.Module):
    """The second half of a Ghost module: x and its cheap convolution, side by side, `width` channels of them."""

    def __init__(self, cheap: nn.Conv2d, width: int):
        super().__init__()
        self.cheap, self.width = cheap, width

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return torch.cat([x, F.relu(self.cheap(x))], dim=1)[:, : self.width]


class FusedLGFE(nn.Module):
    """LGFE with its BNs folded, of a tensor or of the list of tensors whose concatenation it would read.

    The concatenation is never made: a depthwise convolution does not mix channels, and a 1x1 convolution of a
    concatenation is the sum of one for each part. `ghost` is Ghost, or Identity where it was ablated, `context` is
    empty where that was.
    """

    def __init__(
        self,
        *,
        depthwise: nn.Conv2d,
        act: nn.Module,
        mix: nn.Conv2d,
        ghost: nn.Module,
        attention: nn.Module,
        norm: nn.Module,
        context: Sequence[nn.Conv2d],
        widths: Sequence[int],
    ):
        super().__init__()
        self.depthwise, self.mix = by_stream(depthwise, widths), by_stream(mix, widths)
        self.ghost, self.attention, self.norm, self.act = ghost, attention, norm, act
        layers = [by_stream(conv, widths) for conv in context]
        self.context = nn.ModuleList(nn.Sequential(*convs) for convs in zip(*layers, strict=True))

    def forward(self, x: Tensor | list[Tensor]) -> Float[Tensor, "b c h w"]:
        streams = [x] if isinstance(x, Tensor) else x
        hidden = [self.act(conv(part)) for conv, part in zip(self.depthwise, streams, strict=True)]
        local = self.norm(self.attention(self.ghost(F.relu(_total(self.mix, hidden)))))
        return self.act(local + _total(self.context, streams) if self.context else local)


def _total(layers: nn.ModuleList, streams: list[Tensor]) -> Tensor:
    total = layers[0](streams[0])
    for layer, part in zip(layers[1:], streams[1:], strict=True):
        total = total + layer(part)
    return total


def by_stream(conv: nn.Conv2d, widths: Sequence[int]) -> nn.ModuleList:
    """A depthwise or a 1x1 convolution of `sum(widths)` channels as one for each part; a 1x1's are to be summed up."""
    if len(widths) == 1:
        return nn.ModuleList([conv])
    depthwise, parts, first = conv.groups > 1, [], 0
    for width in widths:
        last, has_bias = first + width, conv.bias is not None and (depthwise or first == 0)
        part = nn.Conv2d(
            width,
            width if depthwise else conv.out_channels,
            conv.kernel_size,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=width if depthwise else 1,
            bias=has_bias,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        part.weight.data = (conv.weight[first:last] if depthwise else conv.weight[:, first:last]).detach().clone()
        if has_bias:
            part.bias.data = (conv.bias[first:last] if depthwise else conv.bias).detach().clone()
        parts.append(part.requires_grad_(False))
        first = last
    return nn.ModuleList(parts)


class ChannelAffine(nn.Module):
    """x * scale + shift per channel: what is left of a BN that has no convolution to fold into."""

    def __init__(self, scale: Float[Tensor, " c"], shift: Float[Tensor, " c"]):
        super().__init__()
        self.scale = frozen(scale[None, :, None, None])
        self.shift = frozen(shift[None, :, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.addcmul(self.shift, x, self.scale)


class FoldedHead(nn.Module):
    """EFAM and the head as one 1x1 convolution per scale: sum_i up(W_i D_i) + b."""

    def __init__(self, weight: Float[Tensor, "n c 1 1"], bias: Float[Tensor, " n"], channels: Sequence[int]):
        super().__init__()
        self.bias = frozen(bias)
        self.channels = tuple(channels)
        self.weights = nn.ParameterList(frozen(part.clone()) for part in weight.split(self.channels, dim=1))

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
        self.bias = frozen(bias)
        taps = weight.flatten(0, 3)[:, :, None, None]
        self.weights = nn.ParameterList(frozen(part.clone()) for part in taps.split(self.channels, dim=1))
        one_hot = torch.eye(size * size, dtype=weight.dtype, device=weight.device).view(1, -1, size, size)
        self.shifts = frozen(one_hot.repeat(self.num_classes, 1, 1, 1))

    def forward(self, scales: list[Tensor]) -> Tensor:
        maps = sum_of_scales(scales, list(self.weights), None).chunk(len(self.dilations), dim=1)
        reach = self.shifts.shape[-1] // 2
        total = self.bias[None, :, None, None]
        for part, rate in zip(maps, self.dilations, strict=True):
            total = total + F.conv2d(part, self.shifts, padding=rate * reach, dilation=rate, groups=self.num_classes)
        return total


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter rather than a buffer, so that a count of the folded network's parameters leaves nothing out."""
    return nn.Parameter(value, requires_grad=False)
