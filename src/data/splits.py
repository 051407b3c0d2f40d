"""Which ids train, choose and score.

A split is a list of ids with a name and a hash, committed under manifests/; never a directory order. `python -m
src.data.splits` lists the committed ones; `recipes` has what they follow from, `folds` what is drawn for k-fold.
Membership is drawn by hashing ids: it depends on the set of ids and the seed, and on no library's random stream.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from src.data.pairs import ISIC2018_PARTS

MANIFESTS = Path(__file__).parent / "manifests"
KFOLD = "kfold"  # before the number of folds, in names of committed folds (`src.data.folds`) and of splits made of them
_FROM_FOLDERS = ("isic2018", "official")  # its lists are not at hand: `isic2018_official` takes the archive's folders
OFFICIAL_SIZES = {
    "kvasir_seg": {"train": 880, "test": 120},  # the authors' lists
    "isic2018": {"train": 2594, "val": 100, "test": 1000},
    "glas": {"train": 85, "testA": 60, "testB": 20},
}


@dataclass(frozen=True)
class Split:
    """Ids per part: "train", "val", and parts whose names start with "test" ("test", or "testA" and "testB").

    Ids are kept sorted. ValueError: a part missing or of another name, an id twice, a dataset that is no plain name
    (names of parts and datasets become names of folders).
    """

    name: str
    dataset: str
    parts: dict[str, tuple[str, ...]]
    description: str = ""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in ("train", "val") and not is_test(part)]
        if unknown or not {"train", "val"} <= self.parts.keys():
            got = list(self.parts)
            raise ValueError(
                f"{self.dataset} {self.name}: parts are train, val and names that start with test; got {got}"
            )
        if not re.fullmatch(r"(\w[\w.-]*)?", self.dataset):
            raise ValueError(f"a split's dataset is {self.dataset!r}; it is a name of letters, digits, _, - and .")
        counts = Counter(id_ for part in self.parts.values() for id_ in part)
        twice = sorted(id_ for id_, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"{self.dataset} {self.name}: {len(twice)} ids stand twice, {twice[:10]}; keep each once")
        object.__setattr__(self, "parts", {part: tuple(sorted(members)) for part, members in self.parts.items()})

    @property
    def sha256(self) -> str:
        """Over the parts alone, as canonical JSON: the same ids are the same split under any name."""
        return content_hash(self.parts)

    @property
    def hash(self) -> str:
        """The 12 digits to show; `sha256` has all."""
        return self.sha256[:12]

    def to_json(self) -> str:
        """One id a line, so that a changed split reads well as a diff."""
        head = {"name": self.name, "dataset": self.dataset, "description": self.description, "sha256": self.sha256}
        return json.dumps({**head, "parts": self.parts}, indent=1, ensure_ascii=False) + "\n"


def is_test(part: str) -> bool:
    """Whether a part of a split is for the score alone; there may be several, such as testA and testB."""
    return bool(re.fullmatch(r"test\w*", part))


class _Hashed(Protocol):
    @property
    def sha256(self) -> str: ...


Manifest = TypeVar("Manifest", bound=_Hashed)  # a Split, or Folds


def content_hash(content: Any) -> str:
    """sha256 of canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def available_splits(dataset: str) -> list[str]:
    """Names of the committed splits of a dataset; empty for one that has none."""
    return [stem.removeprefix(f"{dataset}_") for stem in _committed(f"{dataset}_*")]


def _committed(pattern: str) -> list[str]:
    """The files of splits, without those of folds."""
    return sorted(path.stem for path in MANIFESTS.glob(f"{pattern}.json") if not holds_folds(path))


def holds_folds(manifest: Path) -> bool:
    return f"_{KFOLD}" in manifest.stem


def load_split(dataset: str, name: str) -> Split:
    """A committed split. ValueError: no such split, or a file that does not agree with its hash."""
    if name not in available_splits(dataset):
        hint = "; isic2018 official is read from the archive folders" if (dataset, name) == _FROM_FOLDERS else ""
        raise ValueError(
            f"no split {name!r} of {dataset!r}{hint}; possible: {', '.join([*available_splits(dataset), KFOLD])}"
        )
    return read_split(MANIFESTS / f"{dataset}_{name}.json")


def read_split(path: str | Path) -> Split:
    """A split from its file. ValueError: not a manifest, or changed since its hash was written."""
    return read_manifest(
        path,
        lambda fields: Split(
            fields["name"],
            fields["dataset"],
            {part: tuple(ids) for part, ids in fields["parts"].items()},
            fields.get("description", ""),
        ),
    )


def read_manifest(path: str | Path, build: Callable[[dict[str, Any]], Manifest]) -> Manifest:
    """What `build` makes of the fields in a file. ValueError: as `read_split`."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        manifest, written = build(fields), fields["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not such a manifest, or damaged ({error!r}); restore it from version control"
        ) from error
    if written != manifest.sha256:
        raise ValueError(
            f"{path}: the ids give hash {manifest.sha256[:12]}, the file says {str(written)[:12]}, so it was changed; "
            "restore it from version control, or give what was changed a name of its own"
        )
    return manifest


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
    left = drawn_order(every, groups or {}, seed)
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
            taken = set(chosen)
            left = [group for i, group in enumerate(left) if i not in taken]
    parts["train"] = tuple(id_ for group in left for id_ in group)
    return Split(name, dataset, parts, description)


def drawn_order(ids: Sequence[str], groups: Mapping[str, str], seed: int) -> list[tuple[str, ...]]:
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
    first_with = {0: 0}  # sum -> how many of the first sizes are enough for it; a table of all would be n * limit bits
    reachable = 1  # bit s: some of the sizes so far add up to s
    for i, size in enumerate(sizes):
        new = (reachable << size) & ((2 << limit) - 1) & ~reachable
        reachable |= new
        while new:
            total = new.bit_length() - 1
            first_with[total] = i + 1
            new ^= 1 << total
        if wanted in first_with:  # what follows is not needed for it
            break
    total = min((s for s in first_with if s > 0), key=lambda s: (abs(s - wanted), s))
    chosen = []
    while total:
        i = first_with[total] - 1  # not without this one
        chosen.append(i)
        total -= sizes[i]
    return chosen[::-1]


# ---- the official sizes


def isic2018_official(parts: Mapping[str, Sequence[str]]) -> Split:
    """From `isic2018_parts`: a part whose folders are absent is empty, one that is there must be whole.

    ValueError: Training absent, or other counts than 2594 / 100 / 1000.
    """
    check_sizes("isic2018", {"train": 0, **{part: len(ids) for part, ids in parts.items()}})
    members = {part: tuple(parts.get(part, ())) for part in OFFICIAL_SIZES["isic2018"]}
    return Split("official", "isic2018", members, "By the official archive folders: Training, Validation, Test.")


def check_sizes(dataset: str, sizes: Mapping[str, int]) -> None:
    """ValueError: parts of other sizes than the official ones."""
    required = OFFICIAL_SIZES[dataset]
    folder = ISIC2018_PARTS if dataset == "isic2018" else {}
    wrong = [
        f"{folder.get(part, part)} has {n} of {required[part]}" for part, n in sizes.items() if n != required[part]
    ]
    if wrong:
        raise ValueError(
            f"{dataset} official: {', '.join(wrong)} images; restore the archive's folders, or use the holdout"
        )


if __name__ == "__main__":
    from src.data.recipes import main  # here, since the recipes import this module

    sys.exit(main())
