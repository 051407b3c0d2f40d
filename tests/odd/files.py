"""What an odd file is, and the writers that all of them are made with."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import dicoms, hostile

Write = Callable[[Path], object]
EXACT, LOSSY = 0, 12  # greatest difference of a value from the truth
_ROWS, _COLUMNS = np.mgrid[:30, :40]
# smooth, so that a JPEG comes near it, and unlike any turn or reflection of itself
PICTURE = np.stack([_ROWS * 5 + 20, _COLUMNS * 4 + 30, (_ROWS + 2 * _COLUMNS) + 60], axis=-1).astype(np.uint8)
GREY = PICTURE[..., 1]
INDICES = (_COLUMNS // 10).astype(np.uint8)  # 0..3
PALETTE = np.array([[10, 20, 30], [200, 40, 60], [70, 180, 90], [250, 240, 230]], np.uint8)


@dataclass(frozen=True)
class Odd:
    """`write(path)` makes it; `truth` (H, W, 3) uint8 is what it shows, within `tolerance`, or None where a message is
    right; with `either` both are right: nothing of the pixels is lost, but the file is not whole."""

    name: str
    write: Write
    truth: np.ndarray | None = None
    tolerance: int = EXACT
    either: bool = False

    @property
    def is_refused(self) -> bool:
        return self.truth is None


def encoded(kind: str, image: np.ndarray | Image.Image = PICTURE, mode: str | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def holding(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def png(header: tuple[int, ...], rows: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of `header` (width, height, depth, colour type, interlaced), with further chunks around its pixels."""
    head = struct.pack(">IIBBBBB", *header[:4], 0, 0, header[4] if len(header) > 4 else 0)
    chunks = before + hostile.chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + hostile.chunk(b"IHDR", head) + chunks + hostile.chunk(b"IEND", b"")


def png_rows(values: np.ndarray) -> bytes:
    """Unfiltered."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def tiff(tags: dict[int, tuple[int, Sequence[int]]], strip: bytes, *, big_endian: bool = False) -> bytes:
    """A TIFF of one strip behind the header; tag -> (type 3: 16 bits or 4: 32 bits, values)."""
    order = ">" if big_endian else "<"
    tags = tags | {273: (4, [8]), 279: (4, [len(strip)])}
    strip += b"\0" * (len(strip) % 2)
    start = 8 + len(strip)
    beside = start + 2 + 12 * len(tags) + 4
    entries, further = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            value, further = struct.pack(f"{order}I", beside + len(further)), further + packed
        else:
            value = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", start)
    return head + strip + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + further


def grey_tiff(values: np.ndarray, *, sample_format: int = 1, **more: Any) -> bytes:
    """Of any depth, as Pillow does not write them all."""
    height, width = values.shape[:2]
    depth, samples = 8 * values.dtype.itemsize, values.shape[2] if values.ndim == 3 else 1
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [depth] * samples), 259: (3, [1]), 277: (3, [samples])}
    tags |= {262: (3, [2 if samples >= 3 else 1]), 278: (4, [height]), 339: (3, [sample_format] * samples)}
    if samples in (2, 4):
        tags[338] = (3, [2])
    return tiff(tags, values.tobytes(), **more)


def bmp(depth: int, rows: bytes, *, height: int = 30, compression: int = 0, palette: bytes = b"") -> bytes:
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 40, height, 1, depth, compression, len(rows), 0, 0, len(palette) // 4, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + info + palette + rows


FORMAT = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "jpg": "JPEG", "webp": "WEBP"}


@cache
def whole(suffix: str) -> bytes:
    """A lossless file (but for JPEG) of PICTURE."""
    if suffix == "dcm":
        stream = io.BytesIO()
        dicoms.dataset(PICTURE, "RGB").save_as(stream, enforce_file_format=True)
        return stream.getvalue()
    options: dict[str, dict[str, Any]] = {"jpg": {"quality": 95}, "webp": {"lossless": True}}
    return encoded(FORMAT[suffix], **options.get(suffix, {}))


SUFFIXES = ("png", "jpg", "tif", "webp", "bmp", "dcm")
