"""What the committed splits follow from: `python -m src.data.splits make --data <root>` writes the same files again."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from src.data.folds import DEFAULT_FOLDS, Folds, kfold, lesion_areas, read_folds
from src.data.groups import glas_patients, near_duplicates
from src.data.pairs import Pair, glas_pairs, isic2018_pairs, kvasir_seg_pairs, listed
from src.data.splits import KFOLD, MANIFESTS, OFFICIAL_SIZES, Split, check_sizes, holdout, holds_folds, read_split

ISIC2018_SUBSET = 2000  # the square-cropped copy that the holdout is drawn from


def kvasir_seg_splits(train: Sequence[str], test: Sequence[str]) -> list[Split]:
    """From the authors' two lists. ValueError: not 880 and 120 ids."""
    check_sizes("kvasir_seg", {"train": len(train), "test": len(test)})
    groups = near_duplicates("kvasir_seg")
    official = {**holdout(train, test=0, groups=groups).parts, "test": tuple(test)}
    about = "The authors' 880 / 120 list: their 120 are test, val is 88 of the 880 (seed 0, near-duplicates together)."
    about_holdout = "80/10/10 of the authors' 880, for those without the 120 (seed 0, near-duplicates together)."
    return [
        Split("official", "kvasir_seg", official, about),
        holdout(train, groups=groups, dataset="kvasir_seg", description=about_holdout),
    ]


def glas_splits(patients: Mapping[str, str]) -> list[Split]:
    """From id -> patient of Grade.csv. ValueError: other ids than train_1..85, testA_1..60, testB_1..20."""
    ids = {part: tuple(f"{part}_{n}" for n in range(1, size + 1)) for part, size in OFFICIAL_SIZES["glas"].items()}
    odd = sorted(patients.keys() ^ {id_ for members in ids.values() for id_ in members})
    if odd:
        raise ValueError(f"glas: {len(odd)} ids of Grade.csv and of the archive differ, {odd[:10]}; restore Grade.csv")
    carved = holdout(ids["train"], val=0.2, test=0, groups=patients).parts
    official = {"train": carved["train"], "val": carved["val"], "testA": ids["testA"], "testB": ids["testB"]}
    about = (
        "85 / 60 / 20 by file name; val is a fifth of the 85 (seed 0, no patient in both train and val). By Grade.csv "
        "most patients of testA and testB are also among the 85: that is how the challenge was made."
    )
    about_holdout = "60/20/20 of the 85 training images (seed 0, no patient in two parts)."
    return [
        Split("official", "glas", official, about),
        holdout(ids["train"], val=0.2, test=0.2, groups=patients, dataset="glas", description=about_holdout),
    ]


def isic2018_holdout(ids: Sequence[str]) -> Split:
    """ValueError: not the 2000 ids of the subset (a full archive has its own split, `isic2018_official`)."""
    if len(ids) != ISIC2018_SUBSET:
        raise ValueError(f"isic2018: the holdout is drawn from the subset of {ISIC2018_SUBSET} images, got {len(ids)}")
    about = "80/10/10 of 2000 of the 2594 training images (seed 0, known near-duplicates together)."
    return holdout(ids, groups=near_duplicates("isic2018"), dataset="isic2018", description=about)


def committed_folds(
    dataset: str, ids: Sequence[str], pairs: Mapping[str, Pair], foreground: str, groups: Mapping[str, str], about: str
) -> Folds:
    """The default number of folds of `ids`. ValueError: some have no mask on disk to measure the lesion by."""
    name = f"{KFOLD}{DEFAULT_FOLDS}"
    if absent := sorted(set(ids) - pairs.keys()):
        raise ValueError(f"{dataset} {name}: {len(absent)} images are not on disk: {listed(absent)}; put them there")
    areas = lesion_areas({id_: pairs[id_] for id_ in ids}, foreground)
    folds = kfold(areas, n_folds=DEFAULT_FOLDS, groups=groups)
    mean_areas = tuple(round(fmean(areas[id_] for id_ in members), 4) for members in folds)
    return Folds(name, dataset, folds, f"{about} (seed 0, balanced by size and lesion area).", mean_areas)


