"""Pictures of a run: its curves, and a sheet of its best, median and worst masks."""

import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np

if "ipykernel" not in sys.modules:  # a notebook shows figures in its cells
    matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from src.files import replacing

TRUTH, PRED = (64, 220, 90), (255, 70, 70)  # green and red, RGB
TILE = 256
plt.rcParams["text.parse_math"] = False  # names may hold a $


def save_figure(figure: Figure, path: Path, *, dpi: int) -> None:
    """Closes the figure; the file is whole or as it was before (`src.files.replacing`), its kind that of the name."""
    try:
        with replacing(path) as file:
            figure.savefig(file, dpi=dpi, format=path.suffix[1:])
    finally:
        plt.close(figure)


def plot_curves(history: Sequence[Mapping[str, str]], path: Path, monitor: str, best_epoch: int) -> None:
    """Loss, Dice and learning rate over epochs, with the best epoch by `monitor` (counted from 0) marked."""
    epochs = [int(row["epoch"]) + 1 for row in history]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    panels = (("loss", ("train/loss", "val/loss")), ("dice", ("train/dice", "val/dice")), ("learning rate", ("lr",)))
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(epochs, [float(row[name]) for row in history], marker=".", label=name)
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    value = next(float(row[monitor]) for row in history if int(row["epoch"]) == best_epoch)
    axes[0 if monitor.endswith("loss") else 1].axvline(best_epoch + 1, color="grey", linestyle=":")
    figure.suptitle(f"best {monitor} {value:.4f} in epoch {best_epoch + 1}")
    save_figure(figure, path, dpi=110)


def outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int = 2) -> np.ndarray:
    """A copy of `image` with the border of `mask` drawn in `colour`."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), contours, -1, colour, width)


def plot_overlays(groups: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, title: str) -> None:
    """One row of tiles per group ("worst", "median", "best"); each sample has image, mask, pred, id and dice."""
    columns = max(len(samples) for samples in groups.values())
    figure, axes = plt.subplots(
        len(groups), columns, figsize=(2.6 * columns, 2.9 * len(groups)), layout="constrained", squeeze=False
    )
    for row, (name, samples) in zip(axes, groups.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, sample in zip(row, samples, strict=False):
            axis.imshow(tile(sample))
            axis.set_title(f"{name}  dice {sample['dice']:.3f}\n{sample['id']}", fontsize=8)
    figure.suptitle(f"{title}: truth green, prediction red", fontsize=10)
    save_figure(figure, path, dpi=110)


def tile(sample: Mapping[str, Any]) -> np.ndarray:
    """The image at TILE px with the outlines of its `mask` and its `pred`, which may be smaller than the image."""
    image = sample["image"]
    size = _fitted(image, TILE)
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for key, colour in (("mask", TRUTH), ("pred", PRED)):
        shown = outline(shown, cv2.resize(sample[key].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), colour)
    return shown


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """A smaller copy whose longer side is `side`; a small image as it is."""
    size = _fitted(image, min(side, max(image.shape[:2])))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def jpeg_url(image: np.ndarray) -> str:
    """(H, W, 3) uint8 RGB as a data URL, for pages that fetch nothing."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    """Width and height with `side` as the longer one."""
    scale = side / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
