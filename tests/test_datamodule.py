"""Every dataset in each layout it comes in gives the same batches, and what is absent or wrong is named."""

import pickle
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.data.datamodule import SegmentationDataModule
from src.data.datasets import ISIC2018, Folder, GlaS, KvasirSEG, Synthetic
from src.data.folds import load_folds
from src.data.groups import glas_patients
from src.data.pairs import GLAS_ARCHIVE, Pair
from src.data.samples import SampleDataset
from src.data.splits import OFFICIAL_SIZES, Split, load_split
from src.data.transforms import resize_mask
from src.progress import available_cores

from .conftest import REPO
from .layouts import example_pairs, scene, write_folder, write_glas, write_isic2018, write_kvasir_seg

CONFIGS = {path.stem: path for path in sorted((REPO / "conf" / "data").rglob("*.yaml"))}
CLASSES = {"kvasir_seg": KvasirSEG, "isic2018": ISIC2018, "glas": GlaS, "folder": Folder, "synthetic": Synthetic}
WRITERS: dict[str, Callable[..., Path]] = {
    "kvasir_seg": write_kvasir_seg,
    "isic2018": write_isic2018,
    "glas": write_glas,
}
COMMITTED = [
    ("kvasir_seg", "official"),
    ("kvasir_seg", "holdout"),
    ("isic2018", "holdout"),
    ("glas", "official"),
    ("glas", "holdout"),
]


def small(dataset: str, name: str) -> Split:
    """A committed split shrunk to a few ids of each part."""
    split = load_split(dataset, name)
    sizes = {"train": 6, "val": 3}
    return Split(name, dataset, {part: ids[: sizes.get(part, 2)] for part, ids in split.parts.items()})


def written(root: Path, dataset: str, official: bool, ids: Sequence[str]) -> Path:
    root.mkdir()
    return WRITERS[dataset](root, official, example_pairs(ids))


def source_of(dataset: str, root: Path, split: Split, **options: Any) -> SegmentationDataModule:
    settings = {"size": 32, "batch_size": 2, "num_workers": 0, "allow_leaks": True, **options}
    source = CLASSES[dataset](root=str(root), split=split.name, **settings)
    source.split = split
    return source


def ids_of(split: Split) -> list[str]:
    return [id_ for ids in split.parts.values() for id_ in ids]


def batches(source: SegmentationDataModule) -> list[dict[str, Any]]:
    source.setup("fit")
    return [*source.train_dataloader(), *source.val_dataloader()]


# ---- from each layout to batches


@pytest.mark.parametrize(("dataset", "name"), COMMITTED)
def test_both_layouts_give_the_same_batches(dataset: str, name: str, tmp_path: Path) -> None:
    split = small(dataset, name)
    pairs = example_pairs(ids_of(split))
    made = {}
    for official in (True, False):
        root = written(tmp_path / str(official), dataset, official, ids_of(split))
        source = source_of(dataset, root, split)
        made[official] = batches(source)
        for id_ in ids_of(split):
            image, mask = source.load(id_)
            truth = pairs[id_][1] > 0  # instance maps among them
            assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
            assert (mask == truth).mean() > (0.97 if dataset == "kvasir_seg" else 0.9999)  # JPEG masks ring
            assert np.abs(image.astype(int) - pairs[id_][0]).mean() < 12  # JPEG
    assert len(made[True]) == len(made[False]) == 3 + 2
    for one, other in zip(made[True], made[False], strict=True):
        assert one["id"] == other["id"]
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["mask"], other["mask"])


@pytest.mark.parametrize(
    ("dataset", "name"), [("kvasir_seg", "official"), ("isic2018", "holdout"), ("glas", "official")]
)
def test_a_batch_is_bytes_with_ids(dataset: str, name: str, tmp_path: Path) -> None:
    split = small(dataset, name)
    source = source_of(dataset, written(tmp_path / "data", dataset, False, ids_of(split)), split)
    seen = batches(source)
    for batch, n in zip(seen, (2, 2, 2, 2, 1), strict=True):
        assert set(batch) == {"id", "image", "mask"}
        assert isinstance(batch["id"], list) and len(batch["id"]) == n
        assert batch["image"].shape == (n, 3, 32, 32) and batch["image"].dtype == torch.uint8
        assert batch["mask"].shape == (n, 1, 32, 32) and batch["mask"].dtype == torch.uint8
        assert batch["mask"].unique().tolist() == [0, 1]
    train, val = [[id_ for batch in part for id_ in batch["id"]] for part in (seen[:3], seen[3:])]
    assert sorted(train) == list(split.parts["train"]) and val == list(split.parts["val"])


