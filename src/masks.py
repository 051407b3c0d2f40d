"""The masks of a run's scored images, small, so that a report can lay them over each other without the network.

    masks.npz   ids, parts (n,) str; shapes (n, 2) height and width; bits: the masks' rows packed, one after another

Scores never come from these: they are made at native size, and stand in per_image.csv.
"""

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from src.files import replacing

SIDE = 256  # px, the longer side at most: 88 masks take about 50 kB
FILE = "masks.npz"
MOST_BYTES = 2**31  # unpacked: of some hundred thousand images


class Packed(NamedTuple):
    """A mask of `shape` (h, w), its rows as bits one after another: 8 kB of an image, where bools would be 64."""

    shape: tuple[int, ...]
    bits: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "Packed":
        """`mask` (h, w) bool."""
        return cls(mask.shape, np.packbits(mask))


def small_mask(pred: np.ndarray) -> np.ndarray:
    """(H, W) bool, shrunk to SIDE: a pixel is foreground where at least half of what it covers is."""
    scale = min(1, SIDE / max(pred.shape))
    size = max(1, round(pred.shape[1] * scale)), max(1, round(pred.shape[0] * scale))
    covered = cv2.resize(pred.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    return covered >= 128


def write_masks(path: Path, rows: Iterable[Mapping[str, Any]], masks: Sequence[Packed]) -> None:
    """`rows` are those of per_image.csv, one of `masks` (of `small_mask`) each."""
    rows = list(rows)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            ids=np.array([row["id"] for row in rows], dtype=str),
            parts=np.array([row["part"] for row in rows], dtype=str),
            shapes=np.array([mask.shape for mask in masks], dtype=np.int32).reshape(-1, 2),
            bits=np.concatenate([mask.bits for mask in masks] or [np.empty(0, np.uint8)]),
        )


@dataclass(frozen=True)
class Masks:
    """Masks of some images in the order of `ids`: image i is `bits[starts[i]:starts[i + 1]]`, of `shapes[i]`."""

    ids: Sequence[str]
    shapes: np.ndarray
    bits: np.ndarray
    starts: np.ndarray

    def mask(self, id_: str) -> np.ndarray:
        """(h, w) bool."""
        i = list(self.ids).index(id_)
        height, width = self.shapes[i].tolist()
        packed = self.bits[self.starts[i] : self.starts[i + 1]]
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)


def read_masks(path: Path, part: str) -> Masks:
    """The masks of one part, by id. ValueError names a file that does not hold what it should."""
    try:
        with zipfile.ZipFile(path) as archive:  # its own word is enough: numpy reads no more of an entry than that
            if (size := sum(entry.file_size for entry in archive.infolist())) > MOST_BYTES:
                raise ValueError(f"it would unpack to {size:,} bytes, the limit is {MOST_BYTES:,}")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            ids, parts, shapes, bits = (held[key] for key in ("ids", "parts", "shapes", "bits"))
        lengths = -(-shapes.prod(axis=1) // 8)
        if len(ids) != len(parts) or len(ids) != len(shapes) or lengths.sum() != len(bits):
            raise ValueError("its arrays do not belong together")
    except (OSError, KeyError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no masks ({type(error).__name__}: {error}).") from error
    ends = lengths.cumsum()
    wanted = np.flatnonzero(parts == part)
    return _by_id([(str(ids[i]), shapes[i], bits[ends[i] - lengths[i] : ends[i]]) for i in wanted])


def joined(parts: Sequence[Masks]) -> Masks:
    """The masks of several, by id."""
    return _by_id(
        [
            (id_, part.shapes[i], part.bits[part.starts[i] : part.starts[i + 1]])
            for part in parts
            for i, id_ in enumerate(part.ids)
        ]
    )


def _by_id(masks: list[tuple[str, np.ndarray, np.ndarray]]) -> Masks:
    """Of id, shape and bits of each."""
    masks = sorted(masks, key=lambda mask: mask[0])
    bits = [packed for _, _, packed in masks]
    return Masks(
        [id_ for id_, _, _ in masks],
        np.array([shape for _, shape, _ in masks], dtype=np.int32).reshape(-1, 2),
        np.concatenate(bits or [np.empty(0, np.uint8)]),
        np.cumsum([0, *map(len, bits)]),
    )


def changes(a: Masks, b: Masks) -> np.ndarray:
    """1 - IoU of each image's two masks (images,); 0 where both are empty. ValueError for masks of other images."""
    if list(a.ids) != list(b.ids) or not np.array_equal(a.shapes, b.shapes):
        raise ValueError("masks of different images do not compare.")
    both, either = (
        np.add.reduceat(np.bitwise_count(bits).astype(np.int64), a.starts[:-1])
        for bits in (a.bits & b.bits, a.bits | b.bits)
    )
    return 1 - np.where(either > 0, both / np.maximum(either, 1), 1.0)
