"""U-Lite: a U-Net of axial depthwise and pointwise convolutions.

Source: Dinh, Nguyen, Tran and Pham, "1M parameters are enough? A lightweight CNN-based model for medical image
segmentation", APSIPA ASC 2023.

Unusual: every spatial convolution is the sum of a 7x1 and a 1x7 depthwise one and its own input. The skip is taken
before the channels grow, so that both sides of a skip have different widths.

Left open by the paper and taken as in the authors' program: a 7x7 stem, a quarter of the channels per bottleneck
branch, nearest upsampling, the pointwise convolution that ends a decoder block.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.fold import scale_and_shift
from src.models.sizes import PaddedNet


class AxialDepthwise(nn.Module):
    """(B, C, H, W) -> (B, C, H, W):  x + depthwise_kx1(x) + depthwise_1xk(x)"""

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1):
        super().__init__()
        reach = dilation * (kernel_size // 2)
        self.down = nn.Conv2d(
            channels, channels, (kernel_size, 1), padding=(reach, 0), dilation=dilation, groups=channels
        )
        self.across = nn.Conv2d(
            channels, channels, (1, kernel_size), padding=(0, reach), dilation=dilation, groups=channels
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.down(x) + self.across(x)


class FoldedAxial(nn.Module):
    """An AxialDepthwise with its own input in one kernel's middle, and a BN after it in both: two convolutions."""

    def __init__(self, axial: AxialDepthwise, norm: nn.BatchNorm2d | None = None):
        super().__init__()
        self.down, self.across = axial.down, axial.across
        assert self.down.bias is not None and self.across.bias is not None
        self.down.weight.data[:, 0, self.down.kernel_size[0] // 2, 0] += 1
        if norm is not None:
            scale, shift = (value.to(norm.weight.dtype) for value in scale_and_shift(norm))
            self.down.weight.data *= scale[:, None, None, None]
            self.across.weight.data *= scale[:, None, None, None]
            self.down.bias.data = scale * (self.down.bias.data + self.across.bias.data) + shift
            self.across.bias = None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.down(x) + self.across(x)


class Encoder(nn.Module):
    """(B, C_in, H, W) -> skip (B, C_in, H, W) = BN(axial7(x)), and GELU(pool(conv1x1(skip))) (B, C_out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.axial = AxialDepthwise(in_channels, 7)
        self.norm: nn.Module = nn.BatchNorm2d(in_channels)
        self.grow = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.norm(self.axial(x))
        return skip, F.gelu(F.max_pool2d(self.grow(skip), 2))

    def folded(self) -> nn.Module:
        assert isinstance(self.norm, nn.BatchNorm2d) and isinstance(self.axial, AxialDepthwise)
        self.axial, self.norm = FoldedAxial(self.axial, self.norm), nn.Identity()  # type: ignore[assignment]
        return self


class Bottleneck(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): axial 3s at dilations 1, 2, 3 beside the reduced input, C/4 wide each."""

    def __init__(self, channels: int):
        super().__init__()
        width = channels // 4
        self.reduce = nn.Conv2d(channels, width, 1)
        self.axials = nn.ModuleList(AxialDepthwise(width, 3, dilation) for dilation in (1, 2, 3))
        self.norm = nn.BatchNorm2d(4 * width)
        self.expand = nn.Conv2d(4 * width, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = self.reduce(x)
        x = torch.cat([x, *(axial(x) for axial in self.axials)], dim=1)
        return F.gelu(self.expand(self.norm(x)))

    def folded(self) -> nn.Module:
        self.axials = nn.ModuleList(FoldedAxial(axial) for axial in self.axials if isinstance(axial, AxialDepthwise))
        return self


class Decoder(nn.Module):
    """x (B, C_in, H, W), skip (B, C_out, 2H, 2W) -> GELU(conv1x1(axial7(BN(conv1x1(concat(up(x), skip))))))."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.shrink = nn.Conv2d(in_channels + out_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.axial = AxialDepthwise(out_channels, 7)
        self.mix = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1)
        return F.gelu(self.mix(self.axial(self.norm(self.shrink(x)))))

    def folded(self) -> nn.Module:
        assert isinstance(self.axial, AxialDepthwise)
        self.axial = FoldedAxial(self.axial)  # type: ignore[assignment]
        return self


class ULite(PaddedNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W.

    `channels`: full resolution first, halved at each further one.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, channels: Sequence[int] = (16, 32, 64, 128, 256, 512)
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(channels) < 2:
            raise ValueError(f"channels={tuple(channels)}: at least two levels.")
        self.divisor = 2 ** (len(channels) - 1)
        steps = list(pairwise(channels))
        self.stem = nn.Conv2d(in_channels, channels[0], 7, padding=3)
        self.encoder = nn.ModuleList(Encoder(narrow, wide) for narrow, wide in steps)
        self.bottleneck = Bottleneck(channels[-1])
        self.decoder = nn.ModuleList(Decoder(wide, narrow) for narrow, wide in reversed(steps))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        x, skips = self.stem(image), []
        for block in self.encoder:
            skip, x = block(x)
            skips.append(skip)
        x = self.bottleneck(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        return self.head(x)
