"""What Pillow does not tell of a PNG: chunks behind its pixels, and rows that are not there."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PIECE = 1 << 20  # bytes that are inflated at once


def metadata_follows_pixels(path: str | Path) -> bool:
    """Whether EXIF or text chunks stand behind the pixel data, where opening the file does not see them."""
    pixels_passed = False
    with open(path, "rb") as file:
        for kind, _ in _chunks(file):
            pixels_passed |= kind == b"IDAT"
            if pixels_passed and kind in METADATA:
                return True
    return False


def rows_are_missing(path: str | Path) -> bool:
    """Whether the pixel data of a whole PNG is shorter than its header says: Pillow then leaves the rest black."""
    with open(path, "rb") as file:
        chunks = _chunks(file)
        next(chunks)
        header = struct.unpack(">IIBBBBB", file.read(13))
        left, inflater = _bytes_of(*header[:4], is_interlaced=bool(header[6])), zlib.decompressobj()
        for kind, length in chunks:
            packed = file.read(length) if kind == b"IDAT" else b""
            while packed and left > 0:
                left -= len(inflater.decompress(packed, PIECE))
                packed = inflater.unconsumed_tail
        return left > 0


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk; the file stands at its content."""
    place = 8
    while file.seek(place) and len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        yield kind, length
        place += length + 12


def _bytes_of(width: int, height: int, depth: int, colour_type: int, *, is_interlaced: bool) -> int:
    """Of all rows, each with its filter's byte before it."""
    bits = depth * CHANNELS[colour_type]
    passes = ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for rows, columns in sizes if rows > 0 and columns > 0)
