"""Cropping, resizing and augmenting one image with its mask, each a pure function of what it is given.

Randomness comes only from a key (seed, epoch, sample id). With DataLoader workers, albumentations 2.0.8 otherwise draws
the same stream in every worker and repeats it in every epoch; keyed, the stream is the same for 0, 1 or 8 workers,
differs every epoch and resumes exactly.
"""

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

CROPS = ("full", "lesion", "mixed")


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


def lesion_box(
    mask: Mask,
    rng: np.random.Generator,
    *,
    margin: tuple[float, float] = (0.1, 0.5),
    jitter: float = 0.1,
) -> tuple[slice, slice]:
    """A square around all foreground, as near as the image's border allows, in pixels of `mask`.

    The margin on each side is drawn from `margin`, the centre moved by up to `jitter`, both in parts of the lesion's
    longer side. A mask without foreground gives the whole image.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, height), slice(0, width)
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = longer * (1 + 2 * rng.uniform(*margin))
    shift = rng.uniform(-jitter, jitter, size=2) * longer
    centre = np.array([rows[0] + rows[-1] + 1, columns[0] + columns[-1] + 1]) / 2 + shift
    return _window(centre[0], side, height), _window(centre[1], side, width)


def _window(centre: float, side: float, limit: int) -> slice:
    """`side` pixels around `centre`, moved inside [0, limit), or all of it where it does not fit."""
    length = min(limit, max(1, round(side)))
    start = min(max(0, round(centre - side / 2)), limit - length)
    return slice(start, start + length)


def crop(image: Image, mask: Mask, mode: str, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The training crop of EMIS-Net: `full`, `lesion` (box around the lesion) or `mixed` (each sample draws one).

    Only for training: at test time a crop around the true mask would tell the network where the lesion is.
    """
    if mode not in CROPS:
        raise ValueError(f"data.crop={mode!r} is not a crop mode. Possible: {', '.join(CROPS)}.")
    if mode == "full" or (mode == "mixed" and rng.random() < 0.5):
        return image, mask
    box = lesion_box(mask, rng)
    return image[box], mask[box]


def make_augment(
    *,
    flip: float = 0.5,
    rotate: float = 0.5,
    rotate_limit: float = 90.0,
    scale: float = 0.0,
    scale_limit: float = 0.25,
    color: float = 0.0,
    color_limit: float = 0.2,
) -> A.Compose:
    """Flips and rotations as published; scale and colour jitter as options; each a probability, but for the limits.

    `rotate_limit` in degrees to either side; `scale_limit` and `color_limit` relative (0.2: by up to a fifth).
    """
    border = {"border_mode": cv2.BORDER_REFLECT_101}
    steps: Sequence[A.BasicTransform] = (
        A.HorizontalFlip(p=flip),
        A.VerticalFlip(p=flip),
        A.Rotate(limit=(-rotate_limit, rotate_limit), p=rotate, **border),
        A.Affine(scale=(1 - scale_limit, 1 + scale_limit), keep_ratio=True, p=scale, **border),
        A.ColorJitter(
            brightness=(1 - color_limit, 1 + color_limit),
            contrast=(1 - color_limit, 1 + color_limit),
            saturation=(1 - color_limit, 1 + color_limit),
            hue=(-color_limit / 4, color_limit / 4),
            p=color,
        ),
    )
    return A.Compose([step for step in steps if step.p > 0])


def augment(image: Image, mask: Mask, compose: A.Compose, key: np.random.SeedSequence) -> tuple[Image, Mask]:
    """`compose` applied with the randomness of `key` alone."""
    seed = int(key.generate_state(1)[0])
    # one stream for all steps: set_random_seed gives each the same numbers, so neither flip came without the other
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = compose(image=image, mask=mask)
    return result["image"], result["mask"]
