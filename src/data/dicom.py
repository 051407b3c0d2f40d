"""DICOM images of one frame, as the pictures that their own headers make of the stored values."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.data.decode import check_pixels, checked_intensity, encoded_size, named_errors, require_regular

SUFFIXES = (".dcm", ".dicom")
PREAMBLE = 128  # bytes before the letters DICM
SPARE = 65_536  # bytes that small compressed pictures may be longer than their pixels
DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax whose whole dataset is inflated before anything can be checked
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GREY = ("MONOCHROME1", "MONOCHROME2")  # 1: the lowest value is white


class Picture(NamedTuple):
    """`pixels` (H, W, 3) uint8 RGB, upright; `spacing`: distance of neighbouring rows and columns in mm, if known."""

    pixels: np.ndarray
    spacing: tuple[float, float] | None = None


def is_dicom(path: str | Path) -> bool:
    """By its content; a file of that name that cannot be opened counts, so that it is reported as what it claims."""
    if not os.path.isfile(path):  # to look into a pipe would wait for what comes out of it
        return Path(path).suffix.lower() in SUFFIXES
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:
        return Path(path).suffix.lower() in SUFFIXES


def read_dicom(path: str | Path, intensity: Sequence[float] | None, max_pixels: int) -> Picture:
    """Grey values become 0..255 by `intensity` (low, high: in rescaled units, such as HU), else by the file's own
    window or lookup table; stored grey of 8 bits without one stays as it is, whatever `intensity` and rescaling say.
    Palettes are applied, MONOCHROME1 is turned.

    ValueError: no image, several frames, more than `max_pixels`, deep grey without a window, an encoding that pydicom
    cannot read here, a damaged file.
    """
    with named_errors(path, _damaged), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's about values that break the standard, which may not matter here
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # which repeats them
        require_regular(path)
        return _read(path, intensity, max_pixels)


def _damaged(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"this DICOM file cannot be decoded ({reason}); restore it, or convert it to PNG"


class _Refused(Exception):
    """Why, in words for the user."""


def _read(path: str | Path, intensity: Sequence[float] | None, max_pixels: int) -> Picture:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == DEFLATED:
        raise _Refused("a deflated DICOM file; save it uncompressed or as JPEG, JPEG 2000 or RLE")
    file = pydicom.dcmread(path)
    if not any(key in file for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = file.get("Modality", "unknown modality")
        raise _Refused(f"holds no pixels ({kind}); an image is required: restore it, or remove it")
    width, height = int(file.Columns), int(file.Rows)
    try:
        check_pixels(width, height, max_pixels, path)
    except ValueError as error:
        raise _Refused(str(error).removeprefix(f"{path}: ")) from error
    if (frames := int(file.get("NumberOfFrames", 1) or 1)) > 1:
        raise _Refused(f"holds {frames} frames, one image is required; save the one that is meant")
    _check_encoded(file, width, height)
    _bring_up(file)
    return Picture(_pixels(file, intensity), _spacing(file))


def _check_encoded(file: Any, width: int, height: int) -> None:
    """Compressed pixels that would unpack to far more than the header declares, by which the limit is kept."""
    from pydicom.encaps import generate_frames

    if not file.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    declared = width * height * int(file.get("SamplesPerPixel", 1)) * (int(file.get("BitsAllocated", 8)) // 8)
    if len(file.PixelData) > 2 * declared + SPARE:  # no encoding makes them twice as long
        raise _Refused(f"holds {len(file.PixelData):,} bytes for {declared:,} of pixels; it is damaged: restore it")
    frame = next(generate_frames(file.PixelData, number_of_frames=1), b"")
    size = encoded_size(frame)
    if size is not None and size != (height, width):
        raise _Refused(f"declares {height} x {width} and holds {size[0]} x {size[1]} pixels; restore it")


def _bring_up(file: Any) -> None:
    """Enhanced files keep rescaling, window and spacing in functional groups, of all frames and of each: brought to the
    top, where all others have them."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(file.get(groups) or [])[:1]:
            for name in ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for values in list(group.get(name) or [])[:1]:
                    for element in values:
                        if element.tag not in file:
                            file.add(element)


