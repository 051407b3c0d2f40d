"""Cropping, resizing and augmenting one image with its mask, each a pure function of what it is given.

Randomness comes only from a key (seed, epoch, sample id). With DataLoader workers, albumentations 2.0.8 otherwise draws
the same stream in every worker and repeats it in every epoch; keyed, the stream is the same for 0, 1 or 8 workers,
differs every epoch and resumes exactly.
"""

import math
import os
import random
import zlib
from collections.abc import Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the registry for a newer version (2 s)

import albumentations as A
import cv2
import numpy as np

Image = np.ndarray  # (H, W, 3) uint8
Mask = np.ndarray  # (H, W) uint8, 0 or 1

# crop mode of training -> the views it draws from
CROPS = {"full": ("full",), "lesion": ("lesion",), "mixed": ("full", "lesion")}
MARGIN = (0.1, 0.5)  # around a lesion on each side, in parts of its longer side
LEAST_BLUR = 0.1  # px: no blur to speak of
JITTER = 0.1  # of the crop's centre, likewise


def sample_key(seed: int, epoch: int, sample_id: str) -> np.random.SeedSequence:
    """The one source of randomness of a sample in an epoch."""
    return np.random.SeedSequence([seed, epoch, zlib.crc32(sample_id.encode())])


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """To (H, W): area averaging where it shrinks, which does not alias, bilinear where it grows."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] * image.shape[1] > size[0] * size[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """To (H, W), nearest pixel: the values stay 0 and 1."""
    if mask.shape == size:
        return mask
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def view(image: Image, mask: Mask, kind: str, size: tuple[int, int]) -> tuple[Image, Mask]:
    """What training reads of one native image, and what the cache keeps: a pure function of the pixels.

    "full": all of it, at `size`. "lesion": the part of the image that a `lesion_box` may show, in native pixels; where
    even the smallest box has over twice `size`, shrunk (area average) until it has just that, so that no crop is ever
    enlarged from, or visibly blurred by, a smaller copy.
    """
    if kind == "full":
        return resize_image(image, size), resize_mask(mask, size)
    region = _lesion_region(mask)
    image, mask = np.ascontiguousarray(image[region]), np.ascontiguousarray(mask[region])  # lets go of the whole
    rows, columns = _extent(mask)
    smallest = max(rows[1] - rows[0], columns[1] - columns[0]) * (1 + 2 * MARGIN[0])
    scale = 2 * max(size) / smallest
    if scale >= 1:
        return image, mask
    shrunk = (max(1, round(mask.shape[0] * scale)), max(1, round(mask.shape[1] * scale)))
    return resize_image(image, shrunk), resize_mask(mask, shrunk)


def lesion_box(mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
    """A square around all foreground, as near as the image's border allows, in pixels of `mask`.

    The margin on each side is drawn from MARGIN, the centre moved by up to JITTER, both in parts of the lesion's longer
    side. A mask without foreground gives the whole image.
    """
    height, width = mask.shape
    if not mask.any():
        return slice(0, height), slice(0, width)
    rows, columns = _extent(mask)
    longer = max(rows[1] - rows[0], columns[1] - columns[0])
    side = longer * (1 + 2 * rng.uniform(*MARGIN))
    shift = rng.uniform(-JITTER, JITTER, size=2) * longer
    centre = np.array([sum(rows), sum(columns)]) / 2 + shift
    return _window(centre[0], side, height), _window(centre[1], side, width)


def _extent(mask: Mask) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last row, and column, that hold foreground; all of them where there is none."""
    spans = []
    for axis in (1, 0):
        hit = np.flatnonzero(mask.any(axis=axis))
        spans.append((int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, mask.shape[1 - axis]))
    return spans[0], spans[1]


def _window(centre: float, side: float, limit: int) -> slice:
    """`side` pixels around `centre`, moved inside [0, limit), or all of it where it does not fit."""
    length = min(limit, max(1, round(side)))
    start = min(max(0, round(centre - side / 2)), limit - length)
    return slice(start, start + length)


