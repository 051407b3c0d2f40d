"""Which ids train, choose and score.

A split is a list of ids with a name and a hash, committed under manifests/; never a directory order. What the committed
ones follow from stands here too, so `python -m src.data.splits make --data <root>` writes the same files again.
Membership is drawn by hashing ids: it depends on the set of ids and the seed, and on no library's random stream.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.pairs import ISIC2018_PARTS, glas_patients, isic2018_pairs

MANIFESTS = Path(__file__).parent / "manifests"
_FROM_FOLDERS = ("isic2018", "official")  # its lists are not at hand: `isic2018_official` takes the archive's folders
OFFICIAL_SIZES = {
    "kvasir_seg": {"train": 880, "test": 120},  # the authors' lists
    "isic2018": {"train": 2594, "val": 100, "test": 1000},
    "glas": {"train": 85, "testA": 60, "testB": 20},
}
ISIC2018_SUBSET = 2000  # the square-cropped copy that the holdout is drawn from
# Pairs that show one lesion in one position, some recoloured, each looked at. Candidates came from the correlation of
# grey thumbnails with local contrast normalised (64 x 64, Gaussian 6): the first three of kvasir_seg are known ones and
# reach 0.999, the fourth 0.93, all others stay below 0.82. The isic2018 list is what that search showed among the
# 2000, surely not all: its pairs reach from 0.998 down to 0.79, where different lesions of like shape begin.
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


@dataclass(frozen=True)
class Split:
    """Ids per part: "train", "val", and parts whose names start with "test" ("test", or "testA" and "testB").

    Ids are kept sorted. ValueError: a part missing or of another name, an id twice.
    """

    name: str
    dataset: str
    parts: dict[str, tuple[str, ...]]
    description: str = ""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in ("train", "val") and not part.startswith("test")]
        if unknown or not {"train", "val"} <= self.parts.keys():
            got = list(self.parts)
            raise ValueError(
                f"{self.dataset} {self.name}: parts are train, val and names that start with test; got {got}"
            )
        counts = Counter(id_ for part in self.parts.values() for id_ in part)
        twice = sorted(id_ for id_, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"{self.dataset} {self.name}: {len(twice)} ids stand twice, {twice[:10]}; keep each once")
        object.__setattr__(self, "parts", {part: tuple(sorted(members)) for part, members in self.parts.items()})

    @property
    def sha256(self) -> str:
        """Over the parts alone, as canonical JSON: the same ids are the same split under any name."""
        canonical = json.dumps(self.parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def hash(self) -> str:
        """The 12 digits to show; `sha256` has all."""
        return self.sha256[:12]

    def to_json(self) -> str:
        """One id a line, so that a changed split reads well as a diff."""
        head = {"name": self.name, "dataset": self.dataset, "description": self.description, "sha256": self.sha256}
        return json.dumps({**head, "parts": self.parts}, indent=1, ensure_ascii=False) + "\n"


def available_splits(dataset: str) -> list[str]:
    """Names of the committed splits of a dataset; empty for one that has none."""
    return sorted(path.stem.removeprefix(f"{dataset}_") for path in MANIFESTS.glob(f"{dataset}_*.json"))


def load_split(dataset: str, name: str) -> Split:
    """A committed split. ValueError: no such split, or a file that does not agree with its hash."""
    if name not in available_splits(dataset):
        known = ", ".join(sorted(path.stem for path in MANIFESTS.glob("*.json")))
        hint = "; isic2018 official is read from the archive folders" if (dataset, name) == _FROM_FOLDERS else ""
        raise ValueError(f"no split {name!r} of {dataset!r}{hint}; committed are, as <dataset>_<name>, {known}")
    return read_split(MANIFESTS / f"{dataset}_{name}.json")


def read_split(path: str | Path) -> Split:
    """A split from its file. ValueError: not a manifest, or changed since its hash was written."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        parts = {part: tuple(ids) for part, ids in fields["parts"].items()}
        split = Split(fields["name"], fields["dataset"], parts, fields.get("description", ""))
        written = fields["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a split manifest ({error!r}); restore it from version control") from error
    if written != split.sha256:
        raise ValueError(
            f"{path}: the ids give hash {split.hash}, the file says {str(written)[:12]}, so it was changed; restore it "
            "from version control, or give the changed split a name of its own"
        )
    return split


def find_absent(split: Split, part: str, on_disk: Iterable[str]) -> list[str]:
    """Sorted ids of a part that are not on disk. ValueError: no such part."""
    if part not in split.parts:
        raise ValueError(f"{split.dataset} {split.name} has no part {part!r}; it has {', '.join(split.parts)}")
    return sorted(set(split.parts[part]) - set(on_disk))


# ---- drawing


