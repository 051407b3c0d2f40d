"""The protocol lens: one set of predictions scored the way others report, to show what the convention alone does.

Papers on light networks resize the truth to 256 x 256, cut at 0.5 and pool in ways of their own; here the probability
maps of this project, which are at native size, are brought to that size too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from src.metrics.overlap import scores, threshold_jaccard

if TYPE_CHECKING:
    from src.scoring import Scored

SIDE, CUT, BATCH = 256, 0.5, 16


def small_counts(probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """TP, FP, FN, TN at SIDE x SIDE: probabilities and truth resized alike (a shift between them costs a Dice point, a
    half pixel is enough) and cut at CUT."""
    how = cv2.INTER_AREA if mask.size > SIDE * SIDE else cv2.INTER_LINEAR
    pred = cv2.resize(probs, (SIDE, SIDE), interpolation=how) > CUT
    true = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=how) > CUT
    return np.array([(pred & true).sum(), (pred & ~true).sum(), (~pred & true).sum(), (~pred & ~true).sum()])


def lens_table(images: "Sequence[Scored]", threshold: float) -> list[dict[str, Any]]:
    """One row per convention: `convention`, `as in` (who reports so), mean `dice` and `iou`; None where undefined.

    ValueError if the images were scored without `lens=True`.
    """
    small = [image.small for image in images if image.small is not None]
    if len(small) < len(images):
        raise ValueError("the lens needs counts at 256x256, and these images have none: score_image(..., lens=True).")
    counts = torch.from_numpy(np.stack(small))
    batches = counts.split(BATCH)
    weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    pooled = counts.sum(0, keepdim=True)
    alone, over_all, of_background = scores(counts), scores(pooled), scores(pooled.flip(1))  # TN, FN, FP, TP
    in_batches = scores(torch.stack([batch.sum(0) for batch in batches]))
    rows = [image.row for image in images]
    native = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in ("dice", "iou")}
    jaccard = threshold_jaccard(native["iou"]).mean()

    def convention(what: str, who: str, dice: Tensor | None, iou: Tensor) -> dict[str, Any]:
        return {"convention": what, "as in": who, "dice": None if dice is None else dice.item(), "iou": iou.item()}

    def weighted(values: Tensor) -> Tensor:
        return (values * weights).sum() / weights.sum()

    return [
        convention(
            f"per image, native size, cut at {threshold:g}",
            "this project",
            native["dice"].mean(),
            native["iou"].mean(),
        ),
        convention(
            "per image, 256x256, cut at 0.5",
            "a common shortcut",
            alone["dice"].mean(),
            alone["iou"].mean(),
        ),
        convention(
            "pooled over all pixels, 256x256, cut at 0.5",
            "MALUNet, EGE-UNet",
            over_all["dice"],
            over_all["iou"],
        ),
        convention(
            f"pooled in each batch of {BATCH}, mean weighted by size, 256x256, cut at 0.5",
            "UNeXt's code",
            weighted(in_batches["dice"]),
            weighted(in_batches["iou"]),
        ),
        convention(
            "mean of foreground and background, pooled, 256x256, cut at 0.5",
            "mIoU of semantic segmentation",
            (over_all["dice"] + of_background["dice"]) / 2,
            (over_all["iou"] + of_background["iou"]) / 2,
        ),
        convention("threshold Jaccard, native size: below 0.65 counts 0", "ISIC 2018 task 1", None, jaccard),
    ]
