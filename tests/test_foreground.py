"""A mapping says which stored values are foreground; whatever it does not say is refused. Named rules: test_decode."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from src.data.decode import read_mask
from src.data.foreground import checked_rule, kind_of, kinds_told_apart, stored_values

SKIN_LESION = {0: 0, 1: 0, 2: 1}


def _saved(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    "rule", [SKIN_LESION, {"0": 0, "1": 0, "2": 1}, OmegaConf.create(SKIN_LESION), {**SKIN_LESION, 9: 1}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_mapping_takes_the_declared_values(tmp_path: Path, rule: Any, dtype: type) -> None:
    mask = read_mask(_saved(tmp_path / "a.tif", np.array([[0, 1, 2], [2, 1, 0]], dtype=dtype)), rule)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_the_background_may_be_any_value(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8))
    assert read_mask(path, {0: 1, 255: 0}).tolist() == [[1, 0]]
    bits = _saved(tmp_path / "b.png", np.array([[False, True]]))
    assert read_mask(bits, {0: 1, 1: 0, 70000: 1}).tolist() == [[1, 0]]


def test_a_mapping_settles_a_palette_whose_background_is_bright(tmp_path: Path) -> None:
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", {0: 1, 1: 0}).tolist() == [[1, 0]]


def test_undeclared_values_are_named_and_counted(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png", np.array([[0, 2, 3, 3, 7]], dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"a\.png: 3 of 5 pixels hold 3, 7, which data\.mask=\{0: 0, 1: 0, 2: 1\} does"
    ):
        read_mask(path, SKIN_LESION)


def test_the_ringing_of_a_jpeg_is_undeclared(tmp_path: Path) -> None:
    blob = np.zeros((16, 24), dtype=np.uint8)
    blob[4:12, 6:18] = 255
    with pytest.raises(ValueError, match=r"a\.jpg: \d+ of 384 pixels hold .*data\.mask=threshold"):
        read_mask(_saved(tmp_path / "a.jpg", blob), {0: 0, 255: 1})


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {0: 0, 1: 0},
        {1: 1},
        {0: 0, 2: 2},
        {0: 0, 2: "1"},
        {0: 0, 2: [1]},
        {-1: 0, 2: 1},
        {0.5: 0, 2: 1},
        {"lesion": 1, 0: 0},
        {False: 0, 2: 1},
        {0: 0, 2: 1, "2": 0},
    ],
)
def test_a_mapping_that_declares_no_mask_is_refused(tmp_path: Path, rule: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"data\.mask=\{.*must map stored values .*such as '\{0: 0, 1: 0, 2: 1\}'"):
        read_mask(tmp_path / "never_opened.png", rule)


@pytest.mark.parametrize("rule", ["otsu", None, 3, [0, 1]])
def test_what_is_neither_name_nor_mapping_lists_the_names(rule: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown foreground rule .*binary, threshold, instances, auto, or a mapping"):
        checked_rule(rule)
    assert checked_rule("auto") == "auto"
    assert checked_rule(checked_rule({"0": 0, "2": True})) == {0: 0, 2: 1}


@pytest.mark.parametrize(
    ("values", "is_lossy", "kind"),
    [
        ([0], False, "only 0"),
        ([0], True, "only 0"),  # every rule reads it alike
        ([0, 1], False, "0 and 1"),
        ([255], False, "0 and 255"),
        ([0, 255], True, "lossy"),
        ([0, 1, 255], False, "labels or grey"),
        ([0, 70000], False, "labels or grey"),
    ],
)
def test_the_kind_of_a_mask(values: list[int], is_lossy: bool, kind: str) -> None:
    assert kind_of(values, is_lossy=is_lossy) == kind


def test_one_label_among_label_maps_is_no_other_kind() -> None:
    kinds = {"a": "0 and 1", "b": "only 0"}
    assert kinds_told_apart(kinds) == {"a": "0 and 1"}
    assert kinds_told_apart(kinds | {"c": "labels or grey"}) == {"a": "labels or grey", "c": "labels or grey"}
    assert kinds_told_apart(kinds | {"c": "lossy"}) == {"a": "0 and 1", "c": "lossy"}


@pytest.mark.parametrize("values", [[0, 1, 2], [-3, 0, 7], [0, 65535, 70000]])
def test_stored_values_are_each_once(values: list[int]) -> None:
    assert stored_values(np.array([values, values[::-1]], np.int32)) == values
    assert stored_values(np.array([[True, False]])) == [0, 1]