def test_bytes_reach_the_network_s_door(tmp_path: Path) -> None:
    """The cheap form travels to the device, whatever a mean and std say; the network's side normalises."""
    source = Synthetic(counts=(2, 1, 0), native_size=(40, 40), size=32, num_workers=0, mean=(0, 0, 0), std=(1, 1, 1))
    (batch,) = source.val_dataloader()
    assert batch["image"].dtype == torch.uint8 and batch["image"].max() > 1
    assert source.mean == (0, 0, 0) and source.std == (1, 1, 1)


def test_pairs_are_made_by_id_where_listings_disagree(tmp_path: Path) -> None:
    ids = ["img_1", "img_10", "img_100", "img_2"]  # "img_1.png" stands before "img_10.png", but
    pairs = example_pairs(ids)  # "img_1_mask.png" after "img_10_mask.png"
    write_folder(tmp_path, pairs, mask_suffix="_mask", image_type=".png")
    listed = [[path.stem for path in sorted((tmp_path / part).iterdir())] for part in ("images", "masks")]
    assert [f"{stem}_mask" for stem in listed[0]] != listed[1]
    source = Folder(root=str(tmp_path), mask_suffix="_mask", val=0.25, test=0.25, num_workers=0)
    for id_, (image, labels) in pairs.items():
        assert (source.load(id_)[0] == image).all() and (source.load(id_)[1] == (labels > 0)).all()
    dataset = SampleDataset(source, ids[::-1], training=False)
    for sample in (dataset[i] for i in range(len(dataset))):
        assert (sample["mask"][0] == resize_mask(pairs[sample["id"]][1] > 0, (256, 256))).all()


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 and 1": lambda labels: (labels > 0).astype(np.int32),
    "0 and 255": lambda labels: 255 * (labels > 0).astype(np.int32),
    "instances": lambda labels: labels,
}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(kind, "auto") for kind in KINDS]
    + [("0 and 1", "binary"), ("0 and 255", "threshold"), ("instances", "instances")],
)
def test_folder_reads_each_kind_of_mask(kind: str, rule: str, tmp_path: Path) -> None:
    ids = [f"case/{n}" for n in range(6)]  # in a nested folder
    pairs = example_pairs(ids)
    write_folder(tmp_path, {id_: (image, KINDS[kind](labels)) for id_, (image, labels) in pairs.items()})
    source = Folder(root=str(tmp_path), mask=rule, val=0.2, test=0.2, size=32, batch_size=4, num_workers=0)
    source.setup("fit")
    assert {part: len(members) for part, members in source.parts.items()} == {"train": 4, "val": 1, "test": 1}
    assert set().union(*source.parts.values()) == set(ids)
    for id_, (_, labels) in pairs.items():
        assert (source.load(id_)[1] == (labels > 0)).all()


def test_a_mask_that_is_not_of_the_declared_kind(tmp_path: Path) -> None:
    write_folder(tmp_path, example_pairs(["a", "b", "c"]))  # labels 0, 1, 2
    source = Folder(root=str(tmp_path), mask="binary", val=0.3, test=0.3, num_workers=0)
    with pytest.raises(ValueError, match=r"a\.png: a binary mask holds .* this one holds 0, 1, 2"):
        source.load("a")


def test_objects_of_masks_without_labels_are_their_components(tmp_path: Path) -> None:
    write_folder(tmp_path, {id_: (image, labels > 0) for id_, (image, labels) in example_pairs("abc").items()})
    labels = Folder(root=str(tmp_path), mask="binary", num_workers=0).load_labels("a")[1]
    assert np.unique(labels).tolist() == [0, 1, 2] and (labels == example_pairs("abc")["a"][1]).all()