def _pixels(file: Any, intensity: Sequence[float] | None) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, apply_modality_lut
    from pydicom.pixels import pixel_array as stored_values

    kind = str(file.get("PhotometricInterpretation", ""))
    stored = stored_values(file)  # YBR comes as RGB
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(stored, file)
        return (colours >> (8 * (colours.dtype.itemsize - 1))).astype(np.uint8)
    if kind in COLOUR and stored.ndim == 3:
        if stored.dtype != np.uint8:
            raise _Refused(f"colour of {8 * stored.dtype.itemsize} bits is not read; save it with 8 bits per channel")
        return stored
    if kind not in GREY or stored.ndim != 2:
        raise _Refused(
            f"photometric interpretation {kind or 'missing'} of shape {stored.shape} is not read; convert it"
        )
    grey = _grey(file, stored, apply_modality_lut(stored, file).astype(np.float64), intensity)
    if kind == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=2)


def _grey(file: Any, stored: np.ndarray, values: np.ndarray, intensity: Sequence[float] | None) -> np.ndarray:
    """(H, W) uint8 of stored values and the same rescaled."""
    eight_bits = stored.dtype == np.uint8
    if not np.isfinite(values).all():
        raise _Refused("holds NaN or infinite values; replace them")
    has_window = file.get("WindowWidth") is not None and file.get("WindowCenter") is not None
    if eight_bits and not has_window and not file.get("VOILUTSequence"):
        return stored
    if intensity is not None and not eight_bits:
        low, high = checked_intensity(intensity)
        shown = (values - low) / (high - low)
    elif file.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        bits = int(file.VOILUTSequence[0].LUTDescriptor[2])
        shown = apply_voi(np.rint(values).astype(np.int64), file).astype(np.float64) / (2**bits - 1)
    elif has_window:
        window = _first(file.WindowCenter), _first(file.WindowWidth)
        _refuse_pointless_window(*window, file.get("VOILUTFunction"))
        shown = _windowed(values, *window, file.get("VOILUTFunction"))
    else:
        raise _Refused(
            f"grey from {values.min():g} to {values.max():g} without a window, and how to scale it is not told; set "
            "intensity=[low,high], the values that shall become black and white"
        )
    return np.rint(shown.clip(0, 1) * 255).astype(np.uint8)


def _refuse_pointless_window(centre: float, width: float, function: Any) -> None:
    """One that makes every picture black, white or both: PS3.3, C.11.2.1.2 wants a width of 1, in exact functions one
    above 0."""
    is_exact = function in ("SIGMOID", "LINEAR_EXACT")
    if not math.isfinite(centre + width) or width <= 0 or (width < 1 and not is_exact):
        raise _Refused(
            f"window of centre {centre:g} and width {width:g}, which shows nothing; correct it, or set "
            "intensity=[low,high], the values that shall become black and white"
        )


def _windowed(values: np.ndarray, centre: float, width: float, function: Any) -> np.ndarray:
    """0..1 by a window: DICOM PS3.3, C.11.2.1.2 (linear) and C.11.2.1.3."""
    if function == "SIGMOID":
        return 0.5 * (1 + np.tanh(2 * (values - centre) / width))  # 1 / (1 + e^-4..), which does not overflow
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _first(value: Any) -> float:
    """Several windows may be offered; the first is the one that was meant."""
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _spacing(file: Any) -> tuple[float, float] | None:
    """Of the patient if known. What is told at the detector or on a film, which magnify, is not taken for it: neither
    ImagerPixelSpacing nor what repeats it without a word of calibration (PS3.3, 10.7.1.3)."""
    value, detector = file.get("PixelSpacing"), file.get("ImagerPixelSpacing")
    if not value or (value == detector and not file.get("PixelSpacingCalibrationType")):
        return None
    rows, columns = (float(part) for part in value)
    return (rows, columns) if 0 < rows < math.inf and 0 < columns < math.inf else None
