"""Overlapping windows over an image, and the one plane that their answers make: memory grows with the plane alone."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Window = tuple[slice, slice]  # rows and columns of an image
SIGMA = 1 / 8  # of the Gaussian that weighs a window's pixels, in parts of its side: as in nnU-Net and MONAI
LEAST = 1e-3  # of the weights, the largest being about 1: no pixel's sum is lost to rounding


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of windows, evenly spread, that cover `length` with at least `overlap` (a part of the window)."""
    step = max(1, int(window * (1 - overlap)))
    number = math.ceil(max(0, length - window) / step) + 1
    return [round(i * (length - window) / max(1, number - 1)) for i in range(number)]


def gaussian(height: int, width: int) -> Float[Tensor, "h w"]:
    """Weights of a window's pixels: highest in the middle, where the network sees the most around them."""
    lines = []
    for side in (height, width):
        x = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        lines.append(torch.exp(-(x**2) / (2 * (SIGMA * side) ** 2)))
    return torch.outer(*lines).clamp_min(LEAST)


def blend(
    logits_of: Callable[[Sequence[Window]], Sequence[Tensor]],
    shape: tuple[int, int],
    window: tuple[int, int],
    *,
    overlap: float,
    batch_size: int,
    done: Callable[[int], object] = lambda n: None,
) -> Float[Tensor, "1 1 h w"]:
    """The weighted mean of all windows' logits, each brought to its window's native pixels, bilinear.

    One band of windows is summed up at a time, so beside the result only `window` rows of the image are held.

    Args:
        logits_of: some windows -> logits (1, 1, h', w') of each.
        shape, window: (H, W) of the image and of each window, which is not larger.
        done: told how many windows were worked off, as they are.
    """
    (height, width), (rows, columns) = shape, window
    tops, lefts = starts(height, rows, overlap), starts(width, columns, overlap)
    weights = gaussian(rows, columns)
    plane = torch.empty(shape)
    total, weight = torch.zeros(rows, width), torch.zeros(rows, width)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for some in _batches(lefts, batch_size):
            windows = [(slice(top, top + rows), slice(left, left + columns)) for left in some]
            for left, logits in zip(some, logits_of(windows), strict=True):
                native = F.interpolate(logits, size=window, mode="bilinear", align_corners=False)[0, 0].cpu()
                total[:, left : left + columns] += native * weights
                weight[:, left : left + columns] += weights
            done(len(some))
        finished = following - top  # rows that no later window reaches
        plane[top:following] = total[:finished] / weight[:finished]
        for band in (total, weight):
            band[: rows - finished] = band[finished:].clone()
            band[rows - finished :] = 0
    return plane[None, None]


def number_of_windows(shape: tuple[int, int], window: tuple[int, int], overlap: float) -> int:
    return math.prod(len(starts(length, side, overlap)) for length, side in zip(shape, window, strict=True))


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
