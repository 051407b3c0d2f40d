"""Losses on logits, each the mean over images of a loss per image.

Pooling over the batch, as smp's region losses do, lets one large object hide a small one that was missed (a perfect
large and a missed tiny object: loss 0.001), and smp's give 0 for a false positive on an empty mask. Here every image
counts the same, and a false positive on an empty mask costs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Logits = Float[Tensor, "b n h w"]
Target = Float[Tensor, "b n h w"]
Scalar = Float[Tensor, ""]


def _wide(logits: Logits, target: Target) -> tuple[Logits, Target]:
    """Both in float32, in which no sum over pixels overflows; float64 stays."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), target.to(dtype)


class TverskyLoss(nn.Module):
    """(1 - TI)^gamma per image, TI = (TP + s) / (TP + alpha FP + beta FN + s), on soft counts of sigmoid(logits).

    alpha = beta = 1/2 is the Dice loss, alpha = beta = 1 the IoU loss; beta > alpha charges misses more (Salehi et al.,
    2017); gamma = 3/4 is the focal Tversky loss (Abraham and Khan, 2019, with 1/gamma = 4/3). `smooth` is in pixels.
    """

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5, gamma: float = 1.0, smooth: float = 1.0):
        super().__init__()
        if min(alpha, beta) < 0 or alpha + beta <= 0:
            raise ValueError(f"alpha={alpha}, beta={beta}: neither below 0, and not both 0; Dice has 0.5 and 0.5.")
        if gamma <= 0 or smooth < 0:
            raise ValueError(f"gamma={gamma}, smooth={smooth}: gamma must be above 0 and smooth not below.")
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def forward(self, logits: Logits, target: Target) -> Scalar:
        logits, target = _wide(logits, target)
        probs, target = logits.sigmoid().flatten(1), target.flatten(1)
        tp, fp, fn = (probs * target).sum(1), (probs * (1 - target)).sum(1), ((1 - probs) * target).sum(1)
        index = (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth)
        return (1 - index).clamp(min=1e-7).pow(self.gamma).mean()  # clamp: the root's slope at 0 is infinite


class BCELoss(nn.Module):
    """Binary cross-entropy, mean over pixels; images have one size, so every image counts the same."""

    def forward(self, logits: Logits, target: Target) -> Scalar:
        return F.binary_cross_entropy_with_logits(*_wide(logits, target))


class GapBCELoss(nn.Module):
    """Binary cross-entropy in which background that is narrow counts 1 + `weight` times: the gaps that keep neighbours
    apart, which are few pixels, and whose loss merges two objects into one. Mean over pixels of weighted entropies.

    Narrow is background where no square of 2 `radius` + 1 px, centred in the image, fits in: the closing of the mask by
    that square, less the mask. After the weight map of U-Net (Ronneberger et al., MICCAI 2015, eq. 2), which asks for
    the objects' labels and two distance transforms; here the mask alone tells. `radius` is in px at training size.
    """

    def __init__(self, *, radius: int = 8, weight: float = 5.0):
        super().__init__()
        if type(radius) is not int or radius < 1 or weight < 0:
            raise ValueError(
                f"radius={radius}, weight={weight}: radius is a whole number from 1 px, weight not below 0."
            )
        self.radius, self.weight = radius, weight

    def forward(self, logits: Logits, target: Target) -> Scalar:
        logits, target = _wide(logits, target)
        weights = 1 + self.weight * narrow(target, self.radius)
        return F.binary_cross_entropy_with_logits(logits, target, weight=weights)


def narrow(target: Target, radius: int) -> Target:
    """1 in background where no square of 2 `radius` + 1 px centred in the image fits, else 0."""
    closed = -_grown(-_grown(target, radius), radius)
    return closed - target


def _grown(values: Target, radius: int) -> Target:
    """The largest value in the square around each pixel; by rows, then columns. Outside of the image there is none."""
    rows = F.max_pool2d(values, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(rows, (1, 2 * radius + 1), stride=1, padding=(0, radius))


class LovaszLoss(nn.Module):
    """Lovasz hinge per image (Berman et al., CVPR 2018), by segmentation-models-pytorch with `per_image=True`."""

    def __init__(self) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss as PerImageLovasz  # here: the import takes seconds

        self.loss = PerImageLovasz(mode="binary", per_image=True, from_logits=True)

    def forward(self, logits: Logits, target: Target) -> Scalar:
        return self.loss(*(values.flatten(0, 1) for values in _wide(logits, target)))


class FocalLoss(nn.Module):
    """Focal loss (Lin et al., ICCV 2017): -alpha_t (1 - p_t)^gamma log p_t, mean over pixels, by smp."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        if not 0 <= alpha <= 1 or gamma < 0:
            raise ValueError(f"alpha={alpha}, gamma={gamma}: alpha is from 0 to 1, gamma not below 0.")
        from segmentation_models_pytorch.losses import FocalLoss as PixelFocal  # here: the import takes seconds

        self.loss = PixelFocal(mode="binary", alpha=alpha, gamma=gamma)

    def forward(self, logits: Logits, target: Target) -> Scalar:
        return self.loss(*_wide(logits, target))


class WeightedSum(nn.Module):
    """sum_k weight_k loss_k(logits, target)."""

    def __init__(self, *, losses: Sequence[nn.Module], weights: Sequence[float]):
        super().__init__()
        if len(losses) != len(weights):
            raise ValueError(f"{len(losses)} losses but {len(weights)} weights; give one weight per loss.")
        if min(weights, default=0) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights={list(weights)}: none may be below 0, and one must be above.")
        self.losses, self.weights = nn.ModuleList(losses), tuple(weights)

    def forward(self, logits: Logits, target: Target) -> Scalar:
        terms = [weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(terms).sum()


class DeepSupervision(nn.Module):
    """Any loss over the list of logits of a network with auxiliary heads: main + weight x mean over the auxiliaries."""

    def __init__(self, loss: nn.Module, *, weight: float = 0.4):
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, logits: Logits | list[Tensor], target: Target) -> Scalar:
        if isinstance(logits, Tensor):  # evaluation: the network returns the main logits alone
            return self.loss(logits, target)
        main, *auxiliary = (self.loss(plane, target) for plane in logits)
        return main + self.weight * torch.stack(auxiliary).mean()
