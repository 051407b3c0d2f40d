"""Every kind of image and mask file that was seen to go wrong, one file each."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from src.data.decode import MAX_PIXELS, image_size, read_image, read_labels, read_mask

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
BLOB = np.zeros((16, 24), dtype=np.uint8)
BLOB[4:12, 6:18] = 1
READERS: list[Callable[[Path], object]] = [read_image, read_labels, lambda path: read_mask(path, "auto")]


def _saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def _pillow_mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def _palette_file(path: Path, indices: np.ndarray, palette: list[int]) -> Path:
    image = Image.fromarray(indices).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(palette)
    image.save(path)
    return path


def _png(path: Path, size: tuple[int, int], depth: int, colour_type: int, rows: bytes, after: bytes = b"") -> Path:
    """A PNG that Pillow does not write: any depth, any declared size, chunks behind the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size[0], size[1], depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + (chunk(b"eXIf", after) if after else b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


# ---- images


def test_lossless_colour_comes_back_as_it_was(tmp_path: Path) -> None:
    for suffix in (".png", ".bmp", ".tif"):
        pixels = read_image(_saved(tmp_path / f"a{suffix}", COLOURS))
        assert pixels.dtype == np.uint8 and pixels.flags.writeable
        np.testing.assert_array_equal(pixels, COLOURS)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("1", ".png"), ("CMYK", ".jpg"), ("RGBA", ".png"), ("LA", ".png")]
)
def test_other_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    flat = np.full((16, 16, 3), 255, dtype=np.uint8)
    flat[:, :8] = 0
    pixels = read_image(_saved(tmp_path / f"a{suffix}", flat, mode))
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels.astype(int), flat, atol=3)


def test_palette_images_show_their_colours(tmp_path: Path) -> None:
    path = _palette_file(tmp_path / "a.png", np.array([[0, 1]], dtype=np.uint8), [10, 20, 30, 40, 50, 60])
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparency_that_hides_pixels_is_refused(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, dtype=np.uint8)])
    rgba[0, 0, 3] = 7
    with pytest.raises(ValueError, match=r"RGBA.*down to 7.*flatten"):
        read_image(_saved(tmp_path / "a.png", rgba))
    grey = _saved(tmp_path / "b.png", COLOURS[..., 0], transparency=int(COLOURS[0, 0, 0]))
    with pytest.raises(ValueError, match=r"alpha channel.*down to 0"):
        read_image(grey)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grey_is_refused_as_an_image(tmp_path: Path, dtype: type) -> None:
    path = _saved(tmp_path / "a.tif", (np.arange(24).reshape(4, 6) * 200).astype(dtype))
    with pytest.raises(ValueError, match=r"a\.tif: mode (I;16|I|F), .*8 bits per channel"):
        read_image(path)


def test_16_bit_colour_is_refused_though_pillow_calls_it_rgb(tmp_path: Path) -> None:
    path = _png(tmp_path / "a.png", (2, 1), 16, 2, b"\0" + bytes(range(12)))
    assert _pillow_mode(path) == "RGB"
    for read in (read_image, read_labels):
        with pytest.raises(ValueError, match=r"RGB;16B"):
            read(path)


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [(np.uint16, ".png"), (np.uint16, ".tif"), (">u2", ".tif"), (np.int32, ".tif"), (np.float32, ".tif")],
)
def test_deep_grey_is_scaled_by_a_declared_range(tmp_path: Path, dtype: Any, suffix: str) -> None:
    path = _saved(tmp_path / f"a{suffix}", np.array([[0, 1000, 1500], [2000, 3000, 60000]], dtype=dtype))
    pixels = read_image(path, intensity=(1000, 3000))
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    expected = np.array([[0, 0, 64], [128, 255, 255]])  # 63.75 and 127.5 rounded
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
    with pytest.raises(ValueError, match=r"8 bits per channel, or set intensity=\[low,high\]"):
        read_image(path)


