"""Regions of interest: from a probability map to objects, each with its place, size, shape, confidence and outline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

COLUMNS = (  # of `roi_row`
    *("roi", "x", "y", "width", "height", "area_px", "area", "area_unit", "centroid_x", "centroid_y"),
    *(
        "equivalent_diameter",
        "diameter_unit",
        "eccentricity",
        "solidity",
        "confidence_mean",
        "confidence_min",
        "contour",
    ),
)
Point = tuple[int, int]  # x (column), y (row), of a pixel's centre, the first pixel being 0, 0


@dataclass(frozen=True)
class PostProcess:
    """What is done to a mask before it is told into objects; nothing unless asked for, so that masks are those scored.

    fill_holes: background that no path of 4-neighbours joins to the image's edge becomes foreground.
    min_area: objects of fewer pixels become background.
    largest_only: only the object of most pixels stays.
    """

    fill_holes: bool = False
    min_area: int = 0
    largest_only: bool = False

    def __post_init__(self) -> None:
        if self.min_area < 0:
            raise ValueError(f"min_area={self.min_area} must be at least 0 pixels.")
        for name in ("fill_holes", "largest_only"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)} is neither true nor false.")

    def told(self) -> str | None:
        """In words, None for nothing."""
        done = ["holes filled"] if self.fill_holes else []
        done += [f"objects below {self.min_area} px dropped"] if self.min_area else []
        done += ["largest object only"] if self.largest_only else []
        return ", ".join(done) or None


@dataclass(frozen=True)
class Roi:
    """One object, connected through 4-neighbours.

    bbox: x, y, width, height, in px, as in COCO.
    area: in `unit`^2 where the spacing is known, else None; likewise `equivalent_diameter`, of the disc of equal area,
        is in `unit` where it is known, else in px.
    centroid: x, y, in px.
    eccentricity: of the ellipse with the same second moments, 0 (circle) to below 1, in physical proportions where the
        spacing is known.
    solidity: area over that of the convex hull of the pixels' squares, 0 to 1.
    confidence_mean, confidence_min: of P(foreground) over its pixels; in filled holes it may lie below the threshold.
    contour: the outer outline through the centres of the border's pixels; holes are in the mask, not here.
    """

    id: int
    bbox: tuple[int, int, int, int]
    area_px: int
    area: float | None
    centroid: tuple[float, float]
    equivalent_diameter: float
    eccentricity: float
    solidity: float
    confidence_mean: float
    confidence_min: float
    contour: list[Point]


def find_rois(
    probs: Float[np.ndarray, "h w"],
    threshold: float,
    post: PostProcess = PostProcess(),
    *,
    spacing: Sequence[float] | None = None,
) -> tuple[Int[np.ndarray, "h w"], list[Roi]]:
    """Labels (0 background, else a Roi's id) and the objects, the largest first, where the probability exceeds
    `threshold`.

    `spacing`: distance of neighbouring rows and of neighbouring columns, in whatever unit areas shall have.
    ValueError: a spacing that is not two positive numbers.
    """
    rows, columns = checked_spacing(spacing) or (1.0, 1.0)
    labels, boxes = _label(_mask(probs > threshold, post), post)
    found = []
    for number, (x, y, width, height, area_px) in enumerate(boxes, start=1):
        box = (slice(y, y + height), slice(x, x + width))
        inside = labels[box] == number
        values = probs[box][inside]
        moments = cv2.moments(inside.astype(np.uint8), binaryImage=True)
        centroid = (x + moments["m10"] / area_px, y + moments["m01"] / area_px)
        contour = _outline(inside)
        found.append(
            Roi(
                id=number,
                bbox=(x, y, width, height),
                area_px=area_px,
                area=area_px * rows * columns if spacing is not None else None,
                centroid=centroid,
                equivalent_diameter=sqrt(4 * area_px * rows * columns / pi),
                eccentricity=_eccentricity(moments, rows, columns),
                solidity=area_px / _hull_area(contour),
                confidence_mean=float(values.mean(dtype=np.float64)),
                confidence_min=float(values.min()),
                contour=[(x + int(i), y + int(j)) for i, j in contour],
            )
        )
    return labels, found


def checked_spacing(spacing: float | Sequence[float] | None) -> tuple[float, float] | None:
    """(rows, columns) of one number or two. ValueError: not positive."""
    if spacing is None:
        return None
    try:
        values = [spacing] * 2 if isinstance(spacing, int | float) else list(spacing)
        rows, columns = (0.0 if isinstance(value, bool) else float(value) for value in values)
    except (TypeError, ValueError):
        rows = columns = 0.0
    if not (0 < rows < float("inf") and 0 < columns < float("inf")):
        raise ValueError(
            f"spacing={spacing} must be the distance of neighbouring pixels, or of rows and of columns, as in 0.5 or "
            "[0.5,0.4]."
        )
    return rows, columns


def roi_row(roi: Roi, unit: str | None) -> dict[str, Any]:
    """A flat row for a table; `unit` of the spacing ("mm", "um"), None where it is not known."""
    values = (
        *(roi.id, *roi.bbox, roi.area_px, "" if roi.area is None else _short(roi.area), f"{unit}2" if unit else ""),
        *(round(roi.centroid[0], 2), round(roi.centroid[1], 2), _short(roi.equivalent_diameter), unit or "px"),
        *(round(value, 4) for value in (roi.eccentricity, roi.solidity, roi.confidence_mean, roi.confidence_min)),
        " ".join(f"{x},{y}" for x, y in roi.contour),
    )
    return dict(zip(COLUMNS, values, strict=True))


def rle(labels: Int[np.ndarray, "h w"], roi: Roi) -> Mapping[str, Any]:
    """COCO's run-length encoding, uncompressed: runs of 0 and 1 in turn, column by column; pycocotools'
    `mask.frPyObjects(rle, h, w)` compresses it."""
    height, width = labels.shape
    x, _, columns, _ = roi.bbox
    inside = (labels[:, x : x + columns] == roi.id).ravel(order="F")
    changes = np.flatnonzero(np.diff(inside, prepend=False, append=False)) + x * height
    counts = np.diff(changes, prepend=0, append=height * width)
    return {"size": [height, width], "counts": counts.tolist() if counts[-1] else counts[:-1].tolist()}


# ---- parts of find_rois


def _mask(mask: Bool[np.ndarray, "h w"], post: PostProcess) -> Bool[np.ndarray, "h w"]:
    if not post.fill_holes:
        return mask
    _, background = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    reaches_edge = np.zeros(int(background.max()) + 1, bool)
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        reaches_edge[edge] = True
    reaches_edge[0] = False  # the foreground's label here
    return ~reaches_edge[background]


def _label(
    mask: Bool[np.ndarray, "h w"], post: PostProcess
) -> tuple[Int[np.ndarray, "h w"], list[tuple[int, int, int, int, int]]]:
    """Labels 1, 2, ... by falling area, and x, y, width, height, area of each."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = [i for i in np.argsort(-areas, kind="stable").tolist() if areas[i] >= post.min_area]
    order = order[:1] if post.largest_only else order
    renamed = np.zeros(number, np.int32)
    renamed[np.array(order, int) + 1] = np.arange(1, len(order) + 1)
    return renamed[labels], [tuple(int(value) for value in stats[i + 1, :5]) for i in order]  # type: ignore[misc]


def _outline(inside: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 2"]:
    """x, y of the outer outline, in the box; straight stretches by their ends."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return contours[0][:, 0]  # one object, joined through 4-neighbours: one outer outline


def _eccentricity(moments: Mapping[str, float], rows: float, columns: float) -> float:
    """From central second moments, each pixel a square and not a point: 1/12 more, as in Matlab."""
    xx, yy = moments["mu20"] / moments["m00"] + 1 / 12, moments["mu02"] / moments["m00"] + 1 / 12
    xx, yy, xy = xx * columns**2, yy * rows**2, moments["mu11"] / moments["m00"] * rows * columns
    spread = sqrt(((xx - yy) / 2) ** 2 + xy**2)
    largest, smallest = (xx + yy) / 2 + spread, (xx + yy) / 2 - spread
    return sqrt(max(0.0, 1 - smallest / largest))


def _hull_area(contour: Int[np.ndarray, "n 2"]) -> float:
    """px, of the convex hull of the squares around the outline's pixels: never less than the object's area."""
    corners = np.concatenate([contour + np.array(shift) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return cv2.contourArea(cv2.convexHull(corners.astype(np.int32)))


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")
