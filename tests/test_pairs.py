"""Image and mask pair by id in every layout; whatever is left over is named."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.data import decode
from src.data.pairs import (
    NoData,
    Pair,
    PairingError,
    folder_pairs,
    glas_pairs,
    isic2018_pairs,
    isic2018_parts,
    kvasir_seg_pairs,
)
from tests.layouts import example_pairs, write_folder, write_glas, write_isic2018, write_kvasir_seg

IDS = {
    "kvasir_seg": ["cju10", "cju2", "cju1"],
    "isic2018": ["ISIC_0000003", "ISIC_0000000", "ISIC_0000010", "ISIC_0000001"],
    "glas": ["train_10", "train_2", "testA_1", "testB_1"],
}
WRITERS = {"kvasir_seg": write_kvasir_seg, "isic2018": write_isic2018, "glas": write_glas}
FINDERS: dict[str, Callable[..., dict[str, Pair]]] = {
    "kvasir_seg": kvasir_seg_pairs,
    "isic2018": isic2018_pairs,
    "glas": glas_pairs,
}
RULES = {"kvasir_seg": "threshold", "isic2018": "binary", "glas": "instances"}


@pytest.mark.parametrize("official", [False, True], ids=["plain", "official"])
@pytest.mark.parametrize("dataset", list(IDS))
def test_each_layout_gives_the_same_ids_with_their_own_masks(tmp_path: Path, dataset: str, official: bool) -> None:
    drawn = example_pairs(IDS[dataset])
    pairs = FINDERS[dataset](WRITERS[dataset](tmp_path, official, drawn))
    assert list(pairs) == sorted(IDS[dataset])
    for id_, pair in pairs.items():
        assert pair.id == id_
        np.testing.assert_array_equal(decode.read_mask(pair.mask, RULES[dataset]), drawn[id_][1] > 0)
        picture = decode.read_image(pair.image).astype(int)
        assert min(IDS[dataset], key=lambda other: np.abs(picture - drawn[other][0]).mean()) == id_


@pytest.mark.parametrize(
    ("dataset", "top"),
    [
        ("kvasir_seg", "Kvasir-SEG"),
        ("glas", "Warwick QU Dataset (Released 2016_07_08)"),
        ("isic2018", "ISIC2018_Task1-2_Training_Input"),
    ],
)
def test_root_may_be_the_archive_folder_itself(tmp_path: Path, dataset: str, top: str) -> None:
    root = WRITERS[dataset](tmp_path, True, example_pairs(IDS[dataset]))
    assert FINDERS[dataset](root / top) == FINDERS[dataset](root)


def test_isic2018_parts_follow_the_archive_folders(tmp_path: Path) -> None:
    parts = {"train": ["ISIC_0000003", "ISIC_0000000"], "test": ["ISIC_0000001"]}
    drawn = example_pairs([id_ for members in parts.values() for id_ in members])
    root = write_isic2018(tmp_path / "official", True, drawn, parts)
    assert isic2018_parts(root) == {"train": ["ISIC_0000000", "ISIC_0000003"], "test": ["ISIC_0000001"]}
    assert isic2018_parts(write_isic2018(tmp_path / "plain", False, drawn)) == {}


def test_isic2018_images_without_their_ground_truth_folder_are_named(tmp_path: Path) -> None:
    root = write_isic2018(tmp_path, True, example_pairs(IDS["isic2018"]))
    (root / "ISIC2018_Task1_Test_GroundTruth").rename(root / "elsewhere")
    with pytest.raises(ValueError, match="lacks ISIC2018_Task1_Test_GroundTruth"):
        isic2018_pairs(root)


@pytest.mark.parametrize("dataset", ["isic2018", "glas"])
def test_two_layouts_at_once_are_refused(tmp_path: Path, dataset: str) -> None:
    for official in (False, True):
        WRITERS[dataset](tmp_path, official, example_pairs(IDS[dataset]))
    with pytest.raises(ValueError, match="cannot be told"):
        FINDERS[dataset](tmp_path)


def test_all_faults_stand_in_one_message(tmp_path: Path) -> None:
    root = write_folder(tmp_path, example_pairs(["a", "b", "c", "d"]))
    (root / "masks" / "a.png").unlink()
    (root / "images" / "b.jpg").unlink()
    write_folder(root, example_pairs(["c"]), image_type=".PNG")
    write_folder(root, example_pairs(["d"]), mask_type=".bmp")
    with pytest.raises(ValueError) as caught:
        folder_pairs(root)
    message = str(caught.value)
    assert "1 images without a mask: images/a.jpg" in message
    assert "1 masks without an image: masks/b.png" in message
    assert "2 images that share an id: images/c.PNG, images/c.jpg" in message
    assert "2 masks that share an id: masks/d.bmp, masks/d.png" in message


def test_the_good_pairs_and_the_faults_come_with_the_error(tmp_path: Path) -> None:
    ids = [f"id{n}" for n in range(6)]
    root = write_folder(tmp_path, example_pairs(ids))
    whole = folder_pairs(root)
    (root / "masks" / "id0.png").unlink()
    write_folder(root, example_pairs(["id1"]), mask_type=".bmp")
    with pytest.raises(PairingError) as caught:
        folder_pairs(root)
    assert caught.value.pairs == {id_: whole[id_] for id_ in ids[2:]}
    assert caught.value.faults == [
        "1 images without a mask: images/id0.jpg",
        "2 masks that share an id: masks/id1.bmp, masks/id1.png",
    ]
    assert all(fault in str(caught.value) for fault in caught.value.faults)


def test_every_unpaired_file_is_named_up_to_200(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(203):
        (tmp_path / "images" / f"id{n:03}.png").touch()
        if n == 199:
            with pytest.raises(
                PairingError, match=r"200 images without a mask: images/id000\.png, .*images/id199\.png\. "
            ):
                folder_pairs(tmp_path)
    with pytest.raises(PairingError, match=r"203 images .*images/id199\.png, \.\.\. and 3 more\. ") as caught:
        folder_pairs(tmp_path)
    assert caught.value.pairs == {}


def test_isic2018_parts_list_images_whose_mask_is_lost(tmp_path: Path) -> None:
    parts = {"train": ["ISIC_0000000", "ISIC_0000001"], "test": ["ISIC_0000002"]}
    drawn = example_pairs([id_ for members in parts.values() for id_ in members])
    root = write_isic2018(tmp_path, True, drawn, parts)
    (root / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0000001_segmentation.png").unlink()
    with pytest.raises(PairingError) as caught:
        isic2018_pairs(root)
    assert list(caught.value.pairs) == ["ISIC_0000000", "ISIC_0000002"]
    assert isic2018_parts(root) == parts


@pytest.mark.parametrize("dataset", list(FINDERS))
def test_a_wrong_root_tells_what_was_looked_for(tmp_path: Path, dataset: str) -> None:
    absent = tmp_path / "nowhere"
    with pytest.raises(NoData, match=re.escape(str(absent))) as caught:
        FINDERS[dataset](absent)
    message = str(caught.value)
    archive = {"kvasir_seg": "Kvasir-SEG/", "isic2018": "ISIC2018_Task1-2_", "glas": "Warwick QU Dataset"}[dataset]
    for needed in ("does not exist", "images/", "masks/", archive, "EMISNET_DATA", "data.root="):
        assert needed in message
    (tmp_path / "something").mkdir()
    with pytest.raises(NoData, match="it holds something"):
        FINDERS[dataset](tmp_path)
    for n in range(11):
        (tmp_path / f"file{n:02}").touch()
    with pytest.raises(NoData, match=r"file09, ... and 2 more"):
        FINDERS[dataset](tmp_path)


def test_empty_folders_are_an_error(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="hold no images"):
        folder_pairs(tmp_path)


def test_folder_reads_nested_trees_and_passes_over_clutter(tmp_path: Path) -> None:
    root = write_folder(tmp_path, example_pairs(["p1/scan.v2", "p2/scan.v2", "top"]), image_type=".TIFF")
    for clutter in ("images/.DS_Store", "images/._top.png", "images/notes.txt", "masks/__MACOSX/top.png"):
        (root / clutter).parent.mkdir(exist_ok=True)
        (root / clutter).write_bytes(b"clutter")
    pairs = folder_pairs(root)
    assert list(pairs) == ["p1/scan.v2", "p2/scan.v2", "top"]
    assert pairs["p1/scan.v2"] == Pair("p1/scan.v2", root / "images/p1/scan.v2.TIFF", root / "masks/p1/scan.v2.png")


def test_mask_suffix_is_required_where_it_is_set(tmp_path: Path) -> None:
    root = write_folder(tmp_path, example_pairs(["a", "b"]), mask_suffix="_mask")
    assert list(folder_pairs(root, mask_suffix="_mask")) == ["a", "b"]
    (root / "masks" / "a_mask.png").rename(root / "masks" / "a.png")
    with pytest.raises(
        ValueError, match=r"1 images without a mask: images/a.jpg; 1 masks without an image: masks/a.png"
    ):
        folder_pairs(root, mask_suffix="_mask")


def test_folder_pairs_side_by_side_and_one_inside_the_other(tmp_path: Path) -> None:
    drawn = example_pairs(["a", "b"])
    side_by_side = write_folder(tmp_path / "one", drawn, images=".", masks=".", mask_suffix="_mask")
    assert list(folder_pairs(side_by_side, images=".", masks=".", mask_suffix="_mask")) == ["a", "b"]
    inside = write_folder(tmp_path / "two", drawn, images=".", masks="masks")
    assert list(folder_pairs(inside, images=".", masks="masks")) == ["a", "b"]
    with pytest.raises(ValueError, match="set mask_suffix"):
        folder_pairs(side_by_side, images=".", masks=".")


def test_accents_pair_in_either_spelling(tmp_path: Path) -> None:
    composed, decomposed = "r\u00f6ntgen", "ro\u0308ntgen"
    write_folder(tmp_path, example_pairs([decomposed]))
    (tmp_path / "masks" / f"{decomposed}.png").rename(tmp_path / "masks" / f"{composed}.png")
    assert list(folder_pairs(tmp_path)) == [composed]


@pytest.mark.skipif("EMISNET_DATA" not in os.environ, reason="EMISNET_DATA does not say where the real datasets are")
@pytest.mark.parametrize("dataset", list(FINDERS))
def test_real_masks_decode_to_the_size_of_their_image(dataset: str) -> None:
    root = Path(os.environ["EMISNET_DATA"]) / dataset
    if not root.is_dir():
        pytest.skip(f"no {dataset} in EMISNET_DATA")
    pairs = list(FINDERS[dataset](root).values())
    for pair in pairs[:: max(1, len(pairs) // 40)]:
        mask = decode.read_mask(pair.mask, RULES[dataset])
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.any(), pair.id
        assert mask.shape == decode.image_size(pair.image)
        np.testing.assert_array_equal(mask, decode.read_mask(pair.mask, "auto"))
