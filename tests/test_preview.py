"""The sheet shows each sample with the outline of its mask, as training draws it."""

from pathlib import Path

import numpy as np
import pytest

from src.data.datasets import Folder
from src.data.decode import read_image
from src.data.preview import main, preview

from .conftest import Call
from .layouts import example_pairs, write_folder


def green(sheet: np.ndarray) -> int:
    red, level, blue = np.moveaxis(sheet.astype(int), -1, 0)
    return int(((level > red + 60) & (level > blue + 60)).sum())


@pytest.mark.parametrize("crop", ["full", "lesion", "mixed"])
def test_a_sheet_shows_samples_with_outlines(tmp_path: Path, crop: str) -> None:
    write_folder(tmp_path, example_pairs(list("abcdef"), (60, 80)))
    source = Folder(root=str(tmp_path), size=64, crop=crop, num_workers=0)
    sheet = read_image(preview(source, tmp_path / "out" / "sheet.png", samples=2, draws=3))
    assert sheet.shape[1] > 800 and green(sheet) > 500
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 200  # pictures, not empty axes
    source.load = lambda _: (np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8))  # type: ignore[method-assign]
    assert green(read_image(preview(source, tmp_path / "out" / "empty.png", samples=2, draws=3))) == 0


def test_the_command_writes_a_sheet_per_crop_mode(tmp_path: Path, call: Call) -> None:
    arguments = ["data=synthetic", "data.counts=[4,2,2]", "data.native_size=[40,48]", "data.size=32", f"out={tmp_path}"]
    done = call(main, *arguments)
    assert done.returncode == 0, done.stderr
    written = [f"synthetic_{crop}.png" for crop in ("full", "lesion", "mixed")]
    assert sorted(file.name for file in tmp_path.iterdir()) == written
    assert [Path(line).name for line in done.stdout.split()] == written


def test_without_data_it_says_so(tmp_path: Path, call: Call) -> None:
    done = call(main, "data=folder", f"data.root={tmp_path}", f"out={tmp_path}")
    assert done.returncode == 2 and "images" in done.stderr and "Traceback" not in done.stderr
