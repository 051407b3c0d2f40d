"""Small datasets in the real folder layouts: the plain one (images/ beside masks/) and that of the official archives.

Every writer takes id -> (image uint8 (H, W, 3), labels int (H, W), 0 the background), stores masks as its dataset
does, and returns the root to read from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pairs = Mapping[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]]
ISIC2018_PART_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


def example_pairs(ids: Sequence[str], size: tuple[int, int] = (24, 32)) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A noisy picture with two bright rectangles, labelled 1 and 2; four neighbours in `ids` differ in both."""
    height, width = size
    pairs = {}
    for number, id_ in enumerate(ids):
        labels = np.zeros(size, dtype=np.int32)
        labels[height // 8 : height // 2, width // 8 : width // 3 + number % 4] = 1
        labels[height // 2 : -height // 8, width // 2 : -width // 8] = 2
        noise = np.random.default_rng(number).integers(0, 40, (height, width, 3)) + 35 * (number % 4)
        pairs[id_] = ((noise + 110 * (labels > 0)[..., None]).astype(np.uint8), labels)
    return pairs


def scene(seed: int, size: tuple[int, int] = (180, 240)) -> np.ndarray:
    """Blobs of many sizes on a coloured ground, (H, W, 3) uint8: no two seeds look alike."""
    rng, (height, width) = np.random.default_rng(seed), size
    image = np.full((height, width, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(120):
        centre, axes = (int(rng.integers(width)), int(rng.integers(height))), rng.integers(3, 26, 2)
        colour = tuple(int(c) for c in rng.integers(20, 240, 3))
        cv2.ellipse(image, centre, axes.tolist(), float(rng.integers(180)), 0, 360, colour, -1)
    return cv2.GaussianBlur(image, (0, 0), 1)


def write_kvasir_seg(root: Path, official: bool, pairs: Pairs) -> Path:
    """Images and masks as JPEG, masks with three channels and ringing edges."""
    folder = root / "Kvasir-SEG" if official else root
    for id_, (image, labels) in pairs.items():
        _save(folder / "images" / f"{id_}.jpg", image, quality=95)
        _save(folder / "masks" / f"{id_}.jpg", np.repeat(_black_white(labels)[..., None], 3, axis=2), quality=95)
    if official:
        (folder / "kavsir_bboxes.json").write_text("{}")  # the archive spells it so
    return root


def write_isic2018(root: Path, official: bool, pairs: Pairs, parts: Mapping[str, Sequence[str]] | None = None) -> Path:
    """JPEG images, 0/255 PNG masks. `parts` (official only) says which ids lie in which archive folder; by default the
    last id is test, the one before it val, the others train."""
    ids = list(pairs)
    parts = parts or {"train": ids[:-2], "val": ids[-2:-1], "test": ids[-1:]}
    folders = {id_: (root / "images", root / "masks") for id_ in ids}
    if official:
        for part, members in parts.items():
            images = root / f"ISIC2018_Task1-2_{ISIC2018_PART_NAMES[part]}_Input"
            masks = root / f"ISIC2018_Task1_{ISIC2018_PART_NAMES[part]}_GroundTruth"
            for folder in (images, masks):
                folder.mkdir(parents=True)
                for name in ("LICENSE.txt", "ATTRIBUTION.txt"):
                    (folder / name).write_text("CC BY-NC 4.0\n")
            folders.update({id_: (images, masks) for id_ in members})
    for id_, (image, labels) in pairs.items():
        images, masks = folders[id_]
        _save(images / f"{id_}.jpg", image, quality=95)
        _save(masks / f"{id_}_segmentation.png", _black_white(labels))
        if official:
            _save(images / f"{id_}_superpixels.png", image)
    return root


def write_glas(root: Path, official: bool, pairs: Pairs, patients: Mapping[str, str] | None = None) -> Path:
    """BMP images and instance maps, with Grade.csv: `patients` (id -> patient), or by default two images a patient."""
    folder = root / "Warwick QU Dataset (Released 2016_07_08)" if official else root
    images, masks = (folder, folder) if official else (folder / "images", folder / "masks")
    for id_, (image, labels) in pairs.items():
        _save(images / f"{id_}.bmp", image)
        _save(masks / f"{id_}_anno.bmp", labels.astype(np.uint8))
    patients = patients or {id_: str(number // 2 + 1) for number, id_ in enumerate(pairs)}
    rows = [f"{patient},{id_}, benign" for id_, patient in patients.items()]  # the blank before the grade is real
    (folder / "Grade.csv").write_text("\n".join(["patient ID,name,grade", *rows, ""]))
    return root


def write_folder(
    root: Path,
    pairs: Pairs,
    *,
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str = "",
    image_type: str = ".jpg",
    mask_type: str = ".png",
) -> Path:
    """Any tree; an id with slashes lies in nested folders. Masks hold the labels as they are."""
    for id_, (image, labels) in pairs.items():
        _save(root / images / f"{id_}{image_type}", image)
        _save(root / masks / f"{id_}{mask_suffix}{mask_type}", labels.astype(np.uint8))
    return root


def _black_white(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    return np.where(labels > 0, 255, 0).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
