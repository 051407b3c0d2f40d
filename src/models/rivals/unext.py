"""UNeXt: convolutions at the high resolutions, shifted MLPs on the tokens of the two lowest.

Source: Valanarasu and Patel, "UNeXt: MLP-based Rapid Medical Image Segmentation Network", MICCAI 2022.

Unusual: a channel group is moved by up to two pixels before each linear layer, so that a per-token MLP sees its
neighbours, once along each axis. Skips are added, not concatenated; ReLU stands after pooling and after upsampling.

Left open by the paper and taken as in the authors' program: kernels and widths of the convolution stages, no BN in the
last of them, MLPs as wide as the tokens (ratio 1), shifts first down, then across (the paper says across first), zeros
entering at the border, and that the second half of the decoder's levels has no MLP. Here the tokens stay an image and a
linear layer is a 1x1 convolution: the same function.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm2d, trunc_normal_
from torch import Tensor, nn

from src.models.sizes import PaddedNet, twice

REACH = 2  # px; 2 REACH + 1 groups of channels


def shift(x: Float[Tensor, "b c h w"], axis: int) -> Float[Tensor, "b c h w"]:
    """Five groups of channels moved by -2, -1, 0, 1, 2 pixels along `axis` (2: down, 3: right), zeros entering."""
    border = (0, 0, REACH, REACH) if axis == 2 else (REACH, REACH, 0, 0)
    groups = F.pad(x, border).chunk(2 * REACH + 1, dim=1)
    moved = [group.narrow(axis, 2 * REACH - i, x.shape[axis]) for i, group in enumerate(groups)]
    return torch.cat(moved, dim=1)


class TokenizedMLP(nn.Module):
    """(B, C, H, W) -> (B, C, H, W):  x + linear(shift_across(GELU(depthwise(linear(shift_down(LN(x)))))))"""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm2d(channels, eps=1e-5)
        self.mix_down = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.act = nn.GELU()
        self.mix_across = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        hidden = self.act(self.depthwise(self.mix_down(shift(self.norm(x), 2))))
        return x + self.mix_across(shift(hidden, 3))


def conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels))


def embed_tokens(in_channels: int, out_channels: int) -> nn.Sequential:
    """Overlapping patches of half the resolution, a tokenized MLP and the stage's LN."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
        LayerNorm2d(out_channels, eps=1e-5),
        TokenizedMLP(out_channels),
        LayerNorm2d(out_channels, eps=1e-5),
    )


class UNeXt(PaddedNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W.

    `channels`: three convolution levels (1/2, 1/4, 1/8 of the image), then two of tokens (1/16, 1/32).
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, channels: Sequence[int] = (16, 32, 128, 160, 256)
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(channels) != 5:
            raise ValueError(
                f"channels={tuple(channels)}: UNeXt has five levels, three of convolutions, two of tokens."
            )
        c1, c2, c3, c4, c5 = channels
        self.conv_stages = nn.ModuleList([conv_norm(in_channels, c1), conv_norm(c1, c2), conv_norm(c2, c3)])
        self.token_stages = nn.ModuleList([embed_tokens(c3, c4), embed_tokens(c4, c5)])
        self.up_convs = nn.ModuleList(
            [
                conv_norm(c5, c4),
                conv_norm(c4, c3),
                conv_norm(c3, c2),
                conv_norm(c2, c1),
                nn.Conv2d(c1, c1, 3, padding=1),
            ]
        )
        self.up_mlps = nn.ModuleList(
            [nn.Sequential(TokenizedMLP(width), LayerNorm2d(width, eps=1e-5)) for width in (c4, c3)]
        )
        self.head = nn.Conv2d(c1, num_classes, 1)
        for part in (*self.token_stages, *self.up_mlps):
            part.apply(_init_tokens)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        x, skips = image, []
        for stage in self.conv_stages:
            x = F.relu(F.max_pool2d(stage(x), 2))
            skips.append(x)
        for stage in self.token_stages:
            x = stage(x)
            skips.append(x)
        for level, (conv, skip) in enumerate(zip(self.up_convs, reversed(skips[:-1]), strict=False)):
            x = F.relu(twice(conv(x))) + skip
            if level < len(self.up_mlps):
                x = self.up_mlps[level](x)
        return self.head(F.relu(twice(self.up_convs[-1](x))))


def _init_tokens(module: nn.Module) -> None:
    """Truncated normal for what are linear layers, normal by fan-out for the other convolutions."""
    if not isinstance(module, nn.Conv2d):
        return
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    if module.kernel_size == (1, 1):
        trunc_normal_(module.weight, std=0.02)
    else:
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
