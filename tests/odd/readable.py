"""What can be read, in every format, mode, packing and size, and what of the same formats must not be."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .. import hostile
from .files import (
    EXACT,
    FORMAT,
    GREY,
    INDICES,
    LOSSY,
    PALETTE,
    PICTURE,
    Odd,
    bmp,
    encoded,
    grey_rgb,
    grey_tiff,
    holding,
    png,
    png_rows,
    tiff,
)


def modes() -> Iterator[Odd]:
    """Every format in every colour mode and compression that it has and that holds 8 bits a channel."""
    bilevel = (GREY > 110) * np.uint8(255)
    opaque = np.dstack([PICTURE, np.full_like(GREY, 255)])
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (40, 30), 255)])
    paletted = Image.frombytes("P", (40, 30), INDICES.tobytes())
    paletted.putpalette(PALETTE.ravel().tolist())
    kinds: dict[str, tuple[Any, str | None, np.ndarray]] = {
        "1": (bilevel, "1", grey_rgb(bilevel)),
        "L": (GREY, None, grey_rgb(GREY)),
        "P": (paletted, None, PALETTE[INDICES]),
        "RGB": (PICTURE, None, PICTURE),
        "RGBA": (opaque, None, PICTURE),
        "LA": (grey_alpha, None, grey_rgb(GREY)),
        "CMYK": (PICTURE, "CMYK", PICTURE),
    }
    for suffix, names in {"png": "1 L P RGB RGBA LA", "bmp": "1 L P RGB RGBA", "tif": "1 L P RGB RGBA LA CMYK"}.items():
        for name in names.split():
            image, mode, truth = kinds[name]
            yield Odd(f"mode_{name}.{suffix}", holding(encoded(FORMAT[suffix], image, mode)), truth)
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
        for name in ("L", "P", "RGB"):
            image, mode, truth = kinds[name]
            content = encoded("TIFF", image, mode, compression=compression)
            yield Odd(f"{compression}_{name}.tif", holding(content), truth)
    for compression in ("group3", "group4", "tiff_ccitt"):
        content = encoded("TIFF", bilevel, "1", compression=compression)
        yield Odd(f"{compression}.tif", holding(content), kinds["1"][2])
    yield Odd("ycbcr.tif", holding(encoded("TIFF", PICTURE, "YCbCr")), PICTURE, LOSSY, either=True)
    yield Odd("jpeg_inside.tif", holding(encoded("TIFF", compression="jpeg", quality=95)), PICTURE, LOSSY)
    yield Odd("big.tif", holding(encoded("TIFF", big_tiff=True)), PICTURE)
    yield Odd("big_endian.tif", holding(grey_tiff(PICTURE, big_endian=True)), PICTURE)
    yield Odd("white_is_zero.tif", holding(_with_photometric(grey_tiff(255 - GREY), 0)), grey_rgb(GREY))
    for level in (0, 9):
        yield Odd(f"level_{level}.png", holding(encoded("PNG", compress_level=level)), PICTURE)
    for depth in (1, 2, 4):
        yield from _packed_png(depth)
    yield Odd("interlaced.png", holding(_interlaced()), grey_rgb(GREY))
    for name, options in {
        "baseline": {"quality": 95, "subsampling": 0},
        "subsampled": {"quality": 95, "subsampling": 2},
        "progressive": {"quality": 95, "progressive": True},
        "optimized": {"quality": 95, "optimize": True},
        "restart_markers": {"quality": 95, "restart_marker_blocks": 1},
        "comment": {"quality": 95, "comment": b"<script>" * 100},
    }.items():
        yield Odd(f"{name}.jpg", holding(encoded("JPEG", **options)), PICTURE, LOSSY)
    yield Odd("grey.jpg", holding(encoded("JPEG", GREY, quality=95)), grey_rgb(GREY), LOSSY)
    yield Odd("cmyk.jpg", holding(encoded("JPEG", PICTURE, "CMYK", quality=95)), PICTURE, LOSSY)
    preview = Image.new("RGB", (40, 30))
    mpo = encoded("MPO", quality=95, save_all=True, append_images=[preview])
    yield Odd("phone.jpg", holding(mpo), PICTURE, LOSSY)
    yield Odd("lossless.webp", holding(encoded("WEBP", lossless=True)), PICTURE)
    yield Odd("lossy.webp", holding(encoded("WEBP", quality=100)), PICTURE, LOSSY)
    yield Odd("opaque.webp", holding(encoded("WEBP", opaque, lossless=True, exact=True)), PICTURE)
    yield Odd("rle.bmp", holding(_rle_bmp()), PALETTE[INDICES])
    yield Odd("top_down.bmp", holding(_top_down_bmp()), PICTURE)
    yield Odd("sixteen_bits_a_pixel.bmp", holding(_bmp_555()), (PICTURE >> 3) * np.uint8(8), 8)


def _with_photometric(content: bytes, value: int) -> bytes:
    entry = struct.pack("<HHI", 262, 3, 1)
    place = content.index(entry) + len(entry)
    return content[:place] + struct.pack("<H", value) + content[place + 2 :]


def _packed_png(depth: int) -> Iterator[Odd]:
    """Grey and palette of several pixels a byte."""
    values = INDICES % (1 << depth)
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :].reshape(len(values), -1)
    rows = png_rows(np.packbits(bits, axis=-1))
    stretched = (values * (255 // ((1 << depth) - 1))).astype(np.uint8)
    yield Odd(f"grey_of_{depth}_bits.png", holding(png((40, 30, depth, 0), rows)), grey_rgb(stretched))
    colours = hostile.chunk(b"PLTE", PALETTE[: 1 << depth].tobytes())
    yield Odd(f"palette_of_{depth}_bits.png", holding(png((40, 30, depth, 3), rows, before=colours)), PALETTE[values])


def _interlaced() -> bytes:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(png_rows(GREY[top::down, left::right]) for top, left, down, right in passes)
    return png((40, 30, 8, 0, 1), rows)


def _rle_bmp() -> bytes:
    rows = b"".join(b"".join(bytes([10, int(v)]) for v in row[::10]) + b"\0\0" for row in INDICES[::-1]) + b"\0\1"
    return bmp(8, rows, compression=1, palette=np.insert(PALETTE[:, ::-1], 3, 0, axis=1).tobytes())


def _top_down_bmp() -> bytes:
    return bmp(24, PICTURE[..., ::-1].tobytes(), height=-30)


def _bmp_555() -> bytes:
    red, green, blue = (PICTURE[::-1, :, c].astype("<u2") >> 3 for c in range(3))
    return bmp(16, (red << 10 | green << 5 | blue).tobytes())


STORED = {  # EXIF orientation -> how pixels lie in a file that shows them upright
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: np.rot90(up, -1),
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def turned() -> Iterator[Odd]:
    """EXIF orientations, the possible and the impossible, in every format that has them."""
    options: dict[str, dict[str, Any]] = {"jpg": {"quality": 95}, "png": {}, "tif": {}, "webp": {"lossless": True}}
    for (suffix, more), number in itertools.product(options.items(), STORED):
        stored = np.ascontiguousarray(STORED[number](PICTURE))
        content = encoded(FORMAT[suffix], stored, exif=_exif(number), **more)
        yield Odd(f"turned_{number}.{suffix}", holding(content), PICTURE, LOSSY if suffix == "jpg" else EXACT)
    for number in (0, 9, 65535):
        content = encoded("PNG", exif=_exif(number))
        yield Odd(f"turned_{number}.png", holding(content), PICTURE)
    behind = hostile.chunk(b"eXIf", _exif(6).tobytes().removeprefix(b"Exif\0\0"))
    stored = np.ascontiguousarray(STORED[6](PICTURE))
    yield Odd("turned_behind_pixels.png", holding(png((30, 40, 8, 2), png_rows(stored), after=behind)), PICTURE)
    garbage = encoded("JPEG", quality=95, exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    yield Odd("damaged_exif.jpg", holding(garbage), PICTURE, LOSSY, either=True)
    yield Odd("damaged_exif.png", holding(encoded("PNG", exif=b"II*\0\x08\0\0\0\xff\xff")), PICTURE, either=True)


def alpha() -> Iterator[Odd]:
    """Transparency: with nothing behind it, or with pixels that it hides."""
    half = np.full_like(GREY, 255)
    half[3, 4] = 128
    for suffix, options in {"png": {}, "tif": {}, "webp": {"lossless": True, "exact": True}}.items():
        content = encoded(FORMAT[suffix], np.dstack([PICTURE, half]), **options)
        yield Odd(f"half_transparent.{suffix}", holding(content))
        content = encoded(FORMAT[suffix], np.dstack([PICTURE, np.zeros_like(GREY)]), **options)
        yield Odd(f"invisible.{suffix}", holding(content))
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(half)])
    yield Odd("half_transparent_grey.png", holding(encoded("PNG", grey_alpha)))
    yield Odd("key_in_use.png", holding(encoded("PNG", GREY, transparency=int(GREY[0, 0]))))
    yield Odd("key_not_in_use.png", holding(encoded("PNG", GREY, transparency=1)), grey_rgb(GREY))
    yield Odd("colour_key_in_use.png", holding(encoded("PNG", transparency=tuple(PICTURE[0, 0].tolist()))))
    yield Odd("colour_key_not_in_use.png", holding(encoded("PNG", transparency=(1, 2, 3))), PICTURE)
    colours = hostile.chunk(b"PLTE", PALETTE.tobytes())
    for name, opacities, truth in (
        ("index_hidden", b"\xff\0", None),
        ("indices_opaque", b"\xff\xff", PALETTE[INDICES]),
    ):
        before = colours + hostile.chunk(b"tRNS", opacities)
        yield Odd(f"{name}.png", holding(png((40, 30, 8, 3), png_rows(INDICES), before=before)), truth)
    yield Odd("index_without_colour.png", holding(png((40, 30, 8, 3), png_rows(INDICES + 9), before=colours)))
    yield Odd("no_palette.png", holding(png((40, 30, 8, 3), png_rows(INDICES))))


def deep() -> Iterator[Odd]:
    """More than 8 bits a channel: how to scale them is not told."""
    grey16 = GREY.astype(np.uint16) * 16
    for name, values in {
        "uint16": grey16,
        "int32": grey16.astype(np.int32),
        "float32": grey16.astype(np.float32),
        "nan": np.full((30, 40), np.nan, np.float32),
        "inf": np.full((30, 40), np.inf, np.float32),
    }.items():
        yield Odd(f"deep_{name}.tif", holding(encoded("TIFF", values)))
    signed = grey_tiff((GREY // 2).astype(np.int8), sample_format=2)
    yield Odd("int8.tif", holding(signed), grey_rgb(GREY // 2))
    raw = {"uint32": (np.uint32, 1), "int16": (np.int16, 2), "float64": (np.float64, 3)}
    for name, (dtype, sample_format) in (raw | {"float16": (np.float16, 3)}).items():
        yield Odd(f"deep_{name}.tif", holding(grey_tiff((GREY // 2).astype(dtype), sample_format=sample_format)))
    yield Odd("deep_colour.tif", holding(grey_tiff(PICTURE.astype(np.uint16) * 200)))
    yield Odd("deep_colour_big_endian.tif", holding(grey_tiff(PICTURE.astype(">u2") * 200, big_endian=True)))
    yield Odd("deep_float_colour.tif", holding(grey_tiff(PICTURE.astype(np.float32), sample_format=3)))
    yield Odd("five_channels.tif", holding(grey_tiff(np.repeat(GREY[..., None], 5, axis=2))))
    yield Odd("lab.tif", holding(encoded("TIFF", Image.new("LAB", (40, 30)))))
    yield Odd("deep_grey.png", holding(encoded("PNG", grey16)))
    for name, colour_type, channels in (("colour", 2, 3), ("grey_alpha", 4, 2), ("colour_alpha", 6, 4)):
        rows = png_rows(np.full((30, 40, channels), 0x1234, ">u2"))
        yield Odd(f"deep_{name}.png", holding(png((40, 30, 16, colour_type), rows)))


def sizes() -> Iterator[Odd]:
    """From one pixel to long strips, and sizes that are none."""
    for height, width in ((1, 1), (1, 60_000), (60_000, 2), (2, 60_000), (3, 5)):
        strip = np.resize(PICTURE.reshape(-1, 3), (height, width, 3))
        yield Odd(f"{height}x{width}.png", holding(encoded("PNG", strip)), strip)
    dot = PICTURE[:1, :1]
    for suffix, options in {"bmp": {}, "tif": {}, "webp": {"lossless": True}, "jpg": {"quality": 95}}.items():
        yield Odd(f"dot.{suffix}", holding(encoded(FORMAT[suffix], dot, **options)), dot, LOSSY)
    long = np.resize(PICTURE.reshape(-1, 3), (2, 60_000, 3))
    yield Odd("long.tif", holding(encoded("TIFF", long, compression="tiff_lzw")), long)
    for name, width, height in (("no_width", 0, 30), ("no_height", 40, 0), ("none", 0, 0)):
        yield Odd(f"{name}.png", holding(png((width, height, 8, 0), b"")))
    yield Odd("no_height.bmp", holding(bmp(24, b"", height=0)))
    tags = {256: (4, [0]), 257: (4, [0]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1]), 278: (4, [1])}
    yield Odd("no_size.tif", holding(tiff(tags, b"")))
