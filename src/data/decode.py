"""The only place that opens image files.

One decoder (Pillow) for images and masks, because the common three disagree: OpenCV rotates by EXIF and Pillow does
not, OpenCV returned a full-size picture for half a JPEG, torchvision.io crashed the process on 60 of 60 damaged PNGs.
What cannot be decoded to the pixels the author meant is a ValueError with the file, what it holds and what to do.
"""

import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from src.data.foreground import checked_rule, kind_of, stored_values, to_foreground
from src.data.misread import (
    DEEP_GREY_MODES,
    IMAGE_MODES,
    LABEL_MODES,
    is_signed,
    raw_mode,
    refuse_deep_samples,
    refuse_inverted_palette,
    refuse_missing_colours,
    refuse_missing_strips,
    refuse_negative,
    refuse_transparency,
)
from src.data.pngs import metadata_follows_pixels, rows_are_missing

MAX_PIXELS = 64_000_000  # a 130 KB file can declare 1 Gpx; checked in the header, before anything is decoded
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # nothing else is even tried: EPS would start Ghostscript
LOSSY_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG with a preview behind it, as phones write
PACKED_GREY = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit grey to 0..255; divided by this it is raw again
ORIENTATION, PHOTOMETRIC = 0x112, 0x106  # EXIF and TIFF tags
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width

# Pillow's words on metadata that break the standard: they name no file, and what matters is a ValueError here
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


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
        refuse_deep_samples(image, path, IMAGE_MODES, remedy)
        signed = is_signed(image)
        upright = _upright(image, path)
        if signed:
            refuse_negative(upright, path)
        if upright.mode in ("P", "PA"):
            refuse_missing_colours(upright, path)
        with _decoding(path):
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
            rgb = np.array(upright.convert("RGB"))
        if upright.mode == "RGBA":
            refuse_transparency(upright, path)
        return rgb


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
            refuse_inverted_palette(image, path)
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
        header_is_enough = image.format != "PNG" or not metadata_follows_pixels(path)
        # PngImageFile.getexif would decode every pixel first
        exif = Image.Image.getexif(image) if header_is_enough else image.getexif()
        return (width, height) if exif.get(ORIENTATION, 1) in SIDEWAYS else (height, width)


def encoded_size(content: bytes) -> tuple[int, int] | None:
    """(H, W) that an encoded picture's header declares; None for what Pillow does not know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("JPEG", "JPEG2000")) as image:
                return image.height, image.width
    except Image.DecompressionBombError:
        raise
    except Exception:  # whatever Pillow raises on what it cannot read: another decoder may
        return None


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
            require_regular(path)
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
        refuse_missing_strips(image, path)
        yield image


def require_regular(path: str | Path) -> None:
    """OSError: absent, or not to be looked at. ValueError: a folder, or a pipe or device, which may never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise ValueError(f"{path}: {what}, where a file is required; correct the path, or move it away")


def check_pixels(width: int, height: int, max_pixels: int, path: str | Path) -> None:
    """ValueError for an image that declares more than `max_pixels`."""
    if width * height > max_pixels:
        raise ValueError(
            f"{path}: {width} x {height} is {width * height:,} pixels, the limit is {max_pixels:,}; tile or downscale "
            "it first"
        )


@contextmanager
def named_errors(path: str | Path, damaged: Callable[[Exception], str]) -> Iterator[None]:
    """Every error becomes one ValueError that names the file, or is that already; `damaged` has the words for those of
    the decoder."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; restore it, or correct the path") from error
    except MemoryError as error:
        raise ValueError(
            f"{path}: not enough memory to decode it; free some (in training, a lower data.num_workers or "
            "data.batch_size), or tile or downscale it first"
        ) from error
    except Exception as error:  # decoders raise every kind on damaged chunks and tags
        if str(path) in str(error) and isinstance(error, ValueError):
            raise
        if isinstance(error, OSError) and error.strerror:  # of the system: the pixels were not seen
            raise ValueError(f"{path}: cannot be read ({error.strerror}); make it readable, or move it away") from error
        raise ValueError(f"{path}: {damaged(error)}") from error


@contextmanager
def _decoding(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """`named_errors` of Pillow."""
    with named_errors(path, _damaged):
        try:
            yield
        except UnidentifiedImageError as error:
            raise ValueError(
                f"{path}: not a readable {', '.join(FORMATS)} image; convert, restore or remove it"
            ) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(
                f"{path}: {error}; the limit is {max_pixels:,} pixels: tile or downscale it first"
            ) from error


def _damaged(error: Exception) -> str:
    return f"cannot be decoded ({error or type(error).__name__}); the file is damaged or cut short: restore it"


def _upright(image: Image.Image, path: str | Path) -> Image.Image:
    """The decoded pixels, turned as EXIF says: the same for images and masks, or they would not lie on each other."""
    with _decoding(path):
        image.load()
        if image.format == "PNG" and _may_be_short(image) and rows_are_missing(path):
            raise ValueError("it holds fewer rows than it declares")
        return ImageOps.exif_transpose(image)


def _may_be_short(image: Image.Image) -> bool:
    """Rows that are missing in a PNG are black; where the last one is not, all are there."""
    last = image.crop((0, image.height - 1, *image.size))
    return bool(image.info.get("interlace")) or last.getbbox(alpha_only=False) is None


# ---- pixels of one channel


def _scaled(image: Image.Image, limits: tuple[float, float], path: str | Path) -> npt.NDArray[np.uint8]:
    """Deep grey (H, W) with `limits` at 0 and 255."""
    is_unsigned = raw_mode(image) == "I;32N"  # Pillow keeps 32 unsigned bits as if they were signed
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
    refuse_deep_samples(image, path, LABEL_MODES, "one channel of integers")
    stretched_by, signed = PACKED_GREY.get(raw_mode(image), 1), is_signed(image)
    upright = _upright(image, path)
    if signed:
        refuse_negative(upright, path)
    if upright.mode in ("LA", "PA", "RGBA"):
        refuse_transparency(upright, path)
        upright = upright.convert("RGB") if upright.mode == "RGBA" else upright.getchannel(0)
    pixels = np.asarray(upright)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(
                f"{path}: a mask with unequal colour channels; save it as one grey channel or a palette image"
            )
        pixels = pixels[..., 0]
    return pixels // stretched_by if stretched_by > 1 else pixels
