"""What src.predict leaves: of each image the mask, an overlay and the crops of its ROIs, written whole or not at all,
and tables that grow with every image."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from src.files import plain_cell, replacing
from src.rois import COLUMNS, PostProcess, Roi, find_rois, rle, roi_row

COLOUR = (255, 70, 70)  # of the foreground, RGB
OPACITY = 0.4
TABLES = ("images.csv", "rois.csv", "rois.json")
IMAGE_COLUMNS = (
    *("file", "status", "width", "height", "rois", "foreground"),
    *("row_spacing", "column_spacing", "unit", "mask", "reason"),
)
MOST_CROPS = 1000  # of an image: noise cut at a low threshold has a hundred thousand objects
OVERLAY_SIDE = 2048  # px; larger overlays are shrunk to it, for they are to be looked at


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """(H, W, 3) uint8: `image` tinted where `mask` (H, W) is not 0, its border drawn; large images shrunk."""
    size = at_most(image.shape, OVERLAY_SIDE)
    if size != image.shape[1::-1]:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize((mask > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    mask = (mask > 0).astype(np.uint8)
    tinted = image.copy()
    tinted[mask > 0] = COLOUR
    shown = cv2.addWeighted(tinted, opacity, image, 1 - opacity, 0)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(shown, contours, -1, COLOUR, max(1, max(size) // 400))


def crop(image: np.ndarray, roi: Roi, margin: float = 0.1) -> np.ndarray:
    """The ROI's box in native pixels, with `margin` (a part of its longer side) around it, as far as the image goes."""
    x, y, width, height = roi.bbox
    more = round(margin * max(width, height))
    return image[max(0, y - more) : y + height + more, max(0, x - more) : x + width + more]


def write_png(pixels: np.ndarray, path: Path) -> None:
    """(H, W) or (H, W, 3) RGB, uint8."""
    _write(pixels, path, ".png", [])


def write_jpeg(pixels: np.ndarray, path: Path) -> None:
    _write(pixels, path, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90])


def _write(pixels: np.ndarray, path: Path, kind: str, how: Sequence[int]) -> None:
    try:
        content = encoded(pixels, kind, how)
    except OSError as error:
        raise OSError(f"{path}: {error}") from error
    with replacing(path) as file:
        file.write(content)


def encoded(pixels: np.ndarray, kind: str, how: Sequence[int] = ()) -> bytes:
    """(H, W) or (H, W, 3) RGB, uint8, as a file of `kind` (".png", ".jpg"). OSError: too large for that."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, content = cv2.imencode(kind, bgr, how)
    if not done:
        raise OSError(f"OpenCV cannot write {pixels.shape[1]} x {pixels.shape[0]} pixels as {kind}")
    return content.tobytes()


def at_most(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Width and height, the longer at most `side`."""
    scale = min(1.0, side / max(shape[:2]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


# ---- the results of a call


@dataclass(frozen=True)
class Extras:
    """What is written beside masks and tables; `margin` around a crop, `rle` into rois.json."""

    crops: bool = True
    margin: float = 0.1
    overlays: bool = True
    rle: bool = False

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ValueError(f"margin={self.margin} must be a part of the ROI's longer side, from 0 up.")


def mask_path(output: Path, name: str) -> Path:
    return output / "masks" / f"{name}.png"


def others(output: Path, names: Sequence[str]) -> int:
    """How many masks of other images lie there, of an earlier call."""
    own = {mask_path(output, name) for name in names}
    return sum(path not in own for path in (output / "masks").rglob("*.png"))


def forget(output: Path, name: str) -> None:
    """Removes what an earlier call left of an image."""
    mask_path(output, name).unlink(missing_ok=True)
    (output / "overlays" / f"{name}.jpg").unlink(missing_ok=True)
    folder = output / "crops" / name
    for old in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(r"roi\d+\.png", old.name):
            old.unlink()


def write_image(
    pixels: np.ndarray,
    probs: np.ndarray,
    threshold: float,
    output: Path,
    name: str,
    post: PostProcess,
    spacing: Sequence[float] | None,
    unit: str,
    extras: Extras,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes mask, overlay and crops of one image; returns its record for rois.json and its rows of rois.csv."""
    labels, rois = find_rois(probs, threshold, post, spacing=spacing)
    mask = (labels > 0).astype(np.uint8) * np.uint8(255)
    write_png(mask, mask_path(output, name))
    if extras.overlays:
        write_jpeg(overlay(pixels, mask), output / "overlays" / f"{name}.jpg")
    if extras.crops:
        for roi in rois[:MOST_CROPS]:
            write_png(crop(pixels, roi, extras.margin), output / "crops" / name / f"roi{roi.id}.png")
    height, width = labels.shape
    too_many = f"crops of the {MOST_CROPS} largest of {len(rois)} ROIs only" if len(rois) > MOST_CROPS else None
    record = {
        **{"width": width, "height": height, "foreground": sum(roi.area_px for roi in rois) / (height * width)},
        **{"spacing": spacing, "unit": unit if spacing else None, "mask": f"masks/{name}.png"},
        "reason": too_many if extras.crops else None,
        "rois": [asdict(roi) | ({"segmentation": rle(labels, roi)} if extras.rle else {}) for roi in rois],
    }
    return record, [roi_row(roi, unit if spacing else None) for roi in rois]


class Tables:
    """images.csv and rois.csv, row by row, so that an interruption loses no image that was done; a context."""

    def __init__(self, output: Path):
        self.paths = [output / name for name in TABLES[:2]]
        self.files: list[IO[str]] = []

    def __enter__(self) -> "Tables":
        how: dict[str, Any] = {
            "encoding": "utf-8",
            "errors": "backslashreplace",
            "newline": "",
        }  # names may be any bytes
        for path in self.paths:
            if path.is_symlink():  # what it leads to is somebody else's
                path.unlink()
        self.files = [path.open("w", **how) for path in self.paths]
        self.writers = [
            csv.DictWriter(file, columns)
            for file, columns in zip(self.files, (IMAGE_COLUMNS, ("file", *COLUMNS)), strict=True)
        ]
        for writer in self.writers:
            writer.writeheader()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files:
            file.close()

    def add(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        rows_apart, columns_apart = record.get("spacing") or (None, None)
        flat = {**record, "row_spacing": rows_apart, "column_spacing": columns_apart}
        self.writers[0].writerow({column: _cell(flat.get(column)) for column in IMAGE_COLUMNS})
        self.writers[1].writerows({"file": plain_cell(record["file"]), **row} for row in rows)
        for file in self.files:
            file.flush()


def _cell(value: Any) -> Any:
    if isinstance(value, list):  # of ROIs
        return len(value)
    if isinstance(value, str):
        return plain_cell(value)
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value
