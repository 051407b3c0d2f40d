"""The only place that opens image files.

One decoder (Pillow) for images and masks, because the common three disagree: OpenCV rotates by EXIF and Pillow does
not, OpenCV returned a full-size picture for half a JPEG, torchvision.io crashed the process on 60 of 60 damaged PNGs.
What cannot be decoded to the pixels the author meant is a ValueError with the file, what it holds and what to do.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from src.data.foreground import checked_rule, kind_of, stored_values, to_foreground

MAX_PIXELS = 64_000_000  # a 130 KB file can declare 1 Gpx; checked in the header, before anything is decoded
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # nothing else is even tried: EPS would start Ghostscript
LOSSY_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG with a preview behind it, as phones write
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
DEEP_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
DEEP_GREY_MODES = (*DEEP_INTEGER_MODES, "F")
LABEL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", *DEEP_INTEGER_MODES)
PACKED_GREY = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit grey to 0..255; divided by this it is raw again
ORIENTATION, PHOTOMETRIC = 0x112, 0x106  # EXIF and TIFF tags
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def allow_pixels(number: int) -> None:
    """From now on images of up to `number` pixels are decoded where they are asked for: Pillow has a limit of its own,
    for the whole process."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, number)


def read_image(
    path: str | Path, intensity: Sequence[float] | None = None, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Pixels as (H, W, 3) uint8 RGB, turned upright by EXIF.

    `intensity` (low, high) maps 16-bit, 32-bit and float grey linearly from that range to 0..255, what lies outside
    clipped; files of 8 bits are not changed by it.

    ValueError: unreadable or truncated file, more than `max_pixels`, several pages, transparency that hides something,
    deep grey without `intensity` (how to scale it is the user's decision) or with NaN, 16-bit colour.
    """
    limits = None if intensity is None else checked_intensity(intensity)
    with _opened(path, max_pixels) as image:
        if limits and image.mode in DEEP_GREY_MODES:
            return np.repeat(_scaled(image, limits, path)[..., None], 3, axis=2)
        deep_grey_too = (
            ", or set intensity=[low,high] (of a dataset: data.intensity), the grey values that shall become 0 and 255"
        )
        remedy = f"8 bits per channel{deep_grey_too if image.mode in DEEP_GREY_MODES else ''}"
        _refuse_deep_samples(image, path, IMAGE_MODES, remedy)
        upright = _upright(image, path)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            _refuse_transparency(upright, path)
        return np.array(upright.convert("RGB"))


def checked_intensity(intensity: Sequence[float]) -> tuple[float, float]:
    """(low, high). ValueError: not two finite numbers of which the first is the smaller."""
    try:
        low, high = (float(limit) for limit in intensity)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"intensity={intensity} must be two numbers, low < high, such as [0,4095] for a 12-bit camera")
    return low, high


def read_labels(path: str | Path) -> npt.NDArray[np.int32]:
    """Raw values as (H, W) int32: palette files give indices, 1-bit files 0/1, three equal channels give one.

    ValueError: as `read_image` (16- and 32-bit integers are labels like any other, though), colour channels that
    differ, a mask that lies in the alpha channel.
    """
    with _opened(path) as image:
        return _labels(image, path).astype(np.int32)


def read_mask(path: str | Path, foreground: str | Mapping[Any, int]) -> npt.NDArray[np.uint8]:
    """Foreground as (H, W) uint8 of 0/1.

    `foreground` says what the stored values mean:
      "binary"     0 with 1, or 0 with 255; any other value is a ValueError
      "threshold"  value > 127, for lossy masks whose edges ring, as in Kvasir-SEG
      "instances"  value > 0, for label maps, as in GlaS
      "auto"       threshold for a lossy file, binary for {0, 1} or {0, 255}, instances for few integer labels;
                   ValueError where the values could mean two things
      a mapping    stored value -> 0 or 1, such as {0: 0, 1: 0, 2: 1}; any other value is a ValueError
    """
    rule = checked_rule(foreground)
    with _opened(path) as image:
        labels = _labels(image, path)
        if image.mode == "P" and isinstance(rule, str):  # a mapping has said what each index means
            _refuse_inverted_palette(image, path)
        is_lossy = image.format in LOSSY_FORMATS
    return to_foreground(labels, rule, is_lossy=is_lossy, path=path)


def mask_kind(path: str | Path) -> str:
    """See `kind_of` in src.data.foreground. ValueError: as `read_labels`."""
    with _opened(path) as image:
        is_lossy = image.format in LOSSY_FORMATS
        return kind_of(stored_values(_labels(image, path)), is_lossy=is_lossy)


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) after EXIF, from the header: no pixel is decoded unless a PNG hides its metadata behind them."""
    with _opened(path) as image, _decoding(path):
        tags = getattr(image, "tag_v2", None)  # newer Pillow has already swapped .size of a TIFF; tags are as stored
        width, height = (tags[256], tags[257]) if tags else image.size
        header_is_enough = image.format != "PNG" or not _metadata_follows_pixels(path)
        # PngImageFile.getexif would decode every pixel first
        exif = Image.Image.getexif(image) if header_is_enough else image.getexif()
        return (width, height) if exif.get(ORIENTATION, 1) in SIDEWAYS else (height, width)


def file_type(path: str | Path) -> tuple[str, str]:
    """Format and colour mode as Pillow names them ("JPEG", "RGB"), from the header."""
    with _opened(path) as image:
        return image.format or "", image.mode


# ---- opening


@contextmanager
def _opened(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The file with its header read and checked, no pixel decoded."""
    with ExitStack() as files:
        with _decoding(path, max_pixels):
            # an open file, not a name: named, Pillow 13 maps an uncompressed TIFF into memory with height and width
            # swapped where EXIF turns it, and its pixels come out scrambled
            image = files.enter_context(Image.open(files.enter_context(open(path, "rb")), formats=FORMATS))
        width, height = image.size
        check_pixels(width, height, max_pixels, path)
        with _decoding(path):
            pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":
            raise ValueError(
                f"{path}: holds {pages} pages or frames, one image is required; save the one that is meant"
            )
        yield image


def check_pixels(width: int, height: int, max_pixels: int, path: str | Path) -> None:
    """ValueError for an image that declares more than `max_pixels`."""
    if width * height > max_pixels:
        raise ValueError(
            f"{path}: {width} x {height} is {width * height:,} pixels, the limit is {max_pixels:,}; tile or downscale "
            "it first"
        )


@contextmanager
def _decoding(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Every reason Pillow may give for not decoding a file becomes one ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; restore it, or correct the path") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a readable {', '.join(FORMATS)} image; convert, restore or remove it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: {error}; the limit is {max_pixels:,} pixels: tile or downscale it first") from error
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error) as error:
        # from SyntaxError on: what Pillow's parsers raise on damaged chunks and tags
        raise ValueError(
            f"{path}: cannot be decoded ({error}); the file is damaged or cut short: restore it"
        ) from error


def _upright(image: Image.Image, path: str | Path) -> Image.Image:
    """The decoded pixels, turned as EXIF says: the same for images and masks, or they would not lie on each other."""
    with _decoding(path):
        return ImageOps.exif_transpose(image)


def _refuse_deep_samples(image: Image.Image, path: str | Path, modes: tuple[str, ...], remedy: str) -> None:
    """Pillow's convert("RGB") clips 16-bit grey at 255, and 16-bit colour opens as "RGB" with the low byte dropped."""
    stored = _raw_mode(image)
    low_byte_dropped = image.mode in IMAGE_MODES and ";16" in stored and stored[-1] in "LBN"  # not BMP's "BGR;16"
    if image.mode not in modes or low_byte_dropped:
        raise ValueError(
            f"{path}: mode {image.mode}, stored as {stored or image.mode}, is not read; save it as {remedy}"
        )


def _raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file ("RGB;16B", "L;4"), known until they are decoded; empty where not told."""
    tiles: list[Any] = list(getattr(image, "tile", []))
    arguments = tiles[0][3] if tiles else ""
    stored = arguments[0] if isinstance(arguments, tuple) else arguments
    return stored if isinstance(stored, str) else ""


def _refuse_transparency(image: Image.Image, path: str | Path) -> None:
    lowest = image.getchannel("A").getextrema()[0]
    if lowest != 255:
        raise ValueError(
            f"{path}: mode {image.mode} whose alpha channel is not opaque (down to {lowest}, 255 is required); without "
            "it hidden pixels would show, or a mask be lost: flatten an image, save a mask as one grey channel"
        )


def _metadata_follows_pixels(path: str | Path) -> bool:
    """Whether a PNG keeps EXIF or text chunks behind its pixel data, where opening the file does not see them."""
    pixels_passed = False
    with open(path, "rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            pixels_passed |= kind == b"IDAT"
            if pixels_passed and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)
    return False


# ---- pixels of one channel


def _scaled(image: Image.Image, limits: tuple[float, float], path: str | Path) -> npt.NDArray[np.uint8]:
    """Deep grey (H, W) with `limits` at 0 and 255."""
    is_unsigned = _raw_mode(image) == "I;32N"  # Pillow keeps 32 unsigned bits as if they were signed
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # Pillow inverts such files of 8 bits, but not deeper ones
        raise ValueError(f"{path}: stored with white as 0; save it with black as 0")
    upright = _upright(image, path)
    if upright.has_transparency_data:
        raise ValueError(
            f"{path}: mode {image.mode} with a transparent grey value, hidden pixels would show; flatten it"
        )
    pixels = np.asarray(upright)
    if bad := int(pixels.size - np.isfinite(pixels).sum()):
        raise ValueError(
            f"{path}: {bad} of {pixels.size} pixels are NaN or infinite; finite values are required: replace them"
        )
    low, high = limits
    grey = pixels.view(np.uint32).astype(np.float64) if is_unsigned else pixels.astype(np.float64)
    return np.rint((grey.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)


def _labels(image: Image.Image, path: str | Path) -> npt.NDArray[Any]:
    """Raw values (H, W) in the dtype of the file."""
    _refuse_deep_samples(image, path, LABEL_MODES, "one channel of integers")
    stretched_by = PACKED_GREY.get(_raw_mode(image), 1)
    upright = _upright(image, path)
    if upright.mode in ("LA", "PA", "RGBA"):
        _refuse_transparency(upright, path)
        upright = upright.convert("RGB") if upright.mode == "RGBA" else upright.getchannel(0)
    pixels = np.asarray(upright)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(
                f"{path}: a mask with unequal colour channels; save it as one grey channel or a palette image"
            )
        pixels = pixels[..., 0]
    return pixels // stretched_by if stretched_by > 1 else pixels


def _refuse_inverted_palette(image: Image.Image, path: str | Path) -> None:
    """Optimisers reorder palettes; where index 0 is drawn brightest, foreground and background may be swapped."""
    drawn = np.asarray(image.convert("L"))
    background = np.asarray(image) == 0
    if background.any() and not background.all() and drawn[background][0] > drawn[~background].max():
        raise ValueError(
            f"{path}: palette index 0, the background, is drawn brighter than every label, so the indices may be "
            "swapped; save the mask as one grey channel"
        )
