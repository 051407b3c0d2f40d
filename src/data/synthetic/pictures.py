"""A picture and its mask by kind and number, and a sheet of them to look at."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from src.data.synthetic.gland import draw_gland
from src.data.synthetic.lesion import draw_lesion
from src.data.synthetic.polyp import draw_polyp
from src.data.synthetic.toolbox import Array, Canvas, Labels, Rng, to_uint8

KINDS = ("lesion", "polyp", "gland")
MIN_SIDE = 32
_PAINTERS: dict[str, Callable[[Rng, Canvas], tuple[Array, Labels]]] = {
    "lesion": draw_lesion,
    "polyp": draw_polyp,
    "gland": draw_gland,
}


def generate(
    kind: str, index: int, *, size: tuple[int, int] = (256, 256), seed: int = 0
) -> tuple[NDArray[np.uint8], Labels]:
    """Draw picture number `index` of a kind; the same arguments always give the same bytes.

    Returns the image, (H, W, 3) uint8 RGB, and its mask, (H, W): 0 is background; for "lesion" and "polyp" (uint8)
    1 is foreground; for "gland" (uint16) 1..n number the glands, each of them one connected piece.

    Raises ValueError for a kind not in KINDS, a negative index or seed, or a side under 32 pixels.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; possible: {', '.join(KINDS)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative; received index={index}, seed={seed}")
    if min(size) < MIN_SIDE:
        raise ValueError(f"both sides must be at least {MIN_SIDE} pixels; received size={size}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, KINDS.index(kind), index]))
    image, mask = _PAINTERS[kind](rng, Canvas(*size))
    return to_uint8(rng, image, grain=0.012), mask


def _outlined(image: NDArray[np.uint8], mask: Labels) -> NDArray[np.uint8]:
    """The image with a green line along the border of every labelled region."""
    drawn = image.copy()
    for label in range(1, int(mask.max()) + 1):
        contours, _ = cv2.findContours((mask == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, (0, 255, 60), max(1, min(mask.shape) // 128))
    return drawn


def sheet(path: str | Path, *, n: int = 6, size: tuple[int, int] = (256, 256), seed: int = 0) -> Path:
    """Write a PNG: for each kind a row of `n` images and, below, the same images with their masks outlined.

    Returns the path. Raises ValueError as generate does, OSError if the file cannot be written.
    """
    rows = []
    for kind in KINDS:
        pairs = [generate(kind, i, size=size, seed=seed) for i in range(n)]
        rows.append(np.hstack([image for image, _ in pairs]))
        rows.append(np.hstack([_outlined(image, mask) for image, mask in pairs]))
    _, png = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png.tobytes())
    return target
