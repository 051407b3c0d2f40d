"""What Pillow reads without a word and shows otherwise than it was meant: told apart here, and refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
DEEP_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
DEEP_GREY_MODES = (*DEEP_INTEGER_MODES, "F")
LABEL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", *DEEP_INTEGER_MODES)
SAMPLE_FORMAT, SIGNED = 0x153, 2  # TIFF tag


def refuse_missing_strips(image: Image.Image, path: str | Path) -> None:
    """What no strip or tile of a file covers would be black."""
    tiles: list[Any] = list(getattr(image, "tile", []))  # none of a WebP
    covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in tiles)
    if tiles and covered < image.width * image.height:
        raise ValueError(
            f"{path}: holds the pixels of a part of its {image.width} x {image.height} only; the file is damaged: "
            "restore it"
        )


def is_signed(image: Image.Image) -> bool:
    """Whether Pillow takes signed bytes for unsigned ones."""
    formats = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ())
    return image.mode == "L" and SIGNED in (formats if isinstance(formats, tuple) else (formats,))


def refuse_negative(upright: Image.Image, path: str | Path) -> None:
    if np.asarray(upright).max() > 127:
        raise ValueError(f"{path}: signed 8-bit values below 0; save it with values from 0 to 255")


def refuse_missing_colours(upright: Image.Image, path: str | Path) -> None:
    """Pillow draws an index without a colour black."""
    palette = upright.palette
    colours = len(palette.palette) // len(palette.mode) if palette else 0
    highest = int(np.asarray(upright.getchannel(0)).max())
    if highest >= colours:
        raise ValueError(
            f"{path}: index {highest} of a palette of {colours} colours; the file is damaged: restore it, or save it "
            "as RGB"
        )


def refuse_deep_samples(image: Image.Image, path: str | Path, modes: tuple[str, ...], remedy: str) -> None:
    """Pillow's convert("RGB") clips 16-bit grey at 255, and 16-bit colour opens as "RGB" with the low byte dropped."""
    stored = raw_mode(image)
    low_byte_dropped = image.mode in IMAGE_MODES and ";16" in stored and stored[-1] in "LBN"  # not BMP's "BGR;16"
    if image.mode not in modes or low_byte_dropped:
        raise ValueError(
            f"{path}: mode {image.mode}, stored as {stored or image.mode}, is not read; save it as {remedy}"
        )


def raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file ("RGB;16B", "L;4"), known until they are decoded; empty where not told."""
    tiles: list[Any] = list(getattr(image, "tile", []))
    arguments = tiles[0][3] if tiles else ""
    stored = arguments[0] if isinstance(arguments, tuple) else arguments
    return stored if isinstance(stored, str) else ""


def refuse_transparency(image: Image.Image, path: str | Path) -> None:
    lowest = image.getchannel("A").getextrema()[0]
    if lowest != 255:
        raise ValueError(
            f"{path}: mode {image.mode} whose alpha channel is not opaque (down to {lowest}, 255 is required); without "
            "it hidden pixels would show, or a mask be lost: flatten an image, save a mask as one grey channel"
        )


def refuse_inverted_palette(image: Image.Image, path: str | Path) -> None:
    """Optimisers reorder palettes; where index 0 is drawn brightest, foreground and background may be swapped."""
    drawn = np.asarray(image.convert("L"))
    background = np.asarray(image) == 0
    if background.any() and not background.all() and drawn[background][0] > drawn[~background].max():
        raise ValueError(
            f"{path}: palette index 0, the background, is drawn brighter than every label, so the indices may be "
            "swapped; save the mask as one grey channel"
        )
