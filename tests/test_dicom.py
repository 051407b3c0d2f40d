"""DICOM images as pictures: what their headers say of the stored values is done, what they leave open is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from src.data.dicom import is_dicom
from src.data.pictures import read_picture

from . import dicoms

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (7, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 4096, (7, 9), dtype=np.uint16)
CT = RNG.integers(-1000, 1500, (7, 9)).astype(np.int16)


def grey(path: Path, **settings) -> np.ndarray:
    pixels = read_picture(path, **settings).pixels
    assert pixels.dtype == np.uint8 and pixels.shape == (7, 9, 3)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    assert (grey(dicoms.write(tmp_path / "a.dcm", GREY8)) == GREY8).all()
    assert (read_picture(dicoms.write(tmp_path / "c.dcm", COLOUR, "RGB")).pixels == COLOUR).all()


def test_monochrome1_is_turned(tmp_path: Path) -> None:
    assert (grey(dicoms.write(tmp_path / "a.dcm", GREY8, "MONOCHROME1")) == 255 - GREY8).all()


def test_spacing_is_of_rows_and_columns_in_mm(tmp_path: Path) -> None:
    assert read_picture(dicoms.write(tmp_path / "a.dcm", GREY8, PixelSpacing=[0.5, 0.25])).spacing == (0.5, 0.25)
    assert read_picture(dicoms.write(tmp_path / "b.dcm", GREY8)).spacing is None
    at_the_detector = dicoms.write(tmp_path / "c.dcm", GREY8, ImagerPixelSpacing=[0.1, 0.1])
    assert read_picture(at_the_detector).spacing is None  # magnified: no size of the patient
    both = {"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.1, 0.1]}
    assert read_picture(dicoms.write(tmp_path / "d.dcm", GREY8, **both)).spacing is None
    calibrated = both | {"PixelSpacingCalibrationType": "GEOMETRY"}
    assert read_picture(dicoms.write(tmp_path / "e.dcm", GREY8, **calibrated)).spacing == (0.1, 0.1)
    endless = dicoms.write(tmp_path / "f.dcm", GREY8, PixelSpacing=["1E999", "1E999"])
    assert read_picture(endless).spacing is None


def test_the_file_s_own_window_is_taken_in_rescaled_units(tmp_path: Path) -> None:
    more = {"RescaleSlope": 2, "RescaleIntercept": -24, "WindowCenter": [40, 500], "WindowWidth": [400, 2000]}
    path = dicoms.write(tmp_path / "ct.dcm", CT, **more)
    hu = CT * 2.0 - 24
    expected = ((hu - 39.5) / 399 + 0.5).clip(0, 1) * 255  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(grey(path), expected, atol=0.5)


@pytest.mark.parametrize(
    ("function", "width"),
    [*((f, w) for f in ("LINEAR", "LINEAR_EXACT") for w in (1.0, 2.0, 300.0)), ("SIGMOID", 300.0), ("SIGMOID", 4000.0)],
)
def test_windows_are_pydicom_s(tmp_path: Path, function: str, width: float) -> None:
    more = {"WindowCenter": 2000.0, "WindowWidth": width, "VOILUTFunction": function}
    path = dicoms.write(tmp_path / "a.dcm", GREY16, **more)
    theirs = apply_windowing(GREY16, dicoms.dataset(GREY16, **more)) / 65535 * 255
    np.testing.assert_allclose(grey(path), theirs, atol=0.51)


def test_stored_eight_bits_are_shown_whatever_else_is_said(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", GREY8, RescaleSlope=2, RescaleIntercept=-100)
    assert (grey(path) == GREY8).all() and (grey(path, intensity=[0, 4095]) == GREY8).all()


def test_functional_groups_say_the_same_as_the_top(tmp_path: Path) -> None:
    """Enhanced CT: rescaling and spacing of all frames, the window of this one."""
    measures, values, window = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    values.RescaleSlope, values.RescaleIntercept = 1, -1024
    window.WindowCenter, window.WindowWidth = 40, 400
    shared, of_frame = Dataset(), Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    of_frame.FrameVOILUTSequence = Sequence([window])
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence([of_frame]),
    }
    enhanced = dicoms.write(tmp_path / "a.dcm", GREY16, NumberOfFrames=1, **groups)
    more = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    plain = dicoms.write(tmp_path / "b.dcm", GREY16, PixelSpacing=[0.5, 0.25], **more)
    for settings in ({}, {"intensity": [-160, 240]}):
        assert (grey(enhanced, **settings) == grey(plain, **settings)).all() and grey(plain, **settings).any()
    assert read_picture(enhanced).spacing == (0.5, 0.25)


def test_intensity_comes_before_the_file_s_window(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "ct.dcm", CT, RescaleSlope=1, RescaleIntercept=0, WindowCenter=0, WindowWidth=1)
    np.testing.assert_allclose(grey(path, intensity=[-200, 300]), ((CT + 200) / 500).clip(0, 1) * 255, atol=0.5)


def test_a_lookup_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.LUTData = np.arange(256, dtype="<u2")[::-1].tobytes()
    path = dicoms.write(tmp_path / "a.dcm", GREY8, VOILUTSequence=Sequence([table]))
    assert (grey(path) == 255 - GREY8).all()


def test_a_palette_is_applied(tmp_path: Path) -> None:
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    more = {}
    for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
        more[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        more[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    pixels = read_picture(dicoms.write(tmp_path / "a.dcm", GREY8, "PALETTE COLOR", **more)).pixels
    assert (pixels == (colours >> 8).astype(np.uint8).T[GREY8]).all()


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.full((7, 9, 3), (76, 85, 255), np.uint8)  # pure red: ITU-T T.871
    pixels = read_picture(dicoms.write(tmp_path / "a.dcm", ybr, "YBR_FULL")).pixels
    assert np.abs(pixels.astype(int) - (254, 0, 0)).max() <= 2


def test_run_lengths_are_decoded(tmp_path: Path) -> None:
    made = dicoms.dataset(GREY8)
    made.compress(RLELossless)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert (grey(tmp_path / "a.dcm") == GREY8).all()


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    assert (grey(dicoms.write(tmp_path / "IM0001", GREY8)) == GREY8).all()
    assert is_dicom(tmp_path / "IM0001") and not is_dicom(Path(__file__)) and is_dicom("absent.dcm")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _noise(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:132] + RNG.integers(0, 256, 500, dtype=np.uint8).tobytes())


def _bare(path: Path) -> None:
    path.write_bytes(b"\0" * 128 + b"DICM")


@pytest.mark.parametrize("damage", [_cut, _noise, _bare])
def test_damaged_files_are_named(tmp_path: Path, damage) -> None:
    path = dicoms.write(tmp_path / "a.dcm", GREY8)
    damage(path)
    with pytest.raises(ValueError, match=r"a\.dcm: "):
        read_picture(path)


def _without_pixels(made) -> None:
    del made.PixelData


def _frames(made) -> None:
    made.NumberOfFrames = 3
    made.PixelData = made.PixelData * 3


def _deflated(made) -> None:
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def _huge(made) -> None:
    made.Rows, made.Columns = 65000, 65000


def _unknown(made) -> None:
    made.PhotometricInterpretation = "CMYK"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_pixels, "holds no pixels"),
        (_frames, "holds 3 frames"),
        (_deflated, "deflated"),
        (_huge, "4,225,000,000 pixels, the limit is 64,000,000"),
        (_unknown, "photometric interpretation CMYK"),
    ],
)
def test_what_is_not_one_image_is_refused(tmp_path: Path, change, said: str) -> None:
    made = dicoms.dataset(GREY8)
    change(made)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match=rf"a\.dcm: .*{said}"):
        read_picture(tmp_path / "a.dcm")


def test_deep_grey_without_a_window_asks(tmp_path: Path) -> None:
    path = dicoms.write(tmp_path / "a.dcm", GREY16)
    with pytest.raises(ValueError, match=r"without a window.*intensity=\[low,high\]"):
        read_picture(path)
    with pytest.raises(ValueError, match="colour of 16 bits"):
        read_picture(dicoms.write(tmp_path / "c.dcm", COLOUR.astype(np.uint16), "RGB"))


def test_pydicom_is_loaded_for_dicom_alone(tmp_path: Path) -> None:
    code = "import sys, src.data.pictures; print('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
