"""MALUNet: four attention modules in a U-shape of very few channels.

Source: Ruan, Xiang, Xie, Liu and Fu, "MALUNet: A Multi-Attention and Light-weight UNet for Skin Lesion Segmentation",
BIBM 2022. DGA: dilated gated attention, IEA: inverted external attention (after Guo et al., TPAMI 2022), CAB and SAB:
channel and spatial attention bridges over the skips of all stages.

Unusual: GroupNorm with four groups everywhere, which depends on the image and folds into nothing. IEA's softmax runs
over all pixels of the map.

Left open by the paper and taken as in the authors' program: the order (IEA then DGA in the encoder, the reverse in the
decoder), dilations 7, 5, 2, 1, kernels 3 and 5 of the gates, bilinear resizing with aligned corners. Their program
starts both matrices of IEA from one shared memory; here they are independent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.rivals.sixlevels import GROUPS, SixLevels, depthwise, init_by_fan_out
from src.models.sizes import upsample

DILATIONS = (7, 5, 2, 1)  # of DGA's quarters


def separable(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        depthwise(in_channels, kernel_size),
        nn.GroupNorm(GROUPS, in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )


class DilatedGatedAttention(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W).

    y      = GELU(conv1x1(GN(quarters of x, each through a depthwise 3x3 at its own dilation)))
    output = GELU(sep3(sigmoid(sep3(y)) * GELU(sep5(y)))) + conv1x1(y)
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.dilated = nn.ModuleList(depthwise(in_channels // 4, 3, rate) for rate in DILATIONS)
        self.norm = nn.GroupNorm(GROUPS, in_channels)
        self.mix = nn.Conv2d(in_channels, in_channels, 1)
        self.local_gate = separable(in_channels, in_channels, 3)
        self.wide_gate = separable(in_channels, in_channels, 5)
        self.gated = separable(in_channels, out_channels, 3)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        quarters = [conv(part) for conv, part in zip(self.dilated, x.chunk(4, dim=1), strict=True)]
        y = F.gelu(self.mix(self.norm(torch.cat(quarters, dim=1))))
        gate = torch.sigmoid(self.local_gate(y)) * F.gelu(self.wide_gate(y))
        return F.gelu(self.gated(gate)) + self.shortcut(y)


class InvertedExternalAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W):  GELU(x + GN(conv1x1(M2 normalise(softmax_pixels(M1 conv1x1(x)))))), M1: C -> 4C.

    `normalise` divides by the sum over the 4C memories.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.memory_in = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.memory_out = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.project: nn.Module = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        scores = self.memory_in(self.query(x))
        attention = torch.softmax(scores.flatten(2), dim=-1)
        attention = (attention / (1e-9 + attention.sum(1, keepdim=True))).view_as(scores)
        return F.gelu(x + self.norm(self.project(self.memory_out(attention))))

    def folded(self) -> nn.Module:
        """Neither pair of 1x1 convolutions has anything between: one each. The softmax forgets M1's constant."""
        assert isinstance(self.project, nn.Conv2d) and isinstance(self.query, nn.Conv2d)
        inner = self.memory_in.weight.flatten(1) @ self.query.weight.flatten(1)
        outer = self.project.weight.flatten(1) @ self.memory_out.weight.flatten(1)
        self.memory_in.weight.data = inner.data[:, :, None, None]
        self.memory_out.weight.data = outer.data[:, :, None, None]
        self.query, self.project = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        return self


class AttentionBridge(nn.Module):
    """SAB, then CAB, over the features of all stages at once; lists in, lists out, shapes unchanged.

    s_i = t_i * sigmoid(conv7x7 dilation 3(mean and max over channels)), one convolution for all stages;
    output_i = s_i + (s_i + t_i) * sigmoid(linear_i(conv1d(means of all s + t)))
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=9, dilation=3)
        self.across = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.linears = nn.ModuleList(nn.Linear(sum(channels), width) for width in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        gated = []
        for t in features:
            planes = torch.cat([t.mean(1, keepdim=True), t.amax(1, keepdim=True)], dim=1)
            gated.append(t * torch.sigmoid(self.spatial(planes)))
        sums = [s + t for s, t in zip(gated, features, strict=True)]
        means = self.across(torch.cat([total.mean((2, 3)) for total in sums], dim=1)[:, None])[:, 0]
        gates = [torch.sigmoid(linear(means))[:, :, None, None] for linear in self.linears]
        return [s + total * gate for s, total, gate in zip(gated, sums, gates, strict=True)]


class MALUNet(SixLevels):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W; six `channels`, multiples of 8."""

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, channels: Sequence[int] = (8, 16, 24, 32, 48, 64)
    ):
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            channels=channels,
            encoder_block=lambda a, b: nn.Sequential(InvertedExternalAttention(a), DilatedGatedAttention(a, b)),
            decoder_block=lambda a, b: nn.Sequential(DilatedGatedAttention(a, b), InvertedExternalAttention(b)),
        )
        self.bridge = AttentionBridge(channels[:5])
        self.apply(init_by_fan_out)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        features, lowest = self.encode(image)
        x = F.gelu(self.encoder[5](lowest))
        for level, skip in enumerate(reversed(self.bridge(features))):
            x = self.up(level, x) + skip
        return upsample(self.head(x), image.shape[-2:], align_corners=True)