def _lesion_region(mask: Mask) -> tuple[slice, slice]:
    """What all possible boxes of `lesion_box` cover together: a box drawn in it lies where it would in the image."""
    spans = _extent(mask)
    longer = max(last - first for first, last in spans)
    largest = math.ceil(longer * (1 + 2 * MARGIN[1])) + 1  # and one for rounding, here and below
    reach = longer * (0.5 + MARGIN[1] + JITTER) + 1
    region = []
    for (first, last), limit in zip(spans, mask.shape, strict=True):
        centre = (first + last) / 2
        # boxes that cross the image's border are moved inside, and reach further on the other side
        start = max(0, min(math.floor(centre - reach), limit - largest))
        region.append(slice(start, min(limit, max(math.ceil(centre + reach), largest))))
    return region[0], region[1]


def draw_kind(crop: str, rng: np.random.Generator) -> str:
    """Which view a training sample takes in crop mode `full`, `lesion` or `mixed` (each sample draws one of both).

    Lesion crops are for training only: at test time a crop around the true mask would tell where the lesion is.
    """
    return ("full" if rng.random() < 0.5 else "lesion") if crop == "mixed" else crop


def make_augment(
    *,
    flip: float = 0.5,
    rotate: float = 0.5,
    rotate_limit: float = 90.0,
    scale: float = 0.0,
    scale_limit: float = 0.25,
    distort: float = 0.0,
    distort_limit: float = 0.3,
    color: float = 0.0,
    color_limit: float = 0.2,
    blur: float = 0.0,
    blur_limit: float = 1.5,
) -> A.Compose:
    """Flips and rotations as published; scale, grid distortion, colour jitter and blur as options; each a
    probability, but for the limits.

    `rotate_limit` in degrees to either side; `scale_limit` and `color_limit` relative (0.2: by up to a fifth);
    `distort_limit` relative to the cells of a 4 x 4 grid whose lines are moved; `blur_limit` the largest standard
    deviation of the Gaussian, in px at training size.

    Raises ValueError for a distort_limit outside 0..1 and a blur_limit below LEAST_BLUR.
    """
    if not 0 <= distort_limit <= 1:
        raise ValueError(f"data.augment.distort_limit={distort_limit} must be from 0 to 1, in parts of a grid's cell.")
    if blur_limit < LEAST_BLUR:
        raise ValueError(f"data.augment.blur_limit={blur_limit} must be at least {LEAST_BLUR} px; blur=0 has none.")
    border = {"border_mode": cv2.BORDER_REFLECT_101}
    steps: Sequence[A.BasicTransform] = (
        A.HorizontalFlip(p=flip),
        A.VerticalFlip(p=flip),
        A.Rotate(limit=(-rotate_limit, rotate_limit), p=rotate, **border),
        A.Affine(scale=(1 - scale_limit, 1 + scale_limit), keep_ratio=True, p=scale, **border),
        A.GridDistortion(num_steps=4, distort_limit=(-distort_limit, distort_limit), p=distort, **border),
        A.ColorJitter(
            brightness=(1 - color_limit, 1 + color_limit),
            contrast=(1 - color_limit, 1 + color_limit),
            saturation=(1 - color_limit, 1 + color_limit),
            hue=(-color_limit / 4, color_limit / 4),
            p=color,
        ),
        A.GaussianBlur(sigma_limit=(LEAST_BLUR, blur_limit), blur_limit=0, p=blur),
    )
    return A.Compose([step for step in steps if step.p > 0])


def mix_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """The box that CutMix takes from another image: its part of the area is uniform in 0..1, its centre anywhere, and
    what would lie outside is cut off (Yun et al., ICCV 2019, with alpha = 1)."""
    side = math.sqrt(rng.uniform())
    box = []
    for length in size:
        centre, half = rng.uniform(0, length), side * length / 2
        box.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
    return box[0], box[1]


def augment(image: Image, mask: Mask, compose: A.Compose, key: np.random.SeedSequence) -> tuple[Image, Mask]:
    """`compose` applied with the randomness of `key` alone."""
    seed = int(key.generate_state(1)[0])
    # one stream for all steps: set_random_seed gives each the same numbers, so neither flip came without the other
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = compose(image=image, mask=mask)
    return result["image"], result["mask"]
