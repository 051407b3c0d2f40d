"""What MALUNet and EGE-UNet, of the same authors, share: six levels, GroupNorm, GELU, skips that are added."""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn

from src.models.sizes import PaddedNet, twice

GROUPS = 4  # of every GroupNorm


def depthwise(channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv2d:
    """A depthwise k x k convolution that keeps H and W."""
    reach = dilation * (kernel_size // 2)
    return nn.Conv2d(channels, channels, kernel_size, padding=reach, dilation=dilation, groups=channels)


class SixLevels(PaddedNet):
    """The frame: three levels of 3x3 convolutions (full resolution to 1/8 after pooling), three of `block`s.

    `block(in_channels, out_channels)` makes a stage of the lower levels, the same way in encoder and decoder but for
    `decoder_block`. Each stage but the encoder's last is followed by GroupNorm, pooling (encoder) or upsampling
    (decoder), GELU.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int],
        encoder_block: Callable[[int, int], nn.Module],
        decoder_block: Callable[[int, int], nn.Module],
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(channels) != 6 or any(width % (2 * GROUPS) for width in channels):
            raise ValueError(
                f"channels={tuple(channels)}: {type(self).__name__} has six levels, each a multiple of {2 * GROUPS}."
            )
        c = list(channels)
        self.encoder = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, padding=1) for narrow, wide in zip([in_channels, *c[:2]], c[:3], strict=True)
        )
        self.encoder.extend(encoder_block(c[level - 1], c[level]) for level in (3, 4, 5))
        self.decoder = nn.ModuleList(decoder_block(c[level], c[level - 1]) for level in (5, 4, 3))
        self.decoder.extend(nn.Conv2d(c[level], c[level - 1], 3, padding=1) for level in (2, 1))
        self.encoder_norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in c[:5])
        self.decoder_norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in c[4::-1])
        self.head = nn.Conv2d(c[0], num_classes, 1)

    def encode(self, image: Float[Tensor, "b c h w"]) -> tuple[list[Tensor], Tensor]:
        """The features of five levels, 1/2 to 1/32 of the image; and the last one as the sixth stage reads it."""
        x, features = image, []
        for stage, norm in zip(self.encoder[:5], self.encoder_norms, strict=True):
            x = F.gelu(F.max_pool2d(norm(stage(x)), 2))
            features.append(x)
        return features, x

    def up(self, level: int, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """The decoder's stage `level`, 0 being the lowest, which alone keeps the resolution."""
        x = self.decoder_norms[level](self.decoder[level](x))
        return F.gelu(twice(x, align_corners=True) if level else x)


def init_by_fan_out(module: nn.Module) -> None:
    """Both programs' initialisation: normal by fan-out for convolutions, truncated normal for linear layers."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
