"""The only place that opens image files.

One decoder (Pillow) for images and masks, because the common three disagree: OpenCV rotates by EXIF and Pillow does
not, OpenCV returned a full-size picture for half a JPEG, torchvision.io crashed the process on 60 of 60 damaged PNGs.
What cannot be decoded to the pixels the author meant is a ValueError with the file, what it holds and what to do.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # a 130 KB file can declare 1 Gpx; checked in the header, before anything is decoded
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # nothing else is even tried: EPS would start Ghostscript
LOSSY_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG with a preview behind it, as phones write
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
LABEL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "I;16N")
FOREGROUND_RULES = ("binary", "threshold", "instances", "auto")
FEW_LABELS = 64  # with more distinct values "auto" may be looking at a photograph; larger label maps say "instances"
PACKED_GREY = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit grey to 0..255; divided by this it is raw again
ORIENTATION = 0x112
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Pixels as (H, W, 3) uint8 RGB, turned upright by EXIF.

    ValueError: unreadable or truncated file, more than 64 Mpx, several pages, transparency that hides something, and
    16-bit, 32-bit or float samples (how to scale them is the user's decision).
    """
    with _opened(path) as image:
        _refuse_deep_samples(image, path, IMAGE_MODES, "8 bits per channel, with the intensity range you want")
        upright = _upright(image, path)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            _refuse_transparency(upright, path)
        return np.array(upright.convert("RGB"))


def read_labels(path: str | Path) -> npt.NDArray[np.int32]:
    """Raw values as (H, W) int32: palette files give indices, 1-bit files 0/1, three equal channels give one.

    ValueError: as `read_image` (16- and 32-bit integers are labels like any other, though), colour channels that
    differ, a mask that lies in the alpha channel.
    """
    with _opened(path) as image:
        return _labels(image, path).astype(np.int32)


def read_mask(path: str | Path, foreground: str) -> npt.NDArray[np.uint8]:
    """Foreground as (H, W) uint8 of 0/1.

    `foreground` says what the stored values mean:
      "binary"     0 with 1, or 0 with 255; any other value is a ValueError
      "threshold"  value > 127, for lossy masks whose edges ring, as in Kvasir-SEG
      "instances"  value > 0, for label maps, as in GlaS
      "auto"       threshold for a lossy file, binary for {0, 1} or {0, 255}, instances for few integer labels;
                   ValueError where the values could mean two things
    """
    if foreground not in FOREGROUND_RULES:
        raise ValueError(f"unknown foreground rule {foreground!r}; use one of {', '.join(FOREGROUND_RULES)}")
    with _opened(path) as image:
        labels = _labels(image, path)
        if image.mode == "P":
            _refuse_inverted_palette(image, path)
        is_lossy = image.format in LOSSY_FORMATS
    count_of = _counts(labels, path)
    rule = _guessed_rule(count_of, is_lossy, path) if foreground == "auto" else foreground
    if rule == "binary" and not _is_binary(count_of):
        raise ValueError(
            f"{path}: a binary mask holds 0 and 1, or 0 and 255; this one holds {_listed(count_of)}. Set "
            "data.mask=threshold for grey or JPEG edges, data.mask=instances for label maps"
        )
    if rule == "threshold":
        _refuse_pointless_threshold(count_of, path)
    return (labels > (127 if rule == "threshold" else 0)).astype(np.uint8)


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
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The file with its header read and checked, no pixel decoded."""
    with ExitStack() as files:
        with _decoding(path):
            # an open file, not a name: named, Pillow 13 maps an uncompressed TIFF into memory with height and width
            # swapped where EXIF turns it, and its pixels come out scrambled
            image = files.enter_context(Image.open(files.enter_context(open(path, "rb")), formats=FORMATS))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{path}: {width} x {height} is {width * height:,} pixels, the limit is {MAX_PIXELS:,}; tile or "
                "downscale it first"
            )
        with _decoding(path):
            pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":
            raise ValueError(
                f"{path}: holds {pages} pages or frames, one image is required; save the one that is meant"
            )
        yield image


@contextmanager
def _decoding(path: str | Path) -> Iterator[None]:
    """Every reason Pillow may give for not decoding a file becomes one ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; restore it, or correct the path") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a readable {', '.join(FORMATS)} image; convert, restore or remove it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: {error}; the limit is {MAX_PIXELS:,} pixels: tile or downscale it first") from error
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


# ---- what mask values mean


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


def _counts(labels: npt.NDArray[Any], path: str | Path) -> dict[int, int]:
    """How often each value occurs, by rising value."""
    if labels.dtype in (np.bool_, np.uint8, np.uint16):
        occurrences = np.bincount(labels.ravel())  # np.unique would sort every pixel
        return {int(value): int(occurrences[value]) for value in np.flatnonzero(occurrences)}
    values, occurrences = np.unique(labels, return_counts=True)
    if values[0] < 0:
        raise ValueError(
            f"{path}: a mask with negative values, down to {values[0]}; save 0 for the background, labels above"
        )
    return dict(zip(values.tolist(), occurrences.tolist(), strict=True))


def _guessed_rule(count_of: dict[int, int], is_lossy: bool, path: str | Path) -> str:
    if is_lossy:
        return "threshold"
    if _is_binary(count_of):
        return "binary"
    if _looks_antialiased(count_of):
        raise ValueError(
            f"{path}: mostly 0 and 255 with grey values between ({_listed(count_of)}), as smoothed edges leave; set "
            "data.mask=threshold, or data.mask=instances if 255 is a label"
        )
    if len(count_of) > FEW_LABELS:
        raise ValueError(
            f"{path}: {len(count_of)} different values ({_listed(count_of)}), over {FEW_LABELS} are not guessed; set "
            "data.mask=threshold for a grey mask, data.mask=instances for a label map"
        )
    return "instances"


def _is_binary(count_of: dict[int, int]) -> bool:
    return count_of.keys() <= {0, 1} or count_of.keys() <= {0, 255}


def _looks_antialiased(count_of: dict[int, int]) -> bool:
    """For a mask that is not binary: it holds another value beside 0 and 255, and one grey level is enough."""
    most_common_label = max((value for value in count_of if value != 0), key=lambda value: count_of[value])
    return most_common_label == 255


def _refuse_pointless_threshold(count_of: dict[int, int], path: str | Path) -> None:
    """`> 127` empties a 0/1 mask or a label map in silence, and is no midpoint of 16-bit values."""
    highest = max(count_of)
    if 0 < highest <= 127 or highest > 255:
        raise ValueError(
            f"{path}: a threshold at 127 needs values up to 255, this mask holds {_listed(count_of)}. Set "
            "data.mask=binary for 0 and 1, data.mask=instances for labels"
        )


def _listed(count_of: dict[int, int]) -> str:
    values = [str(value) for value in count_of]
    return ", ".join(values[:10]) + (f", ... ({len(values)} values up to {values[-1]})" if len(values) > 10 else "")