def holdout(
    ids: Iterable[str],
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    name: str = "holdout",
    dataset: str = "folder",
    description: str = "",
) -> Split:
    """Draw "train", "val" and "test"; a fraction of 0 leaves its part empty, any other gives it a group or more.

    `groups` (id -> group; ids without one stand alone) are never torn. Sizes are as near the fractions as they allow.
    ValueError: fractions that leave no train part, ids given twice, fewer groups than parts.
    """
    every = list(ids)
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(f"fractions val={val} and test={test} must be 0 or more and leave something for train")
    if len(set(every)) != len(every):
        raise ValueError(f"{dataset} {name}: {len(every) - len(set(every))} ids are given twice; ids must be unique")
    left = _drawn_order(every, groups or {}, seed)
    still_to_serve = 1 + (val > 0) + (test > 0)
    if len(left) < still_to_serve:
        have = f"{len(every)} ids in {len(left)} groups"
        raise ValueError(
            f"{dataset} {name}: {have} cannot fill {still_to_serve} parts; add images, or set a fraction to 0"
        )
    parts: dict[str, tuple[str, ...]] = {"train": (), "val": (), "test": ()}
    # val first: at one fraction and seed the same ids choose with a test part or without, so what one split has
    # chosen by is not what the other is scored on
    for part, fraction in (("val", val), ("test", test)):
        if fraction > 0:
            still_to_serve -= 1
            wanted = max(1, int(len(every) * fraction + 0.5))
            chosen = _nearest_subset([len(group) for group in left], wanted)[: len(left) - still_to_serve]
            parts[part] = tuple(id_ for i in chosen for id_ in left[i])
            left = [group for i, group in enumerate(left) if i not in set(chosen)]
    parts["train"] = tuple(id_ for group in left for id_ in group)
    return Split(name, dataset, parts, description)


def _drawn_order(ids: Sequence[str], groups: Mapping[str, str], seed: int) -> list[tuple[str, ...]]:
    """The groups, shuffled by the hash of seed and first member: group names and the order of ids have no say."""
    members: dict[tuple[bool, str], list[str]] = {}
    for id_ in sorted(ids):
        members.setdefault((True, groups[id_]) if id_ in groups else (False, id_), []).append(id_)
    return sorted(
        (tuple(group) for group in members.values()),
        key=lambda group: hashlib.sha256(f"{seed}/{group[0]}".encode()).digest(),
    )


def _nearest_subset(sizes: Sequence[int], wanted: int) -> list[int]:
    """Positions whose sizes add up as near to `wanted` as any do (of two sums the smaller), early ones preferred."""
    limit = max(2 * wanted, min(sizes))
    reachable = [1]  # bit s of entry i: some of the first i sizes add up to s
    for size in sizes:
        reachable.append((reachable[-1] | reachable[-1] << size) & ((2 << limit) - 1))
    total = min((s for s in range(1, limit + 1) if reachable[-1] >> s & 1), key=lambda s: (abs(s - wanted), s))
    chosen = []
    for i in reversed(range(len(sizes))):
        if not reachable[i] >> total & 1:  # not without this one
            chosen.append(i)
            total -= sizes[i]
    return chosen[::-1]


# ---- the committed splits


def near_duplicates(dataset: str) -> dict[str, str]:
    """id -> group, for the ids of a dataset that have a near-duplicate."""
    return {id_: group[0] for group in NEAR_DUPLICATES.get(dataset, ()) for id_ in group}


def kvasir_seg_splits(train: Sequence[str], test: Sequence[str]) -> list[Split]:
    """From the authors' two lists. ValueError: not 880 and 120 ids."""
    _check_sizes("kvasir_seg", {"train": len(train), "test": len(test)})
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


def isic2018_official(parts: Mapping[str, Sequence[str]]) -> Split:
    """From `isic2018_parts`: a part whose folders are absent is empty, one that is there must be whole.

    ValueError: Training absent, or other counts than 2594 / 100 / 1000.
    """
    _check_sizes("isic2018", {"train": 0, **{part: len(ids) for part, ids in parts.items()}})
    members = {part: tuple(parts.get(part, ())) for part in OFFICIAL_SIZES["isic2018"]}
    return Split("official", "isic2018", members, "By the official archive folders: Training, Validation, Test.")


def _check_sizes(dataset: str, sizes: Mapping[str, int]) -> None:
    required = OFFICIAL_SIZES[dataset]
    folder = ISIC2018_PARTS if dataset == "isic2018" else {}
    wrong = [
        f"{folder.get(part, part)} has {n} of {required[part]}" for part, n in sizes.items() if n != required[part]
    ]
    if wrong:
        raise ValueError(
            f"{dataset} official: {', '.join(wrong)} images; restore the archive's folders, or use the holdout"
        )


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


if __name__ == "__main__":
    sys.exit(main())
