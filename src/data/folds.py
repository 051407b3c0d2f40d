"""k-fold cross-validation: folds of whole groups with equal sizes and lesion areas, and the splits made of them.

Over the folds every image is scored exactly once, by a network that was neither trained nor chosen on it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from operator import add, mul
from pathlib import Path
from statistics import fmean, pstdev

from src.data.decode import read_mask
from src.data.pairs import Pair
from src.data.splits import KFOLD, MANIFESTS, Split, content_hash, drawn_order, read_manifest
from src.progress import in_threads

DEFAULT_FOLDS = 5  # committed for every dataset with committed splits
MIN_FOLDS = 3  # one tests, another chooses, what is left trains
DECILES = 10


@dataclass(frozen=True)
class Folds:
    """Committed folds; `mean_areas` is the mean lesion area of each, as a fraction of the image, for the reader alone.

    Ids are kept sorted.
    """

    name: str
    dataset: str
    folds: list[tuple[str, ...]]
    description: str = ""
    mean_areas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folds", [tuple(sorted(members)) for members in self.folds])

    @property
    def sha256(self) -> str:
        """Over the folds alone, in their order."""
        return content_hash(self.folds)

    @property
    def hash(self) -> str:
        return self.sha256[:12]

    def to_json(self) -> str:
        head = {"name": self.name, "dataset": self.dataset, "description": self.description}
        content = {**head, "mean_areas": self.mean_areas, "sha256": self.sha256, "folds": self.folds}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def available_folds(dataset: str) -> list[int]:
    """The numbers of folds that are committed for a dataset."""
    found = (re.fullmatch(rf"{re.escape(dataset)}_{KFOLD}(\d+)", path.stem) for path in MANIFESTS.glob("*.json"))
    return sorted(int(match[1]) for match in found if match)


def load_folds(dataset: str, n_folds: int) -> list[tuple[str, ...]]:
    """Committed folds. ValueError: none of that number, or a file that does not agree with its hash."""
    if n_folds not in (known := available_folds(dataset)):
        raise ValueError(
            f"no {n_folds} folds of {dataset!r} are committed, {known or 'nor any other number'}; choose a committed "
            "number, or draw folds with kfold"
        )
    return read_folds(MANIFESTS / f"{dataset}_{KFOLD}{n_folds}.json").folds


def read_folds(path: str | Path) -> Folds:
    """ValueError: not a manifest of folds, or changed since its hash was written."""
    return read_manifest(
        path,
        lambda fields: Folds(
            fields["name"],
            fields["dataset"],
            [tuple(members) for members in fields["folds"]],
            fields["description"],
            tuple(fields["mean_areas"]),
        ),
    )


def fold_split(folds: Sequence[Sequence[str]], fold: int, dataset: str) -> Split:
    """The split that tests on `folds[fold]`, chooses by the next fold and trains on all others.

    ValueError: no such fold, fewer than three folds, ids in two folds.
    """
    n_folds = len(folds)
    _require_three(n_folds)
    if fold not in range(n_folds):
        raise ValueError(f"{dataset}: there is no fold {fold} of {n_folds}; set data.fold to one of 0 to {n_folds - 1}")
    val = (fold + 1) % n_folds
    train = tuple(id_ for n, members in enumerate(folds) if n not in (fold, val) for id_ in members)
    parts = {"train": train, "val": tuple(folds[val]), "test": tuple(folds[fold])}
    return Split(f"{KFOLD}{n_folds}-{fold}", dataset, parts, f"Fold {fold} of {n_folds} is test, fold {val} val.")


def lesion_areas(pairs: Mapping[str, Pair], foreground: str | Mapping[int, int]) -> dict[str, float]:
    """id -> lesion area as a fraction of the image; decodes every mask. ValueError: as `read_mask`."""

    def area(pair: Pair) -> float:
        return float(read_mask(pair.mask, foreground).mean())

    return dict(zip(pairs, in_threads(area, list(pairs.values()), "lesion areas"), strict=True))


def kfold(
    areas: Mapping[str, float], *, n_folds: int, seed: int = 0, groups: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """Draw folds from id -> lesion area, as equal in size and in area as whole groups allow.

    Greedy: the largest groups first, of these the smallest and largest areas first, each into an empty fold or the one
    that has least of what the group brings: images, images of the same deciles of area, area above or below the mean.
    Single images come last and even out the sizes. `groups` (id -> group; ids without one stand alone) are never torn;
    `seed` settles what this leaves open.

    ValueError: fewer than three folds, or more than groups.
    """
    _require_three(n_folds)
    drawn = drawn_order(list(areas), groups or {}, seed)
    if len(drawn) < n_folds:
        raise ValueError(
            f"{len(areas)} ids in {len(drawn)} groups cannot fill {n_folds} folds; choose fewer folds or add images"
        )
    centre, spread = fmean(areas.values()), pstdev(areas.values()) or 1.0
    decile = {id_: n * DECILES // len(areas) for n, id_ in enumerate(sorted(areas, key=lambda id_: (areas[id_], id_)))}

    def off_centre(group: Sequence[str]) -> float:
        return abs(fmean(decile[id_] for id_ in group) - (DECILES - 1) / 2)

    folds: list[list[str]] = [[] for _ in range(n_folds)]
    totals = [[0.0] * (2 + DECILES) for _ in range(n_folds)]
    for group in sorted(drawn, key=lambda group: (-len(group), -off_centre(group))):
        held = [decile[id_] for id_ in group]
        brings = [float(len(group)), fsum((areas[id_] - centre) / spread for id_ in group)]
        brings += [float(held.count(n)) for n in range(DECILES)]
        costs = [
            (len(members) if len(group) == 1 else bool(members), fsum(map(mul, total, brings)), n)
            for n, (members, total) in enumerate(zip(folds, totals, strict=True))
        ]
        chosen = min(costs)[-1]
        folds[chosen] += group
        totals[chosen] = list(map(add, totals[chosen], brings))
    return [tuple(sorted(members)) for members in folds]


def _require_three(n_folds: int) -> None:
    if n_folds < MIN_FOLDS:
        raise ValueError(
            f"{n_folds} folds are too few, as one tests, another chooses the checkpoint and the others train; set "
            f"{MIN_FOLDS} or more"
        )
