"""A network without branches on the image's size, so that one exported graph holds for every batch, height and width.

The networks pad an image to a multiple of `divisor`, or do not where it is one already: a tracer would keep one of the
two. Here the padding is always done, by indices that repeat the last row and column, which may be none.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.models.emisnet import EMISNet
from src.models.sizes import PaddedNet, Side, upsample


class AnySize(nn.Module):
    """The logits of `net`: image (B, C, H, W) -> (B, num_classes, H, W).

    Raises TypeError for a network that is neither an EMISNet nor a PaddedNet, so that nobody knows what it pads to.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        if not isinstance(net, EMISNet | PaddedNet):
            raise TypeError(f"{type(net).__name__} does not say what its sides must be multiples of.")
        self.net, self.divisor = net, net.divisor

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        height, width = image.shape[-2:]
        padded = _repeated(_repeated(image, 2, self.divisor), 3, self.divisor)
        logits = _segment_emisnet(self.net, padded) if isinstance(self.net, EMISNet) else self.net.segment(padded)
        assert isinstance(logits, Tensor), "a list of logits is of training"
        return _cropped(_cropped(logits, 2, height), 3, width)


def _repeated(image: Float[Tensor, "b c h w"], axis: int, divisor: int) -> Tensor:
    """Padded at the end of `axis` to a multiple of `divisor`, as `pad_to_multiple` does."""
    length = image.shape[axis]
    places = torch.arange((length + divisor - 1) // divisor * divisor, device=image.device)
    return image.index_select(axis, places.clamp(max=length - 1))


def _cropped(logits: Float[Tensor, "b n h w"], axis: int, length: Side) -> Tensor:
    """The first `length` along `axis`, by indices: a tracer cannot prove that a slice lies inside what was padded."""
    return logits.index_select(axis, torch.arange(length, device=logits.device))


def _segment_emisnet(net: EMISNet, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
    """For sides that are multiples of `net.divisor`."""
    scales = net.decode(net.encode(image))
    logits = net.head(scales[0] if net.fusion is None else net.fusion(scales))
    stem_stride = net.divisor >> (len(net.encoder) - 1)
    return logits if stem_stride == 1 else upsample(logits, image.shape[-2:])
