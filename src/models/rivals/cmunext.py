"""CMUNeXt: a U-Net of large-kernel depthwise blocks in the encoder and grouped skip fusion in the decoder.

Source: Tang, Ding, Quan, Wang, Ning and Zhou, "CMUNeXt: An Efficient Medical Image Segmentation Network based on Large
Kernel and Skip Fusion", ISBI 2024.

Unusual: BN follows the activation. Where a padded convolution comes next it therefore cannot be folded into that
exactly (the padding's zeros are not shifted), and `src.models.fuse` leaves it.

Left open by the paper and taken as in the authors' program: GELU in the blocks, ReLU in stem, level changes and
upsampling, two groups in a skip fusion.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.sizes import PaddedNet, check_depths, twice


def conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def conv_gelu_norm(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups),
        nn.GELU(),
        nn.BatchNorm2d(out_channels),
    )


class LargeKernelBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): x + BN(GELU(depthwise kxk(x))), then 1x1 to 4C and back, each with GELU, BN."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.depthwise = conv_gelu_norm(channels, channels, kernel_size, groups=channels)
        self.mix = nn.Sequential(conv_gelu_norm(channels, 4 * channels), conv_gelu_norm(4 * channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.mix(x + self.depthwise(x))


def stage(in_channels: int, out_channels: int, depth: int, kernel_size: int) -> nn.Sequential:
    """The blocks, at the width they get, then a 3x3 convolution to the next."""
    blocks = [LargeKernelBlock(in_channels, kernel_size) for _ in range(depth)]
    return nn.Sequential(*blocks, conv_norm_relu(in_channels, out_channels))


class SkipFusion(nn.Module):
    """x (B, C_in, H, W), skip (B, C_out, 2H, 2W) -> (B, C_out, 2H, 2W): both, in groups of their own, then mixed."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.up = conv_norm_relu(in_channels, out_channels)
        self.fuse = nn.Sequential(
            conv_gelu_norm(2 * out_channels, 2 * out_channels, 3, groups=2),
            conv_gelu_norm(2 * out_channels, 4 * out_channels),
            conv_gelu_norm(4 * out_channels, out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.fuse(torch.cat([skip, self.up(twice(x))], dim=1))


class CMUNeXt(PaddedNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W.

    `channels`, `depths` (blocks) and `kernel_sizes` per encoder level, full resolution first.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        channels: Sequence[int] = (16, 32, 128, 160, 256),
        depths: Sequence[int] = (1, 1, 1, 3, 1),
        kernel_sizes: Sequence[int] = (3, 3, 7, 7, 7),
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if not len(channels) == len(depths) == len(kernel_sizes):
            raise ValueError(
                f"channels={tuple(channels)}, depths={tuple(depths)}, kernel_sizes={tuple(kernel_sizes)}: "
                "one of each per level is needed."
            )
        check_depths("depths", depths)
        self.divisor = 2 ** (len(channels) - 1)
        self.stem = conv_norm_relu(in_channels, channels[0])
        widths = [channels[0], *channels]
        self.encoder = nn.ModuleList(
            stage(widths[i], widths[i + 1], depths[i], kernel_sizes[i]) for i in range(len(channels))
        )
        self.decoder = nn.ModuleList(SkipFusion(channels[i], channels[i - 1]) for i in range(len(channels) - 1, 0, -1))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        x, skips = self.stem(image), []
        for level, blocks in enumerate(self.encoder):
            x = blocks(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for fusion, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = fusion(x, skip)
        return self.head(x)
