"""DICOM files: what can be shown, and what their headers may say wrongly."""

import io
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from .. import dicoms, hostile
from .files import GREY, PICTURE, Odd, grey_rgb, holding


def medical() -> Iterator[Odd]:
    """DICOM: grey and colour, and what its headers can say wrongly."""
    write = dicoms.write
    yield Odd("grey.dcm", partial(write, pixels=GREY), grey_rgb(GREY))
    yield Odd("inverted.dcm", partial(write, pixels=GREY, kind="MONOCHROME1"), grey_rgb(255 - GREY))
    yield Odd("colour.dcm", partial(write, pixels=PICTURE, kind="RGB"), PICTURE)
    window = {"WindowCenter": 128, "WindowWidth": 256}
    yield Odd("window.dcm", partial(write, pixels=GREY.astype(np.uint16), **window), grey_rgb(GREY), 1)
    yield Odd("dot.dcm", partial(write, pixels=GREY[:1, :1]), grey_rgb(GREY[:1, :1]))
    yield Odd("odd_spacing.dcm", partial(write, pixels=GREY, PixelSpacing=[0, -1]), grey_rgb(GREY))
    yield Odd("long_spacing.dcm", partial(write, pixels=GREY, PixelSpacing=[1, 1, 1]), grey_rgb(GREY), either=True)
    yield Odd("one_spacing.dcm", partial(write, pixels=GREY, PixelSpacing=1), grey_rgb(GREY), either=True)
    yield Odd("no_window.dcm", partial(write, pixels=GREY.astype(np.uint16)))
    yield Odd("deep_colour.dcm", partial(write, pixels=PICTURE.astype(np.uint16), kind="RGB"))
    for name, more in {
        "zero_width": {"WindowCenter": 100, "WindowWidth": 0},
        "negative_width": {"WindowCenter": 100, "WindowWidth": -5},
        "empty_window": {"WindowCenter": [], "WindowWidth": []},
        "huge_window": {"WindowCenter": "1E308", "WindowWidth": "1E-308"},
        "sigmoid_zero": {"WindowCenter": 1, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        "exact_zero": {"WindowCenter": 1, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        "steep": {"RescaleSlope": "1E308", "RescaleIntercept": 0},
        "negative_rows": {"Rows": 0},
        "no_columns": {"Columns": 0},
        "more_rows": {"Rows": 300},
        "huge": {"Rows": 65_535, "Columns": 65_535},
        "four_samples": {"SamplesPerPixel": 4},
        "no_bits": {"BitsAllocated": 0},
        "odd_bits": {"BitsAllocated": 13},
        "stored_bits": {"BitsStored": 99},
        "frames": {"NumberOfFrames": 3},
        "unknown_kind": {"PhotometricInterpretation": "SEPIA"},
        "no_kind": {"PhotometricInterpretation": ""},
        "palette_missing": {"PhotometricInterpretation": "PALETTE COLOR"},
    }.items():
        yield Odd(f"{name}.dcm", partial(write, pixels=GREY.astype(np.uint16), **more))
    yield Odd("frames_negative.dcm", partial(write, pixels=GREY, NumberOfFrames=-1), grey_rgb(GREY), either=True)
    # texts of the right length where numbers must be
    for name, before, after in (
        ("nan_window", b"128.5", b"  NaN"),
        ("text_window", b"128.5", b"hello"),
        ("endless_window", b"128.5", b"1E999"),
    ):
        content = _dicom_bytes(GREY.astype(np.uint16), WindowCenter="128.5", WindowWidth="256")
        yield Odd(f"{name}.dcm", holding(content.replace(before, after)))
    content = _dicom_bytes(GREY, Rows=30)
    yield Odd("rows_of_text.dcm", holding(content.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0LO")))
    yield Odd("no_group.dcm", holding(bytes(128) + b"DICM" + content[-2000:]))
    yield Odd("bare.dcm", holding(bytes(128) + b"DICM"))
    yield Odd("letters_alone.png", holding(bytes(128) + b"DICM"))
    yield Odd("noise.dcm", holding(bytes(128) + b"DICM" + b"\xff" * 500))
    for name, change in {
        "no_pixels": lambda made: delattr(made, "PixelData"),
        "no_rows": lambda made: delattr(made, "Rows"),
        "no_bits_told": lambda made: delattr(made, "BitsAllocated"),
        "empty_pixels": lambda made: setattr(made, "PixelData", b""),
        "unknown_syntax": lambda made: setattr(made.file_meta, "TransferSyntaxUID", "1.2.3.4"),
        "video": partial(_encapsulated, syntax="1.2.840.10008.1.2.4.102"),
        "jpeg_2000_damaged": partial(_encapsulated, syntax=JPEG2000Lossless),
        "jpeg_damaged": partial(_encapsulated, syntax=JPEGBaseline8Bit),
        # a small header before much: the limit on pixels is kept by the header
        "rle_bomb": partial(_encapsulated, syntax=RLELossless, frame=bytes(2_000_000)),
        "jpeg_larger": partial(_encapsulated, syntax=JPEGBaseline8Bit, frame=hostile.picture(900, 700, kind="JPEG")),
        "deflated": lambda made: setattr(made.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2.1.99"),
    }.items():
        yield Odd(f"{name}.dcm", partial(_changed_dicom, change=change))
    yield Odd("rle.dcm", holding(rle_dicom()), grey_rgb(GREY))
    damaged_rle = bytearray(rle_dicom())
    damaged_rle[-700:-500] = b"\xff" * 200
    yield Odd("rle_damaged.dcm", holding(bytes(damaged_rle)), grey_rgb(GREY), 255, either=True)  # no check sum


def _dicom_bytes(pixels: np.ndarray, **more: Any) -> bytes:
    stream = io.BytesIO()
    dicoms.dataset(pixels, **more).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _changed_dicom(path: Path, change: Callable[[Any], object]) -> None:
    made = dicoms.dataset(GREY)
    change(made)
    made.save_as(path, enforce_file_format=True)


def _encapsulated(made: Any, syntax: str, frame: bytes = bytes(range(200))) -> None:
    """One frame, by default of bytes that no decoder knows."""
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True


@cache
def rle_dicom() -> bytes:
    made = dicoms.dataset(GREY)
    made.compress(RLELossless)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
