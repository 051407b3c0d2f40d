"""LV-UNet: the first half of MobileNetV3-Large, then levels of two 1x1 convolutions that merge into one.

Source: Jiang, Wang, Huang and Zhao, "LV-UNet: A Lightweight and Vanilla Model for Medical Image Segmentation", BIBM
2024, after VanillaNet (Chen et al., NeurIPS 2023), whence the depthwise 3x3 that follows each ReLU. MobileNetV3: Howard
et al., ICCV 2019, from torchvision.

Unusual: the lowest level is 1/128 of the image. Left out: the paper anneals an activation between the two 1x1
convolutions away while it trains (a LeakyReLU whose slope goes to 1); here it is away from the start, so `fuse` gives
the paper's deploy form at any time. The paper starts from ImageNet weights; here from random ones.
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from src.models.fold import scale_and_shift
from src.models.sizes import PaddedNet, twice

EPS = 1e-6  # of every BN but MobileNet's
STAGES = ((0, 1), (1, 3), (3, 6), (6, 10))  # of MobileNetV3-Large's features: 1/2, 1/4, 1/8, 1/16 of the image
DEEP = (80, 160, 240, 480)  # channels of 1/16 to 1/128
SHALLOW = (80, 40, 24, 16, 16)  # and back up to full resolution


class VanillaBlock(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H', W'):  BN(depthwise3(ReLU(resize(BN(conv1x1(BN(conv1x1(x))))))))

    `resize` halves by max pooling (`down`) or doubles by bilinear upsampling.
    """

    def __init__(self, in_channels: int, out_channels: int, *, down: bool):
        super().__init__()
        self.down = down
        self.mix: nn.Module = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1),
            nn.BatchNorm2d(in_channels, eps=EPS),
            nn.Conv2d(in_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels, eps=EPS),
        )
        self.series = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False),
            nn.BatchNorm2d(out_channels, eps=EPS),
        )

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        x = self.mix(x)
        return self.series(F.relu(F.max_pool2d(x, 2) if self.down else twice(x)))

    def folded(self) -> nn.Module:
        """Both 1x1 convolutions and their BNs, a linear chain, as one."""
        assert isinstance(self.mix, nn.Sequential)
        first, norm, second, last = self.mix
        dtype = next(first.parameters()).dtype
        weight, bias = _affine(first, norm)
        outer, offset = _affine(second, last)
        merged = nn.Conv2d(weight.shape[1], outer.shape[0], 1, device=weight.device, dtype=dtype)
        assert merged.bias is not None
        merged.weight.data = (outer @ weight)[:, :, None, None].to(dtype)
        merged.bias.data = (outer @ bias + offset).to(dtype)
        self.mix = merged
        return self


def _affine(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution and its BN as matrix and offset, in float64."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and conv.bias is not None
    scale, shift = scale_and_shift(norm)
    return scale[:, None] * conv.weight.data.flatten(1).double(), scale * conv.bias.data.double() + shift


class LVUNet(PaddedNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W (padded to 128 px)."""

    divisor = 128

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        features = mobilenet_v3_large(weights=None).features
        if in_channels != 3:
            features[0][0] = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False)
        self.mobile = nn.ModuleList(features[first:end] for first, end in STAGES)
        self.down = nn.ModuleList(VanillaBlock(a, b, down=True) for a, b in pairwise(DEEP))
        up = (*DEEP[::-1], *SHALLOW[1:])
        self.up = nn.ModuleList(VanillaBlock(a, b, down=False) for a, b in pairwise(up))
        self.head = nn.Conv2d(SHALLOW[-1], num_classes, 1)

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        x, skips = image, []
        for stage in self.mobile:
            x = stage(x)
            skips.append(x)
        skips = skips[1:]  # 1/2 of the image is no skip
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips = skips[-2::-1]
        for level, block in enumerate(self.up):
            x = block(x)
            if level < len(skips):
                x = x + skips[level]
        return self.head(x)
