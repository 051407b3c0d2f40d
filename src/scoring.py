"""Scores of one image after another, and what a table shows of them: the protocol in code.

Everything is computed at native size from a probability map and the true label image; `summarize` and `strata` read
nothing but the rows, which is what per_image.csv holds.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from src.files import read_csv
from src.lens import small_counts
from src.masks import Packed, small_mask
from src.metrics import boundary
from src.metrics.objects import ObjectRule, label_objects, object_scores
from src.metrics.overlap import NAMES, confusion, scores, threshold_jaccard

GROUPS = ("overlap", "boundary", "objects", "isic")
THRESHOLDS = np.arange(1, 20) / 20  # a threshold is chosen among these
BINS = 15  # of the reliability table
COUNTS = ("tp", "fp", "fn", "tn")
TEXTS = ("id", "part", "dataset", "trained_on", "mode", "protocol")  # columns of per_image.csv that are no numbers
WHOLE = (*COUNTS, "height", "width", "n_objects")
VERSION = 1  # of the protocol: raised when the same masks would get other scores


@dataclass(frozen=True)
class Rules:
    """How masks are made and scored.

    Args:
        metrics: of GROUPS; overlap is always among them.
        threshold: foreground is where the probability exceeds it.
        tau: tolerance of NSD, in `unit`.
        min_object_area: objects of fewer pixels are dropped, for the object scores alone.
        spacing: distance of neighbouring rows and columns in `unit`; None: pixels.

    Raises:
        ValueError: an unknown group of metrics, a threshold outside [0, 1), a tau of 0 or less, an area below 0.
    """

    metrics: tuple[str, ...] = ("overlap",)
    threshold: float = 0.5
    tau: float = 2.0
    min_object_area: int = 0
    spacing: tuple[float, float] | None = None
    unit: str = "px"

    def __post_init__(self) -> None:
        if wrong := sorted(set(self.metrics) - set(GROUPS)):
            raise ValueError(f"metrics={wrong} are not known. Possible: {', '.join(GROUPS)}.")
        object.__setattr__(self, "threshold", float(self.threshold))  # 2 and 2.0 are one protocol
        object.__setattr__(self, "tau", float(self.tau))
        if not self.tau > 0 or not self.min_object_area >= 0:
            raise ValueError(
                f"tau={self.tau:g}, min_object_area={self.min_object_area}: tau must be above 0, the area not below."
            )
        _ = self.objects  # checks the threshold and the area

    @property
    def objects(self) -> ObjectRule:
        return ObjectRule(threshold=self.threshold, min_object_area=self.min_object_area)

    def protocol(self) -> dict[str, Any]:
        """What must be the same for two numbers to compare, but for the threshold's value."""
        told: dict[str, Any] = {
            "version": VERSION,
            "aggregation": "per-image mean at native size (pooled values are named so)",
            "empty": "both masks empty 1, one empty 0; distances: both 0, one undefined (`_charged`: the diagonal)",
            "metrics": ["overlap", *(group for group in GROUPS[1:] if group in self.metrics)],
        }
        if "boundary" in self.metrics:
            told["boundary"] = "mask minus its 4-neighbour erosion; hd95 max of both directed 95th percentiles (MONAI)"
            told |= {"unit": self.unit, "spacing": self.spacing, "tau": self.tau}
        if "objects" in self.metrics:
            told["objects"] = "GlaS 2015; threshold, holes filled, 4-connected (truth without labels too); Hausdorff px"
            told["min_object_area"] = self.min_object_area
        if "isic" in self.metrics:
            told["isic"] = "threshold Jaccard, 0 below 0.65"
        return told


class Scored(NamedTuple):
    """One image: its row; its mask, small; in each of BINS pixels, sum of probabilities and foreground pixels; where
    they were asked for, the counts that `src.lens` needs."""

    row: dict[str, Any]
    mask: Packed
    reliability: np.ndarray
    small: np.ndarray | None


def score_image(probs: np.ndarray, labels: np.ndarray, rules: Rules, *, lens: bool = False) -> Scored:
    """`probs` (H, W) float, P(foreground); `labels` (H, W) int, the true objects, 0 the background."""
    mask, pred = labels > 0, probs > rules.threshold
    counts = confusion(torch.from_numpy(pred)[None], torch.from_numpy(mask)[None])
    overlap = scores(counts)
    row: dict[str, Any] = {
        "height": mask.shape[0],
        "width": mask.shape[1],
        "area_fraction": float(mask.mean()),
        "pred_area_fraction": float(pred.mean()),
        "touches_border": bool(mask[[0, -1]].any() or mask[:, [0, -1]].any()),
        "n_objects": len(np.unique(labels[mask])),
        **{name: value.item() for name, value in overlap.items()},
        **dict(zip(COUNTS, counts[0].tolist(), strict=True)),
    }
    if "isic" in rules.metrics:
        row["threshold_jaccard"] = threshold_jaccard(overlap["iou"]).item()
    if "boundary" in rules.metrics:
        row |= boundary.boundary_scores(pred, mask, tau=rules.tau, spacing=rules.spacing or (1.0, 1.0))
    if "objects" in rules.metrics:
        row |= object_scores(label_objects(probs, rules.objects), labels)
    small = Packed.of(small_mask(pred))
    return Scored(row, small, _reliability(probs, mask), small_counts(probs, mask) if lens else None)