def test_glands_that_share_one_label_are_told_apart(tmp_path: Path) -> None:
    pairs = example_pairs(["testB_3", "testB_4", "testB_11"])
    pairs["testB_3"] = (pairs["testB_3"][0], (pairs["testB_3"][1] > 0).astype(np.int32))
    pairs["testB_4"] = (pairs["testB_4"][0], (pairs["testB_4"][1] > 0).astype(np.int32))
    source = GlaS(root=str(write_glas(tmp_path, True, pairs)), num_workers=0)
    held = {id_: source.load_labels(id_)[1].max() for id_ in pairs}
    assert held == {"testB_3": 2, "testB_4": 1, "testB_11": 2}  # 4 is not of those, 11 has its labels already
    assert (source.load_labels("testB_3")[1] == pairs["testB_11"][1]).mean() > 0.9


def test_auto_refuses_masks_of_several_kinds(tmp_path: Path) -> None:
    write_folder(
        tmp_path, {id_: (image, 255 * (labels > 0)) for id_, (image, labels) in example_pairs("abcdef").items()}
    )
    PIL.Image.fromarray(np.full((24, 32), 7, np.uint8)).save(tmp_path / "masks" / "c.png")
    PIL.Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "masks" / "d.png")  # empty: of any kind
    with pytest.raises(
        ValueError, match=r"several kinds: 4 of kind '0 and 255', but labels or grey: c\. Save them alike"
    ):
        Folder(root=str(tmp_path), num_workers=0).setup("fit")
    Folder(root=str(tmp_path), mask="instances", num_workers=0).setup("fit")


def test_image_and_mask_of_different_size(tmp_path: Path) -> None:
    pairs = example_pairs(["a", "b", "c"])
    pairs["b"] = (pairs["b"][0], pairs["b"][1][:-4])
    write_folder(tmp_path, pairs)
    source = Folder(root=str(tmp_path), val=0.3, test=0.3, num_workers=0)
    with pytest.raises(ValueError, match=r"^b: the image is 24x32, its mask 20x32 \(.*b\.jpg, .*b\.png\)\. Give"):
        source.load("b")
    source.load("a")


