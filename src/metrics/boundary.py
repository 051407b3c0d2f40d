"""Distances between the boundaries of a predicted and a true mask, per image.

The boundary of a mask is the mask minus its 4-neighbour erosion. Beyond the image all is outside: the pixels of a mask
along the image's edge are boundary (as in MONAI and medpy). P and G are the boundary pixels of prediction and truth,
D(A->B) the distances of A's pixels to the nearest of B's, between pixel centres:

- `hd`    max of D(P->G) and D(G->P) together
- `hd95`  max of the two directed 95th percentiles, linear between ranks. This is MONAI's; medpy takes one percentile of
          both directions pooled, google's surface-distance weights each element by its length. They do not compare.
- `assd`  mean of D(P->G) and D(G->P) together (MONAI's with `symmetric=True`)
- `nsd`   share of P and G that lies within `tau` of the other: surface Dice (Nikolov et al. 2018, arXiv:1809.04430),
          counted in boundary pixels (MONAI's with `use_subvoxels=False`)

Both masks empty: distances 0 and nsd 1, for the masks agree. One empty: nsd 0, distances undefined (NaN).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from scipy.spatial import KDTree

DISTANCES = ("hd", "hd95", "assd")


def boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask that have a 4-neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def boundary_scores(
    pred: Bool[np.ndarray, "h w"],
    target: Bool[np.ndarray, "h w"],
    *,
    tau: float,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> dict[str, float]:
    """`hd`, `hd95`, `assd` and `nsd` of one image at native size, and `diagonal`, which `summarize` charges.

    `spacing` is the distance of neighbouring rows and of neighbouring columns in mm or um; tau, distances and diagonal
    are in the same unit, pixels by default.

    Raises:
        ValueError: masks that are not two boolean (H, W) of one shape, a spacing that is not two positive numbers, or a
            negative tau.
    """
    _check(pred, target, tau, spacing)
    diagonal = math.hypot(pred.shape[0] * spacing[0], pred.shape[1] * spacing[1])
    if not pred.any() and not target.any():
        return {"hd": 0.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0, "diagonal": diagonal}
    if not pred.any() or not target.any():
        return {"hd": math.nan, "hd95": math.nan, "assd": math.nan, "nsd": 0.0, "diagonal": diagonal}
    box = ndimage.find_objects((pred | target).astype(np.uint8))[0]  # exact: all outside it is outside both masks
    points = [np.argwhere(boundary(mask[box])) * np.array(spacing) for mask in (pred, target)]
    to_target, to_pred = KDTree(points[1]).query(points[0])[0], KDTree(points[0]).query(points[1])[0]
    both = np.concatenate([to_target, to_pred])
    return {
        "hd": float(both.max()),
        "hd95": float(max(np.percentile(to_target, 95), np.percentile(to_pred, 95))),
        "assd": float(both.mean()),
        # In float32 a distance of 3 x 0.1 is within 0.3, as on paper and in MONAI; in float64 it is not.
        "nsd": float((both.astype(np.float32) <= np.float32(tau)).mean()),
        "diagonal": diagonal,
    }


def summarize(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the rows of `boundary_scores`: what a table shows.

    `hd`, `hd95`, `assd`: over the images where they are defined, NaN if there is none. `n_undefined`: the other images.
    `hd_charged`, ...: over all images, where an undefined distance costs the image's diagonal. `nsd`: over all images.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no rows to summarize: score at least one image.")
    summary: dict[str, float] = {}
    for name in DISTANCES:
        defined = [row[name] for row in rows if not math.isnan(row[name])]
        charged = [row["diagonal"] if math.isnan(row[name]) else row[name] for row in rows]
        summary[name] = sum(defined) / len(defined) if defined else math.nan
        summary[f"{name}_charged"] = sum(charged) / len(rows)
    summary["nsd"] = sum(row["nsd"] for row in rows) / len(rows)
    summary["n_undefined"] = sum(math.isnan(row["hd"]) for row in rows)
    return summary


def _check(pred: np.ndarray, target: np.ndarray, tau: float, spacing: tuple[float, float]) -> None:
    if pred.dtype != bool or target.dtype != bool:
        raise ValueError(f"masks must be boolean, got {pred.dtype} and {target.dtype}. Threshold them first.")
    if pred.ndim != 2 or pred.shape != target.shape:
        raise ValueError(f"masks must be two (H, W) of one shape, got {pred.shape}, {target.shape}. Score one image.")
    if len(spacing) != 2 or not all(0 < step < math.inf for step in spacing):
        raise ValueError(f"spacing must be two positive numbers (row, column), got {spacing}. Leave it out for pixels.")
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be a distance of at least 0, got {tau}. Give it in the unit of the spacing.")
