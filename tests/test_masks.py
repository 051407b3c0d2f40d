"""Masks kept small beside the rows: nothing is lost but size, and they compare as sets of pixels do."""

from pathlib import Path

import numpy as np
import pytest

from src.masks import FILE, SIDE, Packed, changes, read_masks, small_mask, write_masks
from src.scoring import read_rows
from src.subject import own_source

RNG = np.random.default_rng(0)


def rows_of(ids: list[str], part: str = "val") -> list[dict[str, str]]:
    return [{"id": id_, "part": part} for id_ in ids]


def test_a_small_mask_stays_and_a_large_one_keeps_its_shape_and_share() -> None:
    small = RNG.random((40, 56)) > 0.5
    assert np.array_equal(small_mask(small), small)
    large = np.zeros((600, 1000), bool)
    large[:, :250] = True
    assert small_mask(large).shape == (154, SIDE) and small_mask(large).mean() == pytest.approx(0.25)
    assert small_mask(large[:1]).shape == (1, SIDE)


def test_a_pixel_is_foreground_where_half_of_it_is() -> None:
    blocks = np.zeros((4 * SIDE, 4 * SIDE), bool)
    blocks[:4, :4] = True  # the whole of one pixel, then more and less than half of others
    blocks[:3, 4:8], blocks[:1, 8:12] = True, True
    assert small_mask(blocks)[0, :4].tolist() == [True, True, False, False]


def test_written_masks_come_back_by_id_and_part(tmp_path: Path) -> None:
    masks = [RNG.random(shape) > 0.6 for shape in ((7, 5), (3, 11), (16, 16), (1, 1))]
    rows = [*rows_of(["b", "a", "ü-1"]), *rows_of(["a"], "test")]
    write_masks(tmp_path / FILE, rows, [Packed.of(mask) for mask in masks])
    val, test = read_masks(tmp_path / FILE, "val"), read_masks(tmp_path / FILE, "test")
    assert val.ids == ["a", "b", "ü-1"] and test.ids == ["a"] and read_masks(tmp_path / FILE, "testA").ids == []
    for id_, expected in zip(["b", "a", "ü-1"], masks, strict=False):
        assert np.array_equal(val.mask(id_), expected)
    assert np.array_equal(test.mask("a"), masks[3])


def test_changes_are_one_minus_iou_of_the_pixels(tmp_path: Path) -> None:
    shapes, ids = ((9, 13), (30, 31), (8, 8), (8, 8), (5, 5)), ["a", "b", "c", "d", "e"]
    one = [RNG.random(shape) > 0.5 for shape in shapes]
    other = [RNG.random(shape) > 0.5 for shape in shapes]
    one[2][:], other[2][:] = False, False  # both empty
    one[3][:], other[3][:] = True, False
    for name, masks in (("one", one), ("other", other)):
        write_masks(tmp_path / f"{name}.npz", rows_of(ids), [Packed.of(mask) for mask in masks])
    found = changes(read_masks(tmp_path / "one.npz", "val"), read_masks(tmp_path / "other.npz", "val"))
    expected = [1 - (a & b).sum() / (a | b).sum() if (a | b).any() else 0.0 for a, b in zip(one, other, strict=True)]
    assert found == pytest.approx(expected) and found[3] == 1


def test_masks_of_other_images_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write_masks(tmp_path / "one.npz", rows_of(["a"]), [Packed.of(np.ones((3, 3), bool))])
    write_masks(tmp_path / "other.npz", rows_of(["b"]), [Packed.of(np.ones((3, 3), bool))])
    with pytest.raises(ValueError, match="different images"):
        changes(read_masks(tmp_path / "one.npz", "val"), read_masks(tmp_path / "other.npz", "val"))
    whole = (tmp_path / "one.npz").read_bytes()
    for cut in (0, 40, len(whole) // 2):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cut\.npz holds no masks"):
            read_masks(tmp_path / "cut.npz", "val")


def test_a_run_keeps_the_masks_that_its_rows_were_scored_on(trained_run: Path) -> None:
    from src.rundir import RunDir

    source = own_source(RunDir(trained_run))
    for part in ("val", "test"):
        masks = read_masks(trained_run / FILE, part)
        rows = {row["id"]: row for row in read_rows(trained_run / "per_image.csv") if row["part"] == part}
        assert masks.ids == sorted(rows)
        for id_, row in rows.items():  # images are smaller than SIDE, so nothing was shrunk
            pred, mask = masks.mask(id_), source.load(id_)[1] > 0
            dice = 2 * (pred & mask).sum() / (pred.sum() + mask.sum()) if (pred | mask).any() else 1.0
            assert row["dice"] == pytest.approx(dice)
