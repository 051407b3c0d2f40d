"""What the committed splits follow from: `python -m src.data.splits make --data <root>` writes the same files again."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from src.data.pairs import glas_patients, isic2018_pairs
from src.data.splits import MANIFESTS, OFFICIAL_SIZES, Split, check_sizes, holdout, read_split

ISIC2018_SUBSET = 2000  # the square-cropped copy that the holdout is drawn from
# Pairs that show one lesion from one view, some recoloured; each was looked at. The first three of kvasir_seg were
# known; candidates for the others came from the correlation of thumbnails (32 x 32 colour, or 64 x 64 grey less its
# local mean). Those of isic2018 were searched among the 2000 of the subset, and are surely not all.
NEAR_DUPLICATES = {
    "kvasir_seg": (
        ("cju30bmab08bi0835mvlr6e0r", "cju77k828z46w0871r0avuoo9"),
        ("cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe"),
        ("cju772304yw5t0818vbw8kkjf", "cju76lsehyia10987u54vn8rb"),
        ("cju5fydrud94708507vo6oy21", "cju7avvi51iox0817ym55y6tt"),
        ("cju1hhj6mxfp90835n3wofrap", "cju3x9lttikfb0818a0g104zn"),
    ),
    "isic2018": (
        ("ISIC_0000162", "ISIC_0014826"),
        ("ISIC_0000164", "ISIC_0014795"),
        ("ISIC_0000165", "ISIC_0014788"),
        ("ISIC_0000182", "ISIC_0015395"),
        ("ISIC_0000186", "ISIC_0014698"),
        ("ISIC_0000215", "ISIC_0015313"),
        ("ISIC_0000225", "ISIC_0014778"),
        ("ISIC_0000229", "ISIC_0014771"),
        ("ISIC_0001134", "ISIC_0010016"),
        ("ISIC_0012222", "ISIC_0016003"),
        ("ISIC_0012290", "ISIC_0013594"),
        ("ISIC_0012756", "ISIC_0013184"),
        ("ISIC_0013109", "ISIC_0013163"),
    ),
}


def near_duplicates(dataset: str) -> dict[str, str]:
    """id -> group, for the ids of a dataset that have a near-duplicate."""
    return {id_: group[0] for group in NEAR_DUPLICATES.get(dataset, ()) for id_ in group}


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


# ---- command line


def remade(data: Path) -> Iterator[Split | str]:
    """Every committed split made anew from the lists under `data`, or why one cannot be."""
    recipes: list[Callable[[], list[Split]]] = [
        lambda: kvasir_seg_splits(*_kvasir_seg_lists(data / "splits")),
        lambda: glas_splits(glas_patients(data / "glas")),
        lambda: [isic2018_holdout(list(isic2018_pairs(data / "isic2018")))],
    ]
    for recipe in recipes:
        try:
            yield from recipe()
        except ValueError as error:
            yield str(error)


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
    rows = [("dataset", "name", "sizes", "hash")]
    for split in (read_split(path) for path in sorted(MANIFESTS.glob("*.json"))):
        sizes = "  ".join(f"{part} {len(ids)}" for part, ids in split.parts.items())
        rows.append((split.dataset, split.name, sizes, split.hash))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
