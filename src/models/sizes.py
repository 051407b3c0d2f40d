"""Images of any size through networks that halve them: padded inside, cropped back."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import SymInt, Tensor, nn

MAX_DEPTH = 100  # blocks of a level; of a million, Python would be busy for hours before anything is wrong
Side = int | SymInt  # of a map; symbolic while torch.export traces a network for any size


def check_depths(name: str, depths: Sequence[int]) -> None:
    """ValueError unless every level has from 1 to MAX_DEPTH blocks; `name` is the argument's."""
    if min(depths) < 1 or max(depths) > MAX_DEPTH:
        raise ValueError(f"{name}={tuple(depths)}: a level has from 1 to {MAX_DEPTH} blocks.")


def pad_to_multiple(image: Float[Tensor, "b c h w"], divisor: int) -> Float[Tensor, "b c h2 w2"]:
    """Pads below and to the right, repeating the border, to multiples of `divisor`."""
    height, width = image.shape[-2:]
    bottom, right = -height % divisor, -width % divisor
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def check_channels(image: Float[Tensor, "b c h w"], in_channels: int) -> None:
    """ValueError for an image with another number of channels."""
    if image.shape[1] != in_channels:
        raise ValueError(
            f"the image has {image.shape[1]} channels, this network takes {in_channels}. "
            f"Set model.in_channels={image.shape[1]} or convert the image."
        )


def upsample(
    x: Float[Tensor, "b c h w"], size: Sequence[Side], *, align_corners: bool = False
) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear resize to `size` (H, W)."""
    shape: Any = tuple(size)  # torch's hints know no symbolic sides
    return F.interpolate(x, size=shape, mode="bilinear", align_corners=align_corners)


def twice(x: Float[Tensor, "b c h w"], *, align_corners: bool = False) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear resize to twice the height and width."""
    return upsample(x, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=align_corners)


class PaddedNet(nn.Module):
    """A network behind EMIS-Net's calling convention: image (B, in_channels, H, W) -> logits (B, num_classes, H, W).

    A subclass computes `segment(image)` for sides that are multiples of `divisor`; it may return a list of logits of
    the image's size in training, the main ones first.

    Raises ValueError from forward for an image with another number of channels.
    """

    divisor = 32

    def __init__(self, *, in_channels: int, num_classes: int):
        super().__init__()
        if min(in_channels, num_classes) < 1:
            raise ValueError(f"in_channels={in_channels}, num_classes={num_classes}: at least 1 of each is needed.")
        self.in_channels, self.num_classes = in_channels, num_classes

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"] | list[Tensor]:
        check_channels(image, self.in_channels)
        height, width = image.shape[-2:]
        logits = self.segment(pad_to_multiple(image, self.divisor))
        if isinstance(logits, list):
            return [plane[..., :height, :width] for plane in logits]
        return logits[..., :height, :width]

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"] | list[Tensor]:
        """Logits of an image whose sides are multiples of `divisor`."""
        raise NotImplementedError
