"""The protocol lens: one set of predictions scored the way others report, to show what the convention alone does.

Papers on light networks resize the truth to 256 x 256, cut at 0.5 and pool in ways of their own; here the probability
maps of this project, which are at native size, are brought to that size too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

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
    """One row per convention: `convention`, `as in` (who reports so), mean `dice` and `iou`; None where undefined."""
    counts = np.stack([image.small for image in images]).astype(np.float64)
    starts = range(0, len(counts), BATCH)
    batches = np.stack([counts[start : start + BATCH].sum(0) for start in starts])
    weights = [len(counts[start : start + BATCH]) for start in starts]
    pooled, flipped = counts.sum(0, keepdims=True), counts[:, ::-1].sum(0, keepdims=True)
    dice, iou = _dice(counts), _iou(counts)
    rows = [image.row for image in images]
    jaccard = [row["iou"] if row["iou"] >= 0.65 else 0.0 for row in rows]
    table = [
        (f"per image, native size, cut at {threshold:g}", "this project", _of(rows, "dice"), _of(rows, "iou")),
        ("per image, 256x256, cut at 0.5", "a common shortcut", dice.mean(), iou.mean()),
        ("pooled over all pixels, 256x256, cut at 0.5", "MALUNet, EGE-UNet", _dice(pooled)[0], _iou(pooled)[0]),
        (
            f"pooled in each batch of {BATCH}, mean weighted by size, 256x256, cut at 0.5",
            "UNeXt's code",
            np.average(_dice(batches), weights=weights),
            np.average(_iou(batches), weights=weights),
        ),
        (
            "mean of foreground and background, pooled, 256x256, cut at 0.5",
            "mIoU of semantic segmentation",
            (_dice(pooled)[0] + _dice(flipped)[0]) / 2,
            (_iou(pooled)[0] + _iou(flipped)[0]) / 2,
        ),
        ("threshold Jaccard, native size: below 0.65 counts 0", "ISIC 2018 task 1", None, float(np.mean(jaccard))),
    ]
    names = ("convention", "as in", "dice", "iou")
    return [
        dict(zip(names, (what, who, *(None if v is None else float(v) for v in values)), strict=True))
        for what, who, *values in table
    ]


def _of(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _dice(counts: np.ndarray) -> np.ndarray:
    """Of each row TP, FP, FN, TN; 1 where truth and prediction are empty. Columns reversed: of the background."""
    tp, fp, fn = counts[:, 0], counts[:, 1], counts[:, 2]
    return np.where(tp + fp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)


def _iou(counts: np.ndarray) -> np.ndarray:
    tp, errors = counts[:, 0], counts[:, 1] + counts[:, 2]
    return np.where(tp + errors > 0, tp / np.maximum(tp + errors, 1), 1.0)
