"""What predictors score that learn no shape: what a network has to beat before it has learnt any."""

import cv2
import numpy as np
from numpy.typing import NDArray

from src.data.synthetic.pictures import KINDS, generate
from src.data.synthetic.toolbox import Array

_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def _pairs(
    kind: str | None, numbers: range, size: tuple[int, int], seed: int
) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Image and foreground of one kind, or of all kinds in turn for None."""
    kinds = KINDS if kind is None else (kind,)
    drawn = (generate(kinds[i % len(kinds)], i, size=size, seed=seed) for i in numbers)
    return [(image, mask > 0) for image, mask in drawn]


def _channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(5, H, W) uint8: red, green, blue, grey, saturation."""
    grey = np.round(image @ _GREY).astype(np.uint8)
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
    return np.stack([*np.moveaxis(image, -1, 0), grey, saturation])


def _threshold_dice(channel: NDArray[np.uint8], truth: NDArray[np.bool_]) -> Array:
    """(2, 256) Dice of `channel <= t` and of `channel > t` for every t."""
    hit = np.bincount(channel[truth], minlength=256).cumsum()
    chosen = np.bincount(channel.ravel(), minlength=256).cumsum()
    below = 2 * hit / (chosen + hit[-1])
    above = 2 * (hit[-1] - hit) / (chosen[-1] - chosen + hit[-1])
    return np.stack([below, above])


def baselines(
    kind: str | None, *, size: tuple[int, int] = (96, 96), seed: int = 0, choose: int = 100, score: int = 60
) -> dict[str, float]:
    """Mean per-image Dice of predictors that learn no shape, on a kind or (None) on all kinds in turn.

    "constant" calls everything foreground. "threshold" is one threshold for all images on the best of red, green,
    blue, grey and saturation, either side, chosen on the first `choose` images. "otsu" picks a threshold per image on
    grey, the side chosen likewise. All are scored on the `score` images that follow.

    Raises ValueError as generate does.
    """
    tables: list[Array] = []
    otsu: list[Array] = []
    constant: list[float] = []
    for image, truth in _pairs(kind, range(choose + score), size, seed):
        channels = _channels(image)
        table = np.stack([_threshold_dice(channel, truth) for channel in channels])  # (5, 2, 256)
        cut, _ = cv2.threshold(channels[3], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        tables.append(table)
        otsu.append(table[3, :, int(cut)])
        constant.append(float(2 * truth.mean() / (1 + truth.mean())))
    best = np.unravel_index(np.mean(tables[:choose], 0).argmax(), tables[0].shape)
    side = np.mean(otsu[:choose], 0).argmax()
    return {
        "constant": float(np.mean(constant[choose:])),
        "threshold": float(np.mean(tables[choose:], 0)[best]),
        "otsu": float(np.mean(otsu[choose:], 0)[side]),
    }
