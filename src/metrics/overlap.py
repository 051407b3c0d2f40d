"""Overlap of a predicted and a true mask, per image and pooled over all pixels.

With TP, FP, FN, TN counted over one image: Dice = 2TP/(2TP+FP+FN), IoU = TP/(TP+FP+FN), precision = TP/(TP+FP),
recall = TP/(TP+FN), specificity = TN/(TN+FP), accuracy = (TP+TN)/all. Where a denominator is zero: 1 if the masks agree
(both empty), else 0; for specificity, an image without background pixels in truth is 1.

`dice`, `iou`, ... are means over images; `dice_pooled`, `iou_pooled` divide sums over all pixels of all images. The two
conventions differ by more than most ablations do, so they never share a name.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

NAMES = ("dice", "iou", "precision", "recall", "specificity", "accuracy")
POOLED = ("dice_pooled", "iou_pooled")


def confusion(pred: Bool[Tensor, "b ..."], target: Bool[Tensor, "b ..."]) -> Int[Tensor, "b 4"]:
    """TP, FP, FN, TN of each image; ValueError for masks that are not boolean or differ in shape."""
    if pred.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"masks must be boolean, got {pred.dtype} and {target.dtype}. Threshold them first.")
    if pred.shape != target.shape:
        raise ValueError(f"masks differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}.")
    pred, target = pred.flatten(1), target.flatten(1)
    tp, fp, fn = (pred & target).sum(1), (pred & ~target).sum(1), (~pred & target).sum(1)
    return torch.stack([tp, fp, fn, pred.shape[1] - tp - fp - fn], dim=1)


def scores(counts: Int[Tensor, "b 4"]) -> dict[str, Float[Tensor, " b"]]:
    """The six overlap scores of each row of `confusion` counts, in float64."""
    tp, fp, fn, tn = counts.double().unbind(1)
    agree = ((fp == 0) & (fn == 0)).double()

    def ratio(numerator: Tensor, denominator: Tensor, empty: Tensor) -> Tensor:
        return torch.where(denominator > 0, numerator / denominator.clamp(min=1), empty)

    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn, agree),
        "iou": ratio(tp, tp + fp + fn, agree),
        "precision": ratio(tp, tp + fp, agree),
        "recall": ratio(tp, tp + fn, agree),
        "specificity": ratio(tn, tn + fp, torch.ones_like(tn)),
        "accuracy": (tp + tn) / (tp + fp + fn + tn).clamp(min=1),
    }


def threshold_jaccard(iou: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """ISIC 2018 task 1: each image's IoU where it is at least 0.65, else 0; the challenge's score is their mean.

    Both masks empty is an IoU of 1 (`scores`) and stays 1. The challenge scores at native size, masks > 128.
    """
    return torch.where(iou >= 0.65, iou, 0)


class Overlap(Metric):
    """Accumulates boolean masks (B, ..., H, W) over batches and processes; `compute` gives NAMES and POOLED.

    Sums and a count of images are all that is kept, so the result depends neither on how images are batched nor on how
    they are shared among processes. An image given twice counts twice: samplers that pad shards to one length do that.
    """

    sums: Tensor
    counts: Tensor
    images: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        counts = confusion(pred, target)
        self.sums += torch.stack([values.sum() for values in scores(counts).values()])
        self.counts += counts.sum(0)
        self.images += len(counts)

    def compute(self) -> dict[str, Tensor]:
        means = dict(zip(NAMES, self.sums / self.images, strict=True))
        pooled = scores(self.counts[None])
        return means | {f"{name}_pooled": pooled[name][0] for name in ("dice", "iou")}
