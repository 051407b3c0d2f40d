"""EGE-UNet: 50 k parameters by products with learned axial maps instead of attention.

Source: Ruan, Xie, Gao, Liu and Fu, "EGE-UNet: an Efficient Group Enhanced UNet for skin lesion segmentation", MICCAI
2023. GHPA: grouped multi-axis Hadamard product attention; GAB: group aggregation bridge.

Unusual: GHPA's maps are parameters, not features: three quarters of the channels are multiplied by maps that depend on
the size of the input alone. A 1x1 head at each decoder stage predicts a mask, and the bridge reads that prediction, so
the auxiliary heads are part of the network whether they are supervised or not.

Left open by the paper and taken as in the authors' program: maps of 8x8 and 8, dilations 1, 2, 5, 7 of the bridge,
logits rather than probabilities as its mask, resizing with aligned corners. The paper always supervises the auxiliary
heads, weighted 0.1 to 0.5 from the lowest up; here `deep_supervision=true` does, with the weights of this project's
loss.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from src.models.rivals.sixlevels import SixLevels, depthwise, init_by_fan_out
from src.models.sizes import Side, upsample

SIDE = 8  # of the learned maps
DILATIONS = (1, 2, 5, 7)  # of the bridge's groups


def axial_gate(channels: int) -> nn.Sequential:
    """Depthwise 3, GELU, pointwise along one axis: (1, C, L) -> (1, C, L)."""
    return nn.Sequential(
        nn.Conv1d(channels, channels, 3, padding=1, groups=channels), nn.GELU(), nn.Conv1d(channels, channels, 1)
    )


class HadamardAttention(nn.Module):
    """GHPA, (B, C_in, H, W) -> (B, C_out, H, W).

    LN; the quarters of the channels times a map over H x W, over H, over W, and through 1x1, GELU, depthwise 3x3;
    LN; depthwise 3x3, GELU, 1x1.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        quarter = in_channels // 4
        self.norm = LayerNorm2d(in_channels, eps=1e-6)
        self.plane = nn.Parameter(torch.ones(1, quarter, SIDE, SIDE))
        self.rows = nn.Parameter(torch.ones(1, quarter, SIDE))
        self.columns = nn.Parameter(torch.ones(1, quarter, SIDE))
        self.plane_gate = nn.Sequential(depthwise(quarter, 3), nn.GELU(), nn.Conv2d(quarter, quarter, 1))
        self.row_gate, self.column_gate = axial_gate(quarter), axial_gate(quarter)
        self.local = nn.Sequential(nn.Conv2d(quarter, quarter, 1), nn.GELU(), depthwise(quarter, 3))
        self.norm_out = LayerNorm2d(in_channels, eps=1e-6)
        self.project = nn.Sequential(depthwise(in_channels, 3), nn.GELU(), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        height, width = x.shape[-2:]
        by_plane, by_row, by_column, rest = self.norm(x).chunk(4, dim=1)
        gate = self.plane_gate(upsample(self.plane, (height, width), align_corners=True))
        gate_h = self.row_gate(_stretch(self.rows, height))[:, :, :, None]
        gate_w = self.column_gate(_stretch(self.columns, width))[:, :, None, :]
        parts = [by_plane * gate, by_row * gate_h, by_column * gate_w, self.local(rest)]
        return self.project(self.norm_out(torch.cat(parts, dim=1)))


def _stretch(line: Float[Tensor, "1 c l"], size: Side) -> Float[Tensor, "1 c size"]:
    return F.interpolate(line, size=size, mode="linear", align_corners=True)  # type: ignore[arg-type]


class GroupAggregation(nn.Module):
    """GAB: deep (B, C_deep, h, w), skip (B, C, H, W), mask (B, N, H, W) -> (B, C, H, W).

    Four groups, each a quarter of both and the mask: LN, depthwise 3x3 at the group's dilation; then LN, 1x1.
    """

    def __init__(self, deep_channels: int, channels: int, masks: int):
        super().__init__()
        self.project = nn.Conv2d(deep_channels, channels, 1)
        width = channels // 2 + masks
        self.groups = nn.ModuleList(
            nn.Sequential(LayerNorm2d(width, eps=1e-6), depthwise(width, 3, rate)) for rate in DILATIONS
        )
        self.merge = nn.Sequential(LayerNorm2d(4 * width, eps=1e-6), nn.Conv2d(4 * width, channels, 1))

    def forward(self, deep: Tensor, skip: Tensor, mask: Tensor) -> Tensor:
        deep = upsample(self.project(deep), skip.shape[-2:], align_corners=True)
        quarters = zip(self.groups, deep.chunk(4, dim=1), skip.chunk(4, dim=1), strict=True)
        return self.merge(torch.cat([group(torch.cat([a, b, mask], dim=1)) for group, a, b in quarters], dim=1))


class EGEUNet(SixLevels):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W; six `channels`, multiples of 8.

    With `deep_supervision`, forward in training mode returns a list of logits at full size, the main ones first.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        channels: Sequence[int] = (8, 16, 24, 32, 48, 64),
        deep_supervision: bool = False,
    ):
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            channels=channels,
            encoder_block=HadamardAttention,
            decoder_block=HadamardAttention,
        )
        levels = range(4, -1, -1)
        self.deep_supervision = deep_supervision
        self.mask_heads = nn.ModuleList(nn.Conv2d(channels[level], num_classes, 1) for level in levels)
        self.bridges = nn.ModuleList(
            GroupAggregation(channels[level + 1], channels[level], num_classes) for level in levels
        )
        self.apply(init_by_fan_out)

    @property
    def aux_heads(self) -> nn.ModuleList | None:
        """What deep supervision trains beside the head, if it is on."""
        return self.mask_heads if self.deep_supervision else None

    def folded(self) -> nn.Module:
        """For inference: one plane, whatever mode it is in."""
        self.deep_supervision = False
        return self

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"] | list[Tensor]:
        size = image.shape[-2:]
        features, lowest = self.encode(image)
        x = F.gelu(self.encoder[5](lowest))
        deep, masks = x, []
        for level, skip in enumerate(reversed(features)):
            x = self.up(level, x)
            masks.append(self.mask_heads[level](x))
            deep = self.bridges[level](deep, skip, masks[-1])
            x = x + deep
        logits = upsample(self.head(x), size, align_corners=True)
        if self.training and self.deep_supervision:
            return [logits, *(upsample(mask, size, align_corners=True) for mask in reversed(masks))]
        return logits