def test_deep_grey_turns_and_may_be_negative(tmp_path: Path) -> None:
    hounsfield = np.array([[-200, -100, 0], [100, 200, 300]], dtype=np.int32)
    pixels = read_image(_saved(tmp_path / "a.tif", hounsfield, exif=_exif(6)), intensity=[-100, 155])
    assert pixels[..., 0].tolist() == [[200, 0], [255, 0], [255, 100]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_8_bit_files_do_not_care_for_a_range(tmp_path: Path, mode: str) -> None:
    path = _saved(tmp_path / "a.tif", COLOURS, mode)
    np.testing.assert_array_equal(read_image(path, intensity=(10, 20)), read_image(path))


def test_16_bit_colour_stays_refused_with_a_range(tmp_path: Path) -> None:
    for colour_type, channels in ((2, 3), (4, 2), (6, 4)):  # RGB, grey with alpha, RGB with alpha
        path = _png(tmp_path / "a.png", (2, 1), 16, colour_type, b"\0" + bytes(range(4 * channels)))
        with pytest.raises(ValueError, match=r"16B, is not read; save it as 8 bits per channel$"):
            read_image(path, intensity=(0, 65535))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_and_counted(tmp_path: Path, bad: float) -> None:
    path = _saved(tmp_path / "a.tif", np.array([[0, bad, 1, bad]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"a\.tif: 2 of 4 pixels are NaN or infinite"):
        read_image(path, intensity=(0, 1))


@pytest.mark.parametrize("intensity", [(1, 1), (2, 1), (0, np.nan), (-np.inf, 0), (0,), (0, 1, 2), 5, "ab", (None, 1)])
def test_a_range_that_is_none_is_refused(tmp_path: Path, intensity: Any) -> None:
    with pytest.raises(ValueError, match=r"intensity=.* must be two numbers, low < high"):
        read_image(tmp_path / "never_opened.tif", intensity)


def test_tiff_values_that_pillow_misreads(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.tif", np.array([[0, -1]], dtype=np.int32))
    signed, unsigned = (struct.pack("<HHII", 339, 3, 1, sample_format) for sample_format in (2, 1))
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    assert read_image(path, intensity=(0, 2**32 - 1))[..., 0].tolist() == [[0, 255]]
    path = _saved(tmp_path / "b.tif", np.array([[0, 9]], dtype=np.uint16))
    black_is_0, white_is_0 = (struct.pack("<HHII", 262, 3, 1, photometric) for photometric in (1, 0))
    path.write_bytes(path.read_bytes().replace(black_is_0, white_is_0))
    with pytest.raises(ValueError, match=r"b\.tif: stored with white as 0"):
        read_image(path, intensity=(0, 9))


def test_a_transparent_grey_value_is_refused_in_deep_files_too(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png", np.array([[0, 900]], dtype=np.uint16), transparency=900)
    with pytest.raises(ValueError, match=r"a\.png: mode I;16 with a transparent grey value"):
        read_image(path, intensity=(0, 1000))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".bmp"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    path = _saved(tmp_path / f"cut{suffix}", np.repeat(noise[..., None], 3, axis=2))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in READERS:
        with pytest.raises(ValueError, match=rf"cut\{suffix}: (cannot be decoded \(.+\)|not a readable .*); .*restore"):
            read(path)


def test_no_damaged_png_passes(tmp_path: Path) -> None:
    whole = _saved(tmp_path / "whole.png", COLOURS).read_bytes()
    start = whole.index(b"IDAT")
    for place in range(start + 6, start + 60, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "flip.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"flip\.png"):
            read_image(tmp_path / "flip.png")


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(content)
    for read in [*READERS, image_size]:
        with pytest.raises(ValueError, match=r"page\.png: not a readable JPEG, PNG"):
            read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("side", [8001, 12_000, 30_000])
@pytest.mark.parametrize("warnings_are_errors", [False, True])
def test_bombs_stop_at_the_header(tmp_path: Path, side: int, warnings_are_errors: bool) -> None:
    path = _png(tmp_path / "bomb.png", (side, side), 1, 0, b"no pixels")
    for read in [*READERS, image_size]:
        with warnings.catch_warnings():
            warnings.simplefilter("error" if warnings_are_errors else "ignore")
            with pytest.raises(ValueError, match=rf"bomb\.png.*limit is {MAX_PIXELS:,}"):
                read(path)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(COLOURS)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(ValueError, match=r"stack\.tif: holds 3 pages"):
        read_image(tmp_path / "stack.tif")


# ---- orientation


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_mask_and_size_turn_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    quarter = np.zeros((16, 32), dtype=np.uint8)
    quarter[:8, :16] = 255
    path = _saved(tmp_path / f"a{suffix}", np.repeat(quarter[..., None], 3, axis=2), exif=_exif(orientation))
    flipped = {1: quarter, 2: quarter[:, ::-1], 3: quarter[::-1, ::-1], 4: quarter[::-1]}
    turned = {5: quarter.T, 6: quarter.T[:, ::-1], 7: quarter.T[::-1, ::-1], 8: quarter.T[::-1]}
    expected = ({**flipped, **turned})[orientation]
    np.testing.assert_array_equal(read_image(path)[..., 0] > 127, expected > 127)
    assert image_size(path) == expected.shape
    mask = _saved(tmp_path / f"m{suffix}", quarter, exif=_exif(orientation))
    np.testing.assert_array_equal(read_mask(mask, "threshold"), expected > 127)
    assert image_size(mask) == expected.shape


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_label_maps_turn_too(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(24, dtype=np.uint16).reshape(4, 6) * 300
    path = _saved(tmp_path / f"a{suffix}", labels, exif=_exif(6))
    np.testing.assert_array_equal(read_labels(path), labels.T[:, ::-1])


def test_size_sees_exif_behind_the_pixels(tmp_path: Path) -> None:
    path = _png(tmp_path / "a.png", (3, 2), 8, 0, b"\0abc" * 2, after=_exif(6).tobytes().removeprefix(b"Exif\0\0"))
    assert image_size(path) == read_image(path).shape[:2] == (3, 2)


def test_size_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path / "a.png", COLOURS)

    def refuse(_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    assert image_size(path) == (6, 9)


# ---- masks


@pytest.mark.parametrize("rule", ["binary", "auto"])
@pytest.mark.parametrize("foreground", [1, 255])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_binary_masks_in_either_spelling(tmp_path: Path, rule: str, foreground: int, suffix: str) -> None:
    mask = read_mask(_saved(tmp_path / f"a{suffix}", BLOB * np.uint8(foreground)), rule)
    assert mask.dtype == np.uint8 and mask.shape == BLOB.shape
    np.testing.assert_array_equal(mask, BLOB)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_binary(tmp_path: Path, value: int) -> None:
    path = _saved(tmp_path / "a.png", np.full((4, 5), value, dtype=np.uint8))
    for rule in ("binary", "auto"):
        assert (read_mask(path, rule) == (value > 0)).all()


@pytest.mark.parametrize("values", [[0, 2], [0, 1, 255], [1, 255], [0, 128, 255]])
def test_binary_refuses_any_other_value(tmp_path: Path, values: list[int]) -> None:
    path = _saved(tmp_path / "a.png", np.array([values], dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"a\.png.*holds {', '.join(map(str, values))}\. Set data\.mask="):
        read_mask(path, "binary")


def test_one_bit_and_palette_masks_give_zero_and_one(tmp_path: Path) -> None:
    one_bit = tmp_path / "bit.png"
    Image.fromarray(BLOB * np.uint8(255)).convert("1").save(one_bit)
    assert _pillow_mode(one_bit) == "1"
    palette = _palette_file(tmp_path / "palette.png", BLOB, [0, 0, 0, 255, 255, 255])
    for path in (one_bit, palette):
        np.testing.assert_array_equal(read_labels(path), BLOB)
        for rule in ("binary", "auto", "instances"):
            np.testing.assert_array_equal(read_mask(path, rule), BLOB)


def test_a_palette_with_a_bright_background_is_not_guessed(tmp_path: Path) -> None:
    path = _palette_file(tmp_path / "a.png", BLOB, [255, 255, 255, 0, 0, 0])
    with pytest.raises(ValueError, match="indices may be swapped"):
        read_mask(path, "binary")


@pytest.mark.parametrize("rule", ["threshold", "auto"])
def test_jpeg_masks_do_not_swell(tmp_path: Path, rule: str) -> None:
    path = _saved(tmp_path / "a.jpg", np.repeat(BLOB[..., None] * np.uint8(255), 3, axis=2), quality=60)
    labels = read_labels(path)
    assert (labels > 0).sum() > BLOB.sum()  # it does ring, so `> 0` would swell it
    np.testing.assert_array_equal(read_mask(path, rule), BLOB)
    with pytest.raises(ValueError, match=r"data\.mask=threshold"):
        read_mask(path, "binary")


@pytest.mark.parametrize("rule", ["instances", "auto"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_every_instance_is_foreground(tmp_path: Path, rule: str, dtype: type) -> None:
    labels: np.ndarray = np.array([[0, 1, 2, 7]], dtype=dtype) * (1 if dtype == np.uint8 else 100)
    path = _saved(tmp_path / "a.tif", labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert read_labels(path).dtype == np.int32
    assert read_mask(path, rule).tolist() == [[0, 1, 1, 1]]


def test_auto_asks_where_edges_are_grey(tmp_path: Path) -> None:
    smooth = np.array([[0, 0, 60, 180, 255, 255, 255]], dtype=np.uint8)
    path = _saved(tmp_path / "a.png", smooth)
    with pytest.raises(ValueError, match=r"data\.mask=threshold"):
        read_mask(path, "auto")
    assert read_mask(path, "threshold").tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    rare = _saved(tmp_path / "b.png", np.array([[0, 60, 60, 180, 180, 255]], dtype=np.uint8))
    assert read_mask(rare, "auto").tolist() == [[0, 1, 1, 1, 1, 1]]


def test_auto_asks_where_values_are_too_many(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    with pytest.raises(ValueError, match=r"200 different values .*data\.mask=instances"):
        read_mask(path, "auto")
    assert read_mask(path, "instances").sum() == 199


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2, 7], [0, 65535]])
def test_a_threshold_that_would_empty_the_mask_is_refused(tmp_path: Path, values: list[int]) -> None:
    path = _saved(tmp_path / "a.png", np.array([values], dtype=np.uint16 if max(values) > 255 else np.uint8))
    with pytest.raises(ValueError, match=r"threshold at 127.*data\.mask="):
        read_mask(path, "threshold")


def test_a_threshold_leaves_an_empty_mask_empty(tmp_path: Path) -> None:
    assert read_mask(_saved(tmp_path / "a.jpg", BLOB * np.uint8(0)), "threshold").sum() == 0


def test_a_mask_in_the_alpha_channel_is_refused(tmp_path: Path) -> None:
    rgba = np.zeros((*BLOB.shape, 4), dtype=np.uint8)
    rgba[..., 3] = BLOB * 255
    for read in (read_labels, lambda path: read_mask(path, "auto")):
        with pytest.raises(ValueError, match=r"a\.png: mode RGBA .*one grey channel"):
            read(_saved(tmp_path / "a.png", rgba))
    rgba[..., 3] = 255
    rgba[..., :3] = BLOB[..., None]
    np.testing.assert_array_equal(read_mask(_saved(tmp_path / "b.png", rgba), "binary"), BLOB)


def test_colour_masks_are_refused(tmp_path: Path) -> None:
    red = np.dstack([BLOB * 255, BLOB * 0, BLOB * 0])
    with pytest.raises(ValueError, match=r"a\.png: a mask with unequal colour channels; save"):
        read_mask(_saved(tmp_path / "a.png", red), "auto")


@pytest.mark.parametrize(("depth", "row"), [(2, b"\0\x1b"), (4, b"\0\x01\x23")])
def test_packed_grey_keeps_its_labels(tmp_path: Path, depth: int, row: bytes) -> None:
    assert read_labels(_png(tmp_path / "a.png", (4, 1), depth, 0, row)).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("dtype", "said"), [(np.int32, "negative values, down to -1"), (np.float32, "mode F")])
def test_negative_and_float_masks_are_refused(tmp_path: Path, dtype: type, said: str) -> None:
    path = _saved(tmp_path / "a.tif", np.array([[-1, 0, 1]], dtype=dtype))
    with pytest.raises(ValueError, match=said):
        read_mask(path, "instances")


def test_an_unknown_rule_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'otsu'.*binary, threshold, instances, auto"):
        read_mask(tmp_path / "a.png", "otsu")


@pytest.mark.skipif("EMISNET_DATA" not in os.environ, reason="EMISNET_DATA does not say where the real datasets are")
def test_real_jpeg_masks_would_swell_without_the_threshold() -> None:
    masks = sorted((Path(os.environ["EMISNET_DATA"]) / "kvasir_seg" / "masks").glob("*.jpg"))[:20]
    if not masks:
        pytest.skip("no kvasir_seg in EMISNET_DATA")
    assert sum(int((read_labels(path) > 0).sum()) for path in masks) > sum(
        int(read_mask(path, "auto").sum()) for path in masks
    )