# ---- command line


def remade(data: Path) -> Iterator[Split | Folds | str]:
    """Every committed split and its folds made anew from what lies under `data`, or why some cannot be."""
    for recipe in (_kvasir_seg, _glas, _isic2018):
        try:
            yield from recipe(data)
        except ValueError as error:
            yield str(error)


# Splits come first: they need lists alone, and are made where the masks of the folds are absent.


def _kvasir_seg(data: Path) -> Iterator[Split | Folds]:
    train, test = _kvasir_seg_lists(data / "splits")
    yield from kvasir_seg_splits(train, test)
    pairs, groups = kvasir_seg_pairs(data / "kvasir_seg"), near_duplicates("kvasir_seg")
    about = f"{DEFAULT_FOLDS} folds of the authors' 880, near-duplicates together"
    yield committed_folds("kvasir_seg", train, pairs, "threshold", groups, about)


def _glas(data: Path) -> Iterator[Split | Folds]:
    patients = glas_patients(data / "glas")
    yield from glas_splits(patients)
    ids = [id_ for id_ in patients if id_.startswith("train_")]
    about = f"{DEFAULT_FOLDS} folds of the 85 training images, no patient in two"
    yield committed_folds("glas", ids, glas_pairs(data / "glas"), "instances", patients, about)


def _isic2018(data: Path) -> Iterator[Split | Folds]:
    pairs, groups = isic2018_pairs(data / "isic2018"), near_duplicates("isic2018")
    yield isic2018_holdout(list(pairs))
    about = f"{DEFAULT_FOLDS} folds of 2000 of the 2594 training images, known near-duplicates together"
    yield committed_folds("isic2018", list(pairs), pairs, "binary", groups, about)


def _kvasir_seg_lists(folder: Path) -> list[list[str]]:
    files = [folder / f"kvasir_seg_official_880_120_{part}.txt" for part in ("train", "val")]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise ValueError(f"kvasir_seg: the authors' lists are not here, {absent}; put them there, one id a line")
    return [file.read_text(encoding="utf-8").split() for file in files]


def _make(data: Path) -> int:
    skipped = 0
    for split in remade(data):
        if isinstance(split, str):
            skipped += 1
            print(f"skipped  {split}")
            continue
        path = MANIFESTS / f"{split.dataset}_{split.name}.json"
        same = path.is_file() and path.read_text(encoding="utf-8") == split.to_json()
        path.write_text(split.to_json(), encoding="utf-8")
        print(f"{'as it was' if same else 'written  '}  {path.name}  {split.hash}")
    return 1 if skipped else 0


def _print_table() -> None:
    rows = [("dataset", "name", "sizes, for folds with their mean lesion area", "hash")]
    for path in sorted(MANIFESTS.glob("*.json")):
        committed = read_folds(path) if holds_folds(path) else read_split(path)
        rows.append((committed.dataset, committed.name, _sizes(committed), committed.hash))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _sizes(committed: Split | Folds) -> str:
    if isinstance(committed, Split):
        return "  ".join(f"{part} {len(ids)}" for part, ids in committed.parts.items())
    sized = zip(committed.folds, committed.mean_areas, strict=True)
    return "  ".join(f"{len(ids)} ({area:.3f})" for ids, area in sized)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.splits", description="Show or re-make the committed splits."
    )
    make = parser.add_subparsers(dest="command").add_parser("make", help="write the manifests anew from their sources")
    make.add_argument(
        "--data", type=Path, required=True, help="folder that holds kvasir_seg/, glas/, isic2018/, splits/"
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "make":
        return _make(chosen.data)
    _print_table()
    return 0