# ---- leaks


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Ten images that do not look alike, as <root>/images and <root>/masks."""
    mask = np.zeros((180, 240), np.int32)
    mask[60:120, 80:160] = 1
    return write_folder(tmp_path / "scenes", {f"s{n}": (scene(n), mask) for n in range(10)}, image_type=".png")


def leaking(root: Path, tmp_path: Path, **options: Any) -> Folder:
    """A folder whose s0 is in train and s9 in val."""
    source = Folder(root=str(root), cache=str(tmp_path / "cache"), size=64, num_workers=0, **options)
    ids = [f"s{n}" for n in range(10)]
    source.split = Split("holdout", "folder", {"train": tuple(ids[:6]), "val": tuple(ids[8:]), "test": tuple(ids[6:8])})
    return source


@pytest.mark.parametrize("how", ["copied", "shifted and recoloured"])
def test_training_refuses_a_split_that_leaks(scenes: Path, tmp_path: Path, how: str) -> None:
    leaking(scenes, tmp_path).setup("fit")
    image = scene(0)
    if how != "copied":
        image = (np.roll(image, 4, axis=(0, 1)) * 0.8 + 20).astype(np.uint8)
    PIL.Image.fromarray(image).save(scenes / "images" / "s9.png")
    what = "same pixels" if how == "copied" else r"near-duplicates \(similarity 0\.\d\d\)"
    with pytest.raises(ValueError, match=rf"1 leaks .*\n  - {what}: s0 in train, s9 in val\n.*allow_leaks=true"):
        leaking(scenes, tmp_path).setup("fit")
    told = leaking(scenes, tmp_path, allow_leaks=True)
    told.setup("fit")
    (note,) = told.leak_notes()
    assert "1 leaks between the parts of this split (data.allow_leaks=true), such as" in note and "s9 in val" in note


def test_patients_on_two_sides_are_refused_without_a_cache_too(tmp_path: Path) -> None:
    root = written(tmp_path / "data", "glas", False, ids_of(small("glas", "holdout")))  # two images a patient
    source = source_of("glas", root, small("glas", "holdout"), allow_leaks=False)
    with pytest.raises(ValueError, match="same group: train_"):
        source.setup("fit")


def test_what_the_authors_of_an_official_split_did_is_noted(tmp_path: Path) -> None:
    split = small("glas", "official")
    side = {id_: part for part, ids in split.parts.items() for id_ in ids}
    patients = {id_: "t" if part == "testA" else part[:2] for id_, part in side.items()}
    patients[split.parts["testA"][0]] = "tr"  # of train
    root = tmp_path / "data"
    write_glas(root, True, example_pairs(ids_of(split)), patients)
    source = source_of("glas", root, split, allow_leaks=False)
    source.setup("fit")
    assert "leaks between the parts of this split (by its authors)" in source.leak_notes()[-1]


def test_without_a_cache_it_is_said_that_copies_were_not_sought(scenes: Path) -> None:
    source = Folder(root=str(scenes), num_workers=0)
    source.setup("fit")
    assert source.leak_notes() == ["copies and near-duplicates in two parts were not looked for (data.cache=null)"]


def test_glas_without_its_patients_trains_on_a_committed_split(tmp_path: Path) -> None:
    root = written(tmp_path / "data", "glas", False, ids_of(small("glas", "holdout")))
    (root / "Grade.csv").unlink()
    source_of("glas", root, small("glas", "holdout"), allow_leaks=False).setup("fit")


def test_a_cache_that_cannot_be_written_in_still_serves(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking(scenes, tmp_path).views("full")

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("src.data.cache.write_json", refuse)
    leaking(scenes, tmp_path).setup("fit")


def test_a_bad_file_is_named_once_where_folds_are_drawn(scenes: Path, tmp_path: Path) -> None:
    (scenes / "masks" / "s4.png").write_bytes(b"no image")
    (scenes / "images" / "s5.png").unlink()
    options: dict[str, Any] = {"cache": str(tmp_path / "cache"), "split": "kfold", "n_folds": 3, "fold": 0}
    with pytest.raises(ValueError, match="2 things are wrong") as error:
        Folder(root=str(scenes), num_workers=0, **options).setup("fit")
    assert str(error.value).count("s4.png") == 1 and str(error.value).count("s5.png") == 1


def test_the_seed_of_the_split_draws_other_folds(scenes: Path, tmp_path: Path) -> None:
    def folds(seed: int) -> str:
        return Folder(root=str(scenes), split="kfold", fold=0, split_seed=seed, num_workers=0).split.hash

    assert folds(0) == folds(0) and len({folds(seed) for seed in range(4)}) > 1


def test_leaks_are_sought_once_per_split(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaking(scenes, tmp_path).setup("fit")
    monkeypatch.setattr("src.data.leaks.image_leaks", lambda *_: pytest.fail("sought again"))
    leaking(scenes, tmp_path).setup("fit")
    other = leaking(scenes, tmp_path)
    other.split = Split("holdout", "folder", {**other.parts, "train": other.parts["train"][1:]})
    with pytest.raises(pytest.fail.Exception):
        other.setup("fit")


# ---- the split


@pytest.mark.parametrize(("dataset", "name"), COMMITTED)
def test_the_split_is_the_committed_one(dataset: str, name: str) -> None:
    source = CLASSES[dataset](root="nowhere", split=name)
    assert source.split == load_split(dataset, name)
    assert set(source.parts) == {
        "train",
        "val",
        *(("testA", "testB") if (dataset, name) == COMMITTED[3] else ("test",)),
    }


@pytest.mark.parametrize("dataset", WRITERS)
def test_an_unknown_split_lists_those_there_are(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no split 'nope' of '{dataset}'.*possible: holdout, .*kfold"):
        CLASSES[dataset](root=str(tmp_path), split="nope").setup("fit")


@pytest.mark.parametrize("dataset", WRITERS)
def test_committed_folds_test_every_image_once(dataset: str) -> None:
    sources = [CLASSES[dataset](root="nowhere", split="kfold", fold=fold) for fold in range(5)]
    tested = [id_ for source in sources for id_ in source.parts["test"]]
    assert sorted(tested) == sorted(id_ for part in sources[0].parts.values() for id_ in part)
    assert [source.parts["val"] for source in sources[:-1]] == [source.parts["test"] for source in sources[1:]]
    assert [source.split.name for source in sources] == [f"kfold5-{fold}" for fold in range(5)]


@pytest.mark.parametrize("cached", [True, False])
def test_folds_of_a_folder_keep_its_groups_together(tmp_path: Path, cached: bool) -> None:
    ids = [f"{patient}{number}" for patient in "abcdef" for number in range(3)]
    write_folder(tmp_path, example_pairs(ids))
    rows = [f"{id_},patient {id_[0]}" for id_ in ids]
    (tmp_path / "patients.csv").write_text("\n".join(["id,group", *rows, ""]))
    options: dict[str, Any] = {"groups": str(tmp_path / "patients.csv"), "size": 32, "num_workers": 0}
    if cached:
        options["cache"] = str(tmp_path / "cache")
    folds = [Folder(root=str(tmp_path), split="kfold", n_folds=3, fold=fold, **options) for fold in range(3)]
    for source in (*folds, Folder(root=str(tmp_path), val=0.3, test=0.3, **options)):
        patients = [{id_[0] for id_ in members} for members in source.parts.values()]
        assert all(patients) and sum(map(len, patients)) == 6
    assert sorted(id_ for source in folds for id_ in source.parts["test"]) == ids


def test_folds_that_are_not_committed_are_drawn_from_the_masks(tmp_path: Path) -> None:
    ids = [id_ for members in load_folds("glas", 5) for id_ in members]
    root = written(tmp_path / "data", "glas", True, ids)
    sources = [GlaS(root=str(root), split="kfold", n_folds=4, fold=fold, num_workers=0) for fold in range(4)]
    assert sorted(id_ for source in sources for id_ in source.parts["test"]) == sorted(ids)
    patients = glas_patients(root)
    sides = [{patients[id_] for id_ in part} for part in sources[1].parts.values()]
    assert sum(map(len, sides)) == len(set(patients.values()))
    next((root / GLAS_ARCHIVE).glob("train_7.bmp")).unlink()
    next((root / GLAS_ARCHIVE).glob("train_7_anno.bmp")).unlink()
    with pytest.raises(ValueError, match=r"1 images are not under .*: train_7\. Put .* data\.n_folds=5"):
        _ = GlaS(root=str(root), split="kfold", n_folds=4, fold=0, num_workers=0).split


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "kfold"}, r"data\.split=kfold needs a fold: data\.fold=0 to 4"),
        (
            {"split": "holdout", "fold": 1},
            "data.fold and data.n_folds belong to data.split=kfold, and this is data.split=holdout",
        ),
        ({"split": "holdout", "n_folds": 3}, "belong to data.split=kfold"),
        ({"split": "holdout", "download": "maybe"}, "data.download=maybe is neither true nor false"),
        ({"split": "kfold", "fold": 5}, r"set data\.fold to one of 0 to 4"),
    ],
)
def test_fold_and_split_must_agree(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = GlaS(root="nowhere", **options).split


@pytest.mark.parametrize("dataset", WRITERS)
@pytest.mark.parametrize("part", ["train", "val"])
def test_absent_images_of_a_needed_part_are_named(dataset: str, part: str, tmp_path: Path) -> None:
    split = small(dataset, "holdout")
    gone = split.parts[part][1:3]
    present = [id_ for id_ in ids_of(split) if id_ not in gone]
    source = source_of(dataset, written(tmp_path / "data", dataset, False, present), split)
    whole = len(split.parts[part])
    with pytest.raises(ValueError, match=rf"part '{part}': 2 of {whole} images.*{gone[0]}, {gone[1]}\. Put them there"):
        source.setup("fit")
    assert source.absent(part) == list(gone)


def test_every_absent_image_is_named(tmp_path: Path) -> None:
    split = load_split("glas", "holdout")
    source = source_of("glas", written(tmp_path / "data", "glas", False, split.parts["val"]), split)
    with pytest.raises(ValueError, match="51 of 51 images are not under") as error:
        source.setup("fit")
    assert all(f"{id_}," in str(error.value) for id_ in split.parts["train"][:-1])


@pytest.mark.parametrize(
    ("dataset", "name", "part"),
    [("kvasir_seg", "official", "test"), ("glas", "official", "testA"), ("glas", "official", "testB")],
)
@pytest.mark.parametrize("official", [True, False])
def test_training_goes_on_without_the_test_images(
    dataset: str, name: str, part: str, official: bool, tmp_path: Path
) -> None:
    split = small(dataset, name)
    present = [id_ for id_ in ids_of(split) if id_ not in split.parts[part]]
    source = source_of(dataset, written(tmp_path / "data", dataset, official, present), split)
    assert len(batches(source)) == 5
    gone = ", ".join(split.parts[part])
    with pytest.raises(ValueError, match=rf"{dataset}, split 'official', part '{part}': 2 of 2 images .*: {gone}\. "):
        source.require(part)
    for other in set(split.parts) - {part}:
        assert source.require(other) == split.parts[other]


def test_an_unknown_part_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part 'test'\. Possible: train, val, testA, testB"):
        GlaS(root="nowhere").require("test")


def test_images_that_no_part_names_are_told(tmp_path: Path) -> None:
    split = small("kvasir_seg", "holdout")
    source = source_of("kvasir_seg", written(tmp_path / "data", "kvasir_seg", True, [*ids_of(split), "z", "y"]), split)
    assert source.unlisted() == ["y", "z"]
    assert len(batches(source)) == 5


# ---- ISIC 2018, whose official split is its archive's folders

ISIC_IDS = [f"ISIC_{n:07d}" for n in range(8)]
ISIC_PARTS = {"train": ISIC_IDS[:4], "val": ISIC_IDS[4:6], "test": ISIC_IDS[6:]}


def isic_archive(root: Path, parts: Mapping[str, Sequence[str]]) -> ISIC2018:
    ids = [id_ for members in parts.values() for id_ in members]
    write_isic2018(root, True, example_pairs(ids), parts)
    return ISIC2018(root=str(root), split="official", size=32, batch_size=2, num_workers=0)


@pytest.fixture
def small_isic_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL_SIZES, "isic2018", {part: len(ids) for part, ids in ISIC_PARTS.items()})


@pytest.mark.usefixtures("small_isic_archive")
def test_isic_official_is_the_archive_s_folders(tmp_path: Path) -> None:
    source = isic_archive(tmp_path, ISIC_PARTS)
    assert {part: list(ids) for part, ids in source.parts.items()} == ISIC_PARTS
    assert len(batches(source)) == 3
    assert source.require("test") == tuple(ISIC_PARTS["test"])


@pytest.mark.usefixtures("small_isic_archive")
def test_isic_trains_without_the_test_folders(tmp_path: Path) -> None:
    source = isic_archive(tmp_path, {part: ISIC_PARTS[part] for part in ("train", "val")})
    assert len(batches(source)) == 3
    with pytest.raises(ValueError, match=r"isic2018, split 'official', part 'test' is empty\. Put its images under"):
        source.require("test")


@pytest.mark.usefixtures("small_isic_archive")
def test_isic_names_the_absent_validation_folders(tmp_path: Path) -> None:
    source = isic_archive(tmp_path, {part: ISIC_PARTS[part] for part in ("train", "test")})
    with pytest.raises(ValueError, match=r"part 'val' is empty\. Put its images under .*, or choose a split"):
        source.setup("fit")


def test_isic_official_needs_the_whole_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Training has 4 of 2594, Validation has 2 of 100, Test has 2 of 1000"):
        isic_archive(tmp_path / "archive", ISIC_PARTS).setup("fit")
    plain = ISIC2018(root=str(write_isic2018(tmp_path / "plain", False, example_pairs(ISIC_IDS))), split="official")
    with pytest.raises(ValueError, match=r"Training has 0 of 2594 images; .* use the holdout"):
        plain.setup("fit")


@pytest.mark.parametrize("official", [True, False])
def test_isic_says_that_plain_copies_do_not_compare(official: bool, tmp_path: Path) -> None:
    split = small("isic2018", "holdout")
    source = source_of("isic2018", written(tmp_path / "data", "isic2018", official, ids_of(split)), split)
    source.setup("fit")
    if official:
        assert source.caveat is None
    else:
        assert source.caveat is not None and "plain layout" in source.caveat and "do not compare" in source.caveat
    assert ISIC2018.caveat is None  # it belongs to the data at hand


# ---- generated and folder data


def test_synthetic_needs_nothing_on_disk() -> None:
    source = Synthetic(counts=(4, 2, 3), native_size=(40, 48), size=32, batch_size=2, num_workers=0)
    assert [len(batch["id"]) for batch in batches(source)] == [2, 2, 2]
    assert {part: len(source.require(part)) for part in source.parts} == {"train": 4, "val": 2, "test": 3}
    image, mask = source.load(source.parts["test"][0])
    assert image.shape == (40, 48, 3) and mask.shape == (40, 48) and set(np.unique(mask)) <= {0, 1}
    again, other = (
        Synthetic(counts=(4, 2, 3), native_size=(40, 48), data_seed=seed).load(source.parts["test"][0])[0]
        for seed in (0, 1)
    )
    assert (again == image).all() and (other != image).any()


def test_synthetic_folds_test_every_image_once() -> None:
    settings: dict[str, Any] = {
        "counts": (8, 2, 2),
        "native_size": (40, 48),
        "size": 32,
        "n_folds": 3,
        "num_workers": 0,
    }
    sources = [Synthetic(split="kfold", fold=fold, **settings) for fold in range(3)]
    sources[0].setup("fit")
    tested = [id_ for source in sources for id_ in source.parts["test"]]
    assert sorted(tested) == sorted(sources[0].ids_on_disk()) and len(tested) == 12
    assert sources[1].split.name == "kfold3-1" and sources[1].unlisted() == []
    assert {part: len(sources[0].require(part)) for part in sources[0].parts} == {"train": 4, "val": 4, "test": 4}


def test_synthetic_kinds_are_checked() -> None:
    with pytest.raises(ValueError, match=r"data\.kinds=\['brain'\] cannot be generated\. Possible: "):
        Synthetic(kinds=("brain",))


@pytest.mark.parametrize("source", [Synthetic(counts=(4, 0, 2)), Synthetic(counts=(0, 4, 2))], ids=["val", "train"])
def test_an_empty_part_is_named(source: Synthetic) -> None:
    with pytest.raises(ValueError, match=r"synthetic, split 'generated', part '(val|train)' is empty\..*counts"):
        source.setup("fit")


def test_a_folder_s_split_depends_on_ids_and_seed_alone(tmp_path: Path) -> None:
    ids = [f"{n:02d}" for n in range(20)]
    roots = [write_folder(tmp_path / name, example_pairs(order)) for name, order in (("a", ids), ("b", ids[::-1]))]
    one, other, reseeded = (
        Folder(root=str(root), split_seed=seed) for root, seed in ((roots[0], 0), (roots[1], 0), (roots[0], 1))
    )
    assert one.parts == other.parts != reseeded.parts
    assert {part: len(members) for part, members in one.parts.items()} == {"train": 16, "val": 2, "test": 2}


# ---- arguments and loaders


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "center"}, r"data\.crop='center' is not a crop mode\. Possible: full, lesion, mixed"),
        ({"size": 16}, r"data\.size=16 must be at least 32"),
        ({"batch_size": 0}, r"data\.batch_size=0 must be at least 1"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlaS(root="nowhere", **options)


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 1), (8, 7), (9, 8), (64, 8)])
def test_workers_by_default_are_one_per_core_but_one(cores: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.data.datamodule.available_cores", lambda: cores)
    assert GlaS(root="nowhere").num_workers == workers
    assert GlaS(root="nowhere", num_workers=3).num_workers == 3
    assert GlaS(root="nowhere", cache="somewhere").num_workers == 0  # a CPU that is fed from the cache


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= available_cores() <= 1024


def test_samples_travel_to_spawned_workers_without_the_trainer(tmp_path: Path) -> None:
    split = small("glas", "holdout")
    source = source_of("glas", written(tmp_path / "data", "glas", True, ids_of(split)), split, crop="mixed")
    source.trainer = lambda: None  # type: ignore[assignment]  # like a Trainer, it cannot be pickled
    source.setup("fit")
    dataset = SampleDataset(source, source.parts["train"], training=True)
    arrived = pickle.loads(pickle.dumps(dataset))
    for key in ((0, 0), (3, 2)):
        assert (arrived[key]["image"] == dataset[key]["image"]).all()
    assert source.trainer is not None


@pytest.fixture
def worker() -> Iterator[Any]:
    """The one worker process of a loader that is in use."""
    source = Synthetic(counts=(8, 2, 0), native_size=(40, 40), size=32, batch_size=1, num_workers=1)
    batches = iter(source.train_dataloader())
    next(batches)
    yield batches._workers[0]  # type: ignore[attr-defined]
    del batches


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1"])
def test_workers_leave_signals_to_the_main_process(worker: Any, name: str) -> None:
    subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)  # by another process, as a scheduler does
    worker.join(0.5)
    assert worker.is_alive()


def test_a_worker_can_be_terminated_by_its_main_process(worker: Any) -> None:
    """Python does so at its end and then waits: were the worker deaf, an error in training would never end the run."""
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


# ---- configs


def test_the_shipped_datasets_are_these_five() -> None:
    assert set(CONFIGS) == set(CLASSES) and len(CONFIGS) == 5


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_composes_and_builds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMISNET_DATA", str(tmp_path))
    overrides = [f"data={name}", "seed=7"] + (["data.root=/my/images"] if name == "folder" else [])
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides).data, resolve=True)
    source = instantiate(config)
    assert type(source) is CLASSES[name] and source.dataset == name
    assert source.seed == 7 and source.size == (256, 256) and source.batch_size == 8 and source.crop == "full"
    assert source.mean == (0.485, 0.456, 0.406) and source.std == (0.229, 0.224, 0.225)
    assert [type(step).__name__ for step in source.augment.transforms] == ["HorizontalFlip", "VerticalFlip", "Rotate"]
    roots = {"folder": Path("/my/images"), "synthetic": Path("(generated)")}
    assert source.root == roots.get(name, tmp_path / name)
    if name == "synthetic":
        assert {part: len(ids) for part, ids in source.parts.items()} == {"train": 240, "val": 60, "test": 60}


def test_a_dataset_of_one_s_own_needs_its_pairs_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, example_pairs(["a", "b", "c"]))

    class Mine(SegmentationDataModule):
        def find_pairs(self) -> dict[str, Pair]:
            return {i: Pair(i, tmp_path / "images" / f"{i}.jpg", tmp_path / "masks" / f"{i}.png") for i in "abc"}

        def make_split(self) -> Split:
            return Split("mine", "mine", {"train": ("a", "b"), "val": ("c",)})

    options: dict[str, Any] = {"root": str(tmp_path), "size": 32, "batch_size": 2, "num_workers": 0}
    source = Mine(split="mine", **options)
    assert [sorted(batch["id"]) for batch in batches(source)] == [["a", "b"], ["c"]]
    with pytest.raises(ValueError, match=r"data\.split=foo: .*no such split\. Possible: mine, kfold"):
        Mine(split="foo", **options).setup("fit")
    folds = [Mine(split="kfold", fold=fold, n_folds=3, **options).parts["test"] for fold in range(3)]
    assert sorted(folds) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    ("count", "batches", "sizes"), [(9, 2, [4, 4]), (10, 3, [4, 4, 2]), (8, 2, [4, 4]), (1, 1, [1])]
)
def test_a_last_batch_of_one_image_is_left_out(count: int, batches: int, sizes: list[int]) -> None:
    source = Synthetic(counts=(count, 1, 1), native_size=(32, 32), size=32, batch_size=4, num_workers=0)
    assert source.train_batches == batches == len(source.train_dataloader())
    assert [len(batch["id"]) for batch in source.train_dataloader()] == sizes