def _reliability(probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    bins = np.minimum((probs * BINS).astype(int), BINS - 1).ravel()
    weights = (None, probs.ravel().astype(np.float64), mask.ravel())
    return np.stack([np.bincount(bins, weight, minlength=BINS) for weight in weights])


def dice_curve(probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Dice of `probs` (H, W) against `mask` (H, W) bool at each of THRESHOLDS."""
    exceeded = np.searchsorted(THRESHOLDS.astype(probs.dtype), probs.ravel())  # how many thresholds lie below
    inside = np.bincount(exceeded[mask.ravel()], minlength=len(THRESHOLDS) + 1)
    outside = np.bincount(exceeded[~mask.ravel()], minlength=len(THRESHOLDS) + 1)
    tp, fp = (counts[::-1].cumsum()[::-1][1:] for counts in (inside, outside))
    counts = np.stack([tp, fp, inside.sum() - tp, outside.sum() - fp], axis=1)
    return scores(torch.from_numpy(counts))["dice"].numpy()


def choose_threshold(curves: Sequence[np.ndarray]) -> dict[str, Any]:
    """The threshold of THRESHOLDS with the highest mean of the images' `dice_curve`; of equals the nearest to 0.5."""
    means = np.mean(curves, axis=0)
    best = min(np.flatnonzero(means == means.max()), key=lambda i: abs(THRESHOLDS[i] - 0.5))
    curve = {f"{threshold:g}": float(mean) for threshold, mean in zip(THRESHOLDS, means, strict=True)}
    return {"threshold": float(THRESHOLDS[best]), "n": len(curves), "dice": curve}


def calibration(images: Sequence[Scored]) -> dict[str, Any]:
    """Expected calibration error of pixel probabilities, all pixels pooled in BINS of equal width, and its table.

    ECE = sum_b n_b/n |mean probability - share of foreground| (Guo et al., ICML 2017, for P(foreground)).
    """
    pixels, probability, foreground = np.sum([image.reliability for image in images], axis=0)
    filled = pixels > 0
    confidence, frequency = probability[filled] / pixels[filled], foreground[filled] / pixels[filled]
    ece = float((pixels[filled] / pixels.sum()) @ np.abs(confidence - frequency))
    table = np.stack([confidence, frequency, pixels[filled]], axis=1).tolist()
    return {"ece": ece, "bins": [dict(zip(("confidence", "frequency", "pixels"), row, strict=True)) for row in table]}


# ---- from rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a per_image.csv as they were written, types and all; `summarize` of a part gives its scores again.
    ValueError names a file in which a value is none."""

    def typed(name: str, value: str) -> Any:
        if name in TEXTS:
            return value
        if name == "touches_border":
            return value == "True"
        return int(value) if name in WHOLE else float(value)

    try:
        return [{name: typed(name, value) for name, value in row.items()} for row in read_csv(path)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} was changed or damaged ({error}): restore it, or evaluate the run again.") from error


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over images and pooled values of per-image rows; `n` is the number of images, None what is undefined."""
    counts = torch.tensor([[row[key] for key in COUNTS] for row in rows]).sum(0, keepdim=True)
    summary: dict[str, Any] = {
        "n": len(rows),
        **{name: _mean([row[name] for row in rows]) for name in NAMES},
        **{f"{name}_pooled": scores(counts)[name].item() for name in ("dice", "iou")},
        "area_bias": _mean([row["pred_area_fraction"] - row["area_fraction"] for row in rows]),
    }
    if "threshold_jaccard" in rows[0]:
        summary["threshold_jaccard"] = _mean([row["threshold_jaccard"] for row in rows])
    if "hd95" in rows[0]:
        summary |= boundary.summarize(rows)
    if "object_f1" in rows[0]:
        summary |= {name: _mean([row[name] for row in rows]) for name in ("object_f1", "object_dice")}
        distances = [row["object_hausdorff"] for row in rows]
        diagonals = [math.hypot(row["height"], row["width"]) for row in rows]
        summary["object_hausdorff"] = _mean([distance for distance in distances if math.isfinite(distance)])
        charged = [d if math.isfinite(d) else diagonal for d, diagonal in zip(distances, diagonals, strict=True)]
        summary["object_hausdorff_charged"] = _mean(charged)
        summary["n_undefined_objects"] = sum(not math.isfinite(distance) for distance in distances)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in summary.items()}


def strata(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`summarize` of groups of images: thirds by lesion area, at the image's border or not, by number of objects."""
    thirds, third_of = area_thirds(rows)
    border, objects = ("inside the image", "touches the border"), ("no object", "one object", "several objects")
    groups: dict[str, list[Mapping[str, Any]]] = {name: [] for name in (*thirds, *border, *objects)}
    for row, third in zip(rows, third_of, strict=True):
        groups[thirds[third]].append(row)
        groups[border[row["touches_border"]]].append(row)
        groups[objects[min(row["n_objects"], 2)]].append(row)
    return [{"stratum": name, **summarize(members)} for name, members in groups.items() if members]


def area_thirds(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str], list[int]]:
    """Names of the thirds of images by lesion area, and for each row which it is in (0, 1, 2)."""
    fractions = [row["area_fraction"] for row in rows]
    areas = np.quantile(fractions, (1 / 3, 2 / 3))
    names = f"smallest third, to {areas[0]:.3g}", f"middle third, to {areas[1]:.3g}", "largest third"
    return names, np.searchsorted(areas, fractions).tolist()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """Twelve digits; two scores compare only if they have the same."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:12]
