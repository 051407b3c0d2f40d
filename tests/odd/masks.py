"""Masks as tools save them: each with the foreground that every one of them means, or none where that is open."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import hostile
from .files import Write, encoded, grey_tiff, holding, png, png_rows, whole
from .places import links

SIZE = (30, 40)
BLOB = np.zeros(SIZE, np.uint8)
BLOB[4:20, 6:25] = 1
BLOB[22:28, 30:38] = 1
OBJECTS = BLOB.copy()
OBJECTS[22:28, 30:38] = 2


@dataclass(frozen=True)
class OddMask:
    """`write(path)` makes it; `truth` (H, W) of 0 and 1 is its foreground by mask=auto, or None where a message is
    right."""

    name: str
    write: Write
    truth: np.ndarray | None


def _read(name: str, content: bytes, truth: np.ndarray = BLOB) -> OddMask:
    return OddMask(name, holding(content), truth)


def _paletted(values: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette(palette)
    return image


def read_masks() -> Iterator[OddMask]:
    white = BLOB * np.uint8(255)
    for suffix, kind in (("png", "PNG"), ("bmp", "BMP"), ("tif", "TIFF")):
        yield _read(f"zero_one.{suffix}", encoded(kind, BLOB))
        yield _read(f"black_white.{suffix}", encoded(kind, white))
        yield _read(f"one_bit.{suffix}", encoded(kind, white, "1"))
        yield _read(f"colour.{suffix}", encoded(kind, np.dstack([white] * 3)))
        palette = _paletted(BLOB, [0, 0, 0, 255, 0, 0])
        yield _read(f"palette.{suffix}", encoded(kind, palette))
    for name, compression in (("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"), ("packbits", "packbits")):
        yield _read(f"{name}.tif", encoded("TIFF", white, compression=compression))
    yield _read("lossless.webp", encoded("WEBP", np.dstack([white] * 3), lossless=True))
    yield _read("ringing.jpg", encoded("JPEG", white, quality=75))
    yield _read("ringing_colour.jpg", encoded("JPEG", np.dstack([white] * 3), quality=75))
    yield _read("objects.png", encoded("PNG", OBJECTS))
    yield _read("deep_objects.png", encoded("PNG", OBJECTS.astype(np.uint16) * 300))
    yield _read("deep_objects.tif", encoded("TIFF", OBJECTS.astype(np.int32) * 70_000))
    yield _read("deep_zero_one.png", encoded("PNG", BLOB.astype(np.uint16)))
    yield _read("signed_zero_one.tif", grey_tiff(BLOB.astype(np.int8), sample_format=2))
    yield _read("grey_alpha.png", encoded("PNG", np.dstack([white, np.full_like(white, 255)])))
    yield _read("colour_alpha.png", encoded("PNG", np.dstack([white] * 3 + [np.full_like(white, 255)])))
    yield _read("empty.png", encoded("PNG", np.zeros(SIZE, np.uint8)), np.zeros(SIZE, np.uint8))
    yield _read("full.png", encoded("PNG", np.full(SIZE, 255, np.uint8)), np.ones(SIZE, np.uint8))
    turned = Image.Exif()
    turned[0x112] = 6
    yield _read("turned.png", encoded("PNG", np.rot90(white).copy(), exif=turned))
    two_bits = np.packbits(np.unpackbits(OBJECTS[..., None], axis=-1)[..., 6:].reshape(30, -1), axis=-1)
    yield _read("two_bits.png", png((40, 30, 2, 0), png_rows(two_bits)))


def refused_masks() -> Iterator[OddMask]:
    white = BLOB * np.uint8(255)
    swapped = _paletted(1 - BLOB, [255, 255, 255, 0, 0, 0])
    smooth = np.asarray(Image.fromarray(white).resize((20, 15)).resize((40, 30)))
    negative = OBJECTS.astype(np.int32) - BLOB * 2
    transparent = np.zeros((*SIZE, 4), np.uint8)
    transparent[..., 3] = white
    coloured = np.zeros((*SIZE, 3), np.uint8)
    coloured[..., 0] = white
    photo = (np.arange(30 * 40) % 251).astype(np.uint8).reshape(SIZE)
    contents = {
        "palette_swapped.png": encoded("PNG", swapped),
        "smooth.png": encoded("PNG", smooth),
        "negative.tif": encoded("TIFF", negative),
        "negative_bytes.tif": grey_tiff((BLOB.astype(np.int8) * -1), sample_format=2),
        "in_alpha.png": encoded("PNG", transparent),
        "alpha_alone.png": encoded("PNG", Image.merge("LA", [Image.new("L", (40, 30)), Image.fromarray(white)])),
        "red.png": encoded("PNG", coloured),
        "photo.png": encoded("PNG", photo),
        "float.tif": encoded("TIFF", BLOB.astype(np.float32)),
        "nan.tif": encoded("TIFF", np.full(SIZE, np.nan, np.float32)),
        "float64.tif": grey_tiff(BLOB.astype(np.float64), sample_format=3),
        "deep_colour.png": png((40, 30, 16, 2), png_rows(np.zeros((*SIZE, 3), ">u2"))),
        "cmyk.tif": encoded("TIFF", np.dstack([white] * 3), "CMYK"),
        "pages.tif": hostile.animated("TIFF"),
        "moving.webp": hostile.animated("WEBP"),
        "cut.png": encoded("PNG", white)[:-40],
        "cut.jpg": encoded("JPEG", white)[:-60],
        "few_rows.png": png((40, 30, 8, 0), png_rows(white[:10])),
        "nothing.png": b"",
        "text.png": b"0 1\n" * 99,
        "bomb.png": hostile.png_of(60_000, 60_000, rows=10),
        "array.png": _array(BLOB),
        "dicom.png": whole("dcm"),
    }
    for name, content in contents.items():
        yield OddMask(name, holding(content), None)
    for odd in links():
        if odd.is_refused and odd.name.endswith(".png"):
            yield OddMask(odd.name, odd.write, None)


def other_sizes() -> Iterator[OddMask]:
    """Not those of an image of SIZE, whatever they hold."""
    for name, (height, width) in {
        "half": (15, 20),
        "turned_size": (40, 30),
        "row_less": (29, 40),
        "dot": (1, 1),
    }.items():
        yield OddMask(f"{name}.png", holding(encoded("PNG", np.zeros((height, width), np.uint8))), None)


def _array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()
