"""Files that somebody might send to a page to break it, or to see what it does."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = b"<script>document.title='taken'</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=\'taken\'"><text>x</text></svg>'
NAMES = (  # of a harmless picture
    "\"><img src=x onerror=document.title='taken'>.png",
    "${document.title='taken'}{{7*7}}<b>.png",
    "=HYPERLINK(1).png",
    "\u202egnp.exe.png",
)


def picture(width: int = 40, height: int = 30, *, kind: str = "PNG") -> bytes:
    """A valid picture of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *, rows: int | None = None) -> bytes:
    """A black grey PNG that declares its size and holds that many `rows`, by default all of them."""
    held = height if rows is None else rows
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + width)) for _ in range(held)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose text chunk would unpack to 200 MB."""
    whole = png_of(40, 30)
    return whole[:33] + chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(200_000_000), 9)) + whole[33:]


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((30, 40, 3), grey, np.uint8)) for grey in (0, 120, 240)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


REFUSED = {  # file name -> content
    "empty.png": b"",
    "text.png": b"I am no picture.\n" * 20,
    "page.png": b"<!doctype html><body>" + SCRIPT,
    "page.html": b"<!doctype html><body>" + SCRIPT,
    "drawing.svg": SVG,
    "drawing.png": SVG,
    "truncated.png": picture(400, 300)[:-2000],
    "truncated.jpg": picture(400, 300, kind="JPEG")[:3000],
    "bomb.png": png_of(60_000, 60_000, rows=10),
    "too_many_pixels.png": png_of(8_001, 8_001),
    "text_bomb.png": text_bomb(),
    "animated.gif": animated("GIF"),
    "animated.webp": animated("WEBP"),
    "pages.tif": animated("TIFF"),
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    "damaged.dcm": bytes(128) + b"DICM" + b"\xff" * 500,
}
ACCEPTED = {  # odd, and pictures nevertheless
    "long.png": png_of(60_000, 2),
    "polyglot.jpg": picture(kind="JPEG") + SCRIPT,
    "polyglot.html": picture(kind="JPEG") + SCRIPT,
    "zip.png": picture() + b"PK\x05\x06" + bytes(18),
}


def write_all(folder: Path) -> dict[str, Path]:
    """Every file of REFUSED and ACCEPTED, and a picture with each of NAMES."""
    files = {name: folder / name for name in (*REFUSED, *ACCEPTED, *NAMES)}
    for name, path in files.items():
        path.write_bytes({**REFUSED, **ACCEPTED}.get(name) or (picture() if name in NAMES else b""))
    return files
