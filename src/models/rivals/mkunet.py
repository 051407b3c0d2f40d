"""MK-UNet: inverted residual blocks whose depthwise convolution has several kernel sizes side by side.

Source: Rahman and Marculescu, "MK-UNet: Multi-kernel Lightweight CNN for Medical Image Segmentation", ICCV 2025
workshops (CVAMD), arXiv:2509.18493.

Unusual: the block's kernels 1, 3 and 5 each have their own BN and ReLU6 before they are summed, so that they do not
merge into one 5x5 kernel. One spatial attention serves all decoder levels. Channels are shuffled before the closing
1x1 convolution; `folded` moves that permutation into its weights.

Left open by the paper and taken as in the authors' program: reductions of the channel attention (16, 16, 16, 8, 4),
groups of C/2 in the attention gates, ReLU after upsampling. Its three auxiliary heads, of which its own forward uses
none, are left out.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.sizes import PaddedNet, check_depths, twice

REDUCTIONS = (4, 8, 16, 16, 16)  # of the channel attention, full resolution first


def conv_norm(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class MultiKernelBlock(nn.Module):
    """MKIR, (B, C_in, H, W) -> (B, C_out, H, W).

    expand = ReLU6(BN(conv1x1(x)));  sum_k ReLU6(BN(depthwise_k(expand)));  shuffle;  BN(conv1x1);  + x, or conv1x1(x)
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, kernel_sizes: Sequence[int]):
        super().__init__()
        wide = expansion * in_channels
        self.expand = nn.Sequential(*conv_norm(in_channels, wide), nn.ReLU6(inplace=True))
        self.kernels = nn.ModuleList(
            nn.Sequential(*conv_norm(wide, wide, size, groups=wide), nn.ReLU6(inplace=True)) for size in kernel_sizes
        )
        self.shuffle: nn.Module = nn.ChannelShuffle(math.gcd(wide, out_channels))
        self.project = nn.Sequential(*conv_norm(wide, out_channels))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        wide = self.expand(x)
        total = self.kernels[0](wide)
        for kernel in self.kernels[1:]:
            total = total + kernel(wide)
        return self.shortcut(x) + self.project(self.shuffle(total))

    def folded(self) -> nn.Module:
        """The shuffle as an order of the closing convolution's inputs."""
        conv = self.project[0]
        assert isinstance(conv, nn.Conv2d)
        places = torch.arange(conv.in_channels, dtype=torch.float32)[None, :, None, None]
        order = self.shuffle(places).flatten().long()  # place i of the shuffled holds channel order[i]
        weight = torch.empty_like(conv.weight.data)
        weight[:, order.to(weight.device)] = conv.weight.data
        conv.weight.data, self.shuffle = weight, nn.Identity()
        return self


class ChannelAttention(nn.Module):
    """x * sigmoid(mlp(mean(x)) + mlp(max(x))), mlp C -> C / reduction -> C (CBAM, Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * torch.sigmoid(self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True)))


class SpatialAttention(nn.Module):
    """x * sigmoid(conv7x7(mean and max over the channels)) (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class GroupedAttentionGate(nn.Module):
    """skip * sigmoid(BN(conv1x1(ReLU(BN(conv_g(gate)) + BN(conv_s(skip)))))), grouped 3x3 to C/2."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.gate, self.skip = (
            nn.Sequential(nn.Conv2d(channels, half, 3, padding=1, groups=half), nn.BatchNorm2d(half)) for _ in range(2)
        )
        self.psi = nn.Sequential(nn.Conv2d(half, 1, 1), nn.BatchNorm2d(1))

    def forward(self, gate: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return skip * torch.sigmoid(self.psi(F.relu(self.gate(gate) + self.skip(skip))))


class MKUNet(PaddedNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W.

    `channels` (even) and `depths` (blocks) of five levels, full resolution first; T, S, M and L are the same network
    with other widths.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        channels: Sequence[int] = (16, 32, 64, 96, 160),
        depths: Sequence[int] = (1, 1, 1, 1, 1),
        kernel_sizes: Sequence[int] = (1, 3, 5),
        expansion: int = 2,
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(channels) != 5 or len(depths) != 5 or any(width % 2 for width in channels):
            raise ValueError(
                f"channels={tuple(channels)}, depths={tuple(depths)}: MK-UNet has five levels of even width."
            )
        check_depths("depths", depths)

        def stage(stage_in: int, stage_out: int, depth: int = 1) -> nn.Sequential:
            return nn.Sequential(
                *(
                    MultiKernelBlock(
                        stage_out if i else stage_in, stage_out, expansion=expansion, kernel_sizes=kernel_sizes
                    )
                    for i in range(depth)
                )
            )

        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(stage(widths[i], widths[i + 1], depths[i]) for i in range(5))
        self.spatial = SpatialAttention()
        self.attention = nn.ModuleList(ChannelAttention(channels[i], REDUCTIONS[i]) for i in range(4, -1, -1))
        self.decoder = nn.ModuleList(stage(channels[i], channels[max(i - 1, 0)]) for i in range(4, -1, -1))
        self.gates = nn.ModuleList(GroupedAttentionGate(channels[i]) for i in range(3, -1, -1))
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        x, features = image, []
        for blocks in self.encoder:
            x = F.max_pool2d(blocks(x), 2)
            features.append(x)
        skips = list(reversed(features[:-1]))
        for level, (attention, blocks) in enumerate(zip(self.attention, self.decoder, strict=True)):
            x = F.relu(twice(blocks(self.spatial(attention(x)))))
            if level < len(skips):
                x = x + self.gates[level](x, skips[level])
        return self.head(x)
