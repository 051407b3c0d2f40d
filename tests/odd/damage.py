"""Files that are cut, damaged, too large or of other formats than their names say."""

import gzip
import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

from .. import hostile
from .files import (
    EXACT,
    GREY,
    LOSSY,
    PICTURE,
    SUFFIXES,
    Odd,
    bmp,
    encoded,
    grey_rgb,
    grey_tiff,
    holding,
    png,
    png_rows,
    tiff,
    whole,
)


def truncated() -> Iterator[Odd]:
    for suffix in SUFFIXES:
        content = whole(suffix)
        truth, tolerance = PICTURE, LOSSY if suffix == "jpg" else EXACT
        cuts = {"0": 0, "1": 1, "4": 4, "20": 20, "140": 140, "half": len(content) // 2, "most": len(content) * 4 // 5}
        for name, length in cuts.items():
            if length < len(content) * 4 // 5 or name == "most":
                yield Odd(f"cut_to_{name}.{suffix}", holding(content[:length]))
        for missing in (1, 2, 12):  # the end of the file, which may hold no pixel
            name = f"cut_by_{missing}.{suffix}"
            yield Odd(name, holding(content[:-missing]), truth, tolerance, either=True)
        yield Odd(f"padded.{suffix}", holding(content + bytes(5000)), truth, tolerance)
    lzw = encoded("TIFF", compression="tiff_lzw")
    yield Odd("cut_lzw.tif", holding(lzw[: len(lzw) // 2]))
    progressive = encoded("JPEG", progressive=True, quality=95)
    yield Odd("cut_progressive.jpg", holding(progressive[: len(progressive) // 2]))


def damaged() -> Iterator[Odd]:
    """Headers fine, what follows not."""
    for suffix in ("png", "webp", "jpg", "tif"):
        content = bytearray(encoded("TIFF", compression="tiff_adobe_deflate") if suffix == "tif" else whole(suffix))
        middle = len(content) // 2
        content[middle : middle + 60] = bytes(60)
        no_check_sum = suffix in ("jpg", "tif")  # nothing can tell
        yield Odd(f"hole.{suffix}", holding(bytes(content)), PICTURE if no_check_sum else None, 255, no_check_sum)
    yield Odd("few_strips.tif", holding(_with_rows_per_strip(grey_tiff(GREY[:10]), 30, 10)))
    yield Odd("short_strip.tif", holding(_with_rows_per_strip(grey_tiff(GREY[:10]), 30, 30)))
    yield Odd("signed.tif", holding(grey_tiff(GREY.astype(np.int8), sample_format=2)))
    yield Odd("missing_passes.png", holding(png((40, 30, 8, 0, 1), png_rows(GREY[:4]))))
    yield Odd("last_row_missing.png", holding(png((40, 30, 8, 0), png_rows(GREY[:29]))))
    black_end = np.vstack([GREY[:29], np.zeros_like(GREY[:1])])
    yield Odd("last_row_black.png", holding(png((40, 30, 8, 0), png_rows(black_end))), grey_rgb(black_end))
    yield Odd("too_few_rows.png", holding(hostile.png_of(400, 300, rows=10)))
    yield Odd("wrong_check_sum.png", holding(whole("png").replace(b"IDAT", b"IDAT\x01", 1)))
    yield Odd("no_pixels.png", holding(png((40, 30, 8, 0), b"", before=hostile.chunk(b"IDAT", b""))))
    yield Odd("unknown_colour_type.png", holding(png((40, 30, 8, 5), bytes(1230))))
    yield Odd("unknown_depth.png", holding(png((40, 30, 7, 0), bytes(1230))))
    yield Odd("huge_chunk.png", holding(whole("png")[:33] + struct.pack(">I4s", 2**31 - 1, b"tEXt") + bytes(100)))
    yield Odd("chunk_name.png", holding(whole("png")[:33] + struct.pack(">I4s", 5, b"\0\xff\1\2") + bytes(100)))
    yield Odd("bmp_depth.bmp", holding(bmp(13, bytes(4000))))
    yield Odd("bmp_packing.bmp", holding(bmp(24, bytes(4000), compression=99)))
    good = {256: (4, [40]), 257: (4, [30]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1]), 278: (4, [30])}
    for name, change in {
        "compression": {259: (3, [9999])},
        "photometric": {262: (3, [77])},
        "depth": {258: (3, [33])},
        "samples": {277: (3, [60000])},
        "width_twice": {256: (4, [40, 40])},
    }.items():
        either = name == "width_twice"
        content = tiff({**good, **change}, GREY.tobytes())
        yield Odd(f"tiff_{name}.tif", holding(content), grey_rgb(GREY) if either else None, either=either)
    content = bytearray(grey_tiff(GREY))
    content[4:8] = struct.pack("<I", 100_000)  # the directory behind the end
    yield Odd("tiff_lost.tif", holding(bytes(content)))
    circle = bytearray(grey_tiff(GREY))
    start = struct.unpack_from("<I", circle, 4)[0]
    struct.pack_into("<I", circle, start + 2 + 12 * struct.unpack_from("<H", circle, start)[0], start)
    yield Odd("tiff_circle.tif", holding(bytes(circle)), grey_rgb(GREY), either=True)


def _with_rows_per_strip(content: bytes, height: int, rows: int) -> bytes:
    changed = bytearray(content)
    for tag, value in ((257, height), (278, rows)):
        place = changed.index(struct.pack("<HHI", tag, 4, 1)) + 8
        changed[place : place + 4] = struct.pack("<I", value)
    return bytes(changed)


def animated() -> Iterator[Odd]:
    for name, kind in (("moving.webp", "WEBP"), ("pages.tif", "TIFF"), ("moving.png", "PNG")):
        yield Odd(name, holding(hostile.animated(kind)))


def bombs() -> Iterator[Odd]:
    """Small files that would fill the memory."""
    yield Odd("declares_3600_mpx.png", holding(hostile.png_of(60_000, 60_000, rows=10)))
    yield Odd("declares_all.png", holding(png((2**31 - 1, 2**31 - 1, 8, 6), b"\0")))
    yield Odd("declares_too_much.png", holding(png((2**32 - 1, 1, 8, 0), b"\0")))
    yield Odd("sixty_four_mpx.png", holding(hostile.png_of(8_001, 8_001)))
    yield Odd("text_bomb.png", holding(hostile.text_bomb()))
    profile = b"icc\0\0" + zlib.compress(bytes(100_000_000), 9)
    before = hostile.chunk(b"iCCP", profile)
    yield Odd(
        "profile_bomb.png", holding(png((40, 30, 8, 0), png_rows(GREY), before=before)), grey_rgb(GREY), either=True
    )
    more = png((40, 30, 8, 0), png_rows(GREY) + bytes(50_000_000))
    yield Odd("more_than_declared.png", holding(more), grey_rgb(GREY), either=True)
    jpeg = bytearray(whole("jpg"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    yield Odd("declares_4290_mpx.jpg", holding(bytes(jpeg)))
    side = {256: (4, [100_000]), 257: (4, [100_000]), 278: (4, [100_000])}
    tags = {258: (3, [8]), 259: (3, [8]), 262: (3, [1]), 277: (3, [1])} | side
    yield Odd("declares_10000_mpx.tif", holding(tiff(tags, zlib.compress(bytes(100)))))
    tags |= {256: (4, [40]), 257: (4, [30]), 278: (4, [30])}
    packed = zlib.compress(GREY.tobytes() + bytes(100_000_000), 9)
    yield Odd("inflates.tif", holding(tiff(tags, packed)), grey_rgb(GREY), either=True)
    webp = b"VP8L" + struct.pack("<I", 100) + b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(95)
    yield Odd("declares_268_mpx.webp", holding(b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp))
    yield Odd("declares_900_mpx.bmp", holding(bmp(1, bytes(100), height=30_000_000)))
    many = PngImagePlugin.PngInfo()
    for number in range(2_000):
        many.add_text(f"Comment{number}", "x" * 50)
    yield Odd("many_texts.png", holding(encoded("PNG", pnginfo=many)), PICTURE)


def foreign() -> Iterator[Odd]:
    """No images that are read, called as if they were; and images whose name says another format."""
    for kind in (
        "GIF",
        "ICO",
        "PPM",
        "TGA",
        "PCX",
        "SGI",
        "JPEG2000",
        "PDF",
        "EPS",
        "AVIF",
        "QOI",
        "ICNS",
        "DDS",
        "XBM",
    ):
        image = Image.fromarray(GREY).convert("1") if kind == "XBM" else PICTURE
        yield Odd(f"a_{kind}.png", holding(encoded(kind, image)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", whole("png"))
    array = io.BytesIO()
    np.save(array, PICTURE)
    contents = {
        "svg": hostile.SVG,
        "html": b"<!doctype html><body>" + hostile.SCRIPT,
        "text": b"no picture at all\n" * 30,
        "utf16": "no picture at all".encode("utf-16"),
        "postscript": b"%!PS-Adobe-3.0\n(%pipe%touch owned) (w) file\n",
        "gzip": gzip.compress(whole("png")),
        "zip": packed.getvalue(),
        "npy": array.getvalue(),
        "elf": b"\x7fELF\2\1\1" + bytes(200),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30, 40, 8, 3) + bytes(5000),
        "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned\x85R.",
        "mp4": b"\0\0\0\x18ftypisom" + bytes(300),
        "json": b'{"image": "a.png"}',
        "zeros": bytes(4000),
        "ones": b"\xff" * 4000,
        "all_bytes": bytes(range(256)) * 8,
        "base64": b"data:image/png;base64,iVBORw0KGgo=",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    }
    for (name, content), suffix in zip(contents.items(), itertools.cycle(SUFFIXES)):
        yield Odd(f"{name}_content.{suffix}", holding(content))
    for suffix, other in itertools.pairwise((*SUFFIXES, SUFFIXES[0])):
        content, tolerance = whole(suffix), LOSSY if suffix == "jpg" else EXACT
        yield Odd(f"{suffix}_called.{other}", holding(content), PICTURE, tolerance)
        yield Odd(f"{other}_before_{suffix}.{other}", holding(whole(other)[:8] + content))
    polyglot = whole("png") + packed.getvalue()
    yield Odd("polyglot.png", holding(polyglot), PICTURE)
    yield Odd("script_behind.jpg", holding(whole("jpg") + hostile.SCRIPT), PICTURE, LOSSY)
