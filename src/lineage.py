"""What a run learned from besides its own images: the weights it starts from (`init`) and its teacher.

Both have seen images of their own. Where such an image is in this run's val or test part, its score would be of images
that were trained on, at second hand; `faults` finds them. A run directory keeps the whole line in lineage.json, since a
start may have had a start of its own, and may be elsewhere by then.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.data.splits import Split, is_test, read_split
from src.rundir import RunDir
from src.trained import run_and_weights
from src.weights import sha256

LINEAGE = "lineage.json"
ROLES = ("init", "teacher")
SHOWN = 5  # ids in a fault


@dataclass(frozen=True)
class Ancestor:
    """A run whose weights this one learned from: its `role`, its directory's name, the SHA-256 of the weights, the data
    (`identity`), and the ids that trained it and chose its checkpoint; `via` is the ancestor it is one of, "" for none.
    """

    role: str
    source: str
    via: str
    sha256: str
    dataset: str
    train: tuple[str, ...]
    val: tuple[str, ...]

    def __str__(self) -> str:
        by_way = f", by way of {self.via}" if self.via else ""
        return f"{self.role} {self.source} (sha256 {self.sha256[:12]}{by_way})"


def identity(data: Mapping[str, Any], dataset: str) -> str:
    """Whose images ids of a data config name: folders and generated images are told apart by root and seed."""
    parts = [dataset]
    if "split_seed" in data:
        parts.append(str(Path(data["root"]).resolve()))
    if "data_seed" in data:
        parts.append(f"seed {data['data_seed']}")
    return " ".join(parts)


def lineage(run: RunDir, config: Mapping[str, Any], *, resuming: bool) -> list[Ancestor]:
    """The ancestors of a run that is to be trained: those it began with where it goes on.

    ValueError for an `init` or `teacher` that is no run, no bundle and no name of one; for a run that goes on and has
    lost its lineage.json, or whose teacher has other weights by now.
    """
    if not resuming:
        return [one for role in ROLES if config[role] is not None for one in _line(role, config[role])]
    recorded = read_lineage(run.path)
    afresh = "resume=never starts afresh (the earlier run is kept beside it)."
    for role in ROLES:
        direct = next((one for one in recorded if one.role == role and not one.via), None)
        if config[role] is not None and direct is None:
            raise ValueError(f"{run.path / LINEAGE} does not say which {role} this run began with. {afresh}")
        if role == "teacher" and direct and (now := sha256(run_and_weights(config[role])[1])) != direct.sha256:
            raise ValueError(
                f"teacher={config[role]} has other weights than when this run began: SHA-256 {now[:12]}..., then "
                f"{direct.sha256[:12]}.... Put those back, or {afresh}"
            )
    return recorded


def _line(role: str, source: str) -> list[Ancestor]:
    """The run that `source` names, and its own ancestors."""
    try:
        run, weights = run_and_weights(source)
    except ValueError as error:
        raise ValueError(f"{role}={source}: {error}") from error
    if not (run.path / "split.json").is_file():
        raise ValueError(f"{role}={source}: {run.path} has no split.json, so nobody can tell which images it has seen.")
    split, name = read_split(run.path / "split.json"), run.path.resolve().name
    data = identity(run.config()["data"], split.dataset)
    own = Ancestor(role, name, "", sha256(weights), data, split.parts["train"], split.parts["val"])
    further = [Ancestor(**{**asdict(one), "via": one.via or name}) for one in read_lineage(run.path)]
    return [own, *further]


def read_lineage(run_path: Path) -> list[Ancestor]:
    """What lineage.json of a run directory or bundle says; [] where there is none. ValueError for a damaged one."""
    file = run_path / LINEAGE
    try:
        held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        return [Ancestor(**{**row, "train": tuple(row["train"]), "val": tuple(row["val"])}) for row in held]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}): restore it, or nobody can tell which images that "
            "run has seen."
        ) from error


def lineage_json(found: Sequence[Ancestor]) -> str:
    return json.dumps([asdict(ancestor) for ancestor in found], indent=1) + "\n"


def faults(found: Sequence[Ancestor], split: Split, data: str, groups: Mapping[str, str]) -> list[str]:
    """Which val and test images of `split`, of the `data` so identified, an ancestor trained on, and which test images
    it was selected by; an image counts with its group (patient, near-duplicates)."""
    return [
        f"{one} {did} {len(ids)} of the {part} images, or others of their groups ({', '.join(ids[:SHOWN])}"
        f"{', ...' if len(ids) > SHOWN else ''})"
        for one in found
        if one.dataset == data
        for did, part, ids in _seen(one, split, groups)
    ]


def _seen(one: Ancestor, split: Split, groups: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    # what this run trains on or selects by itself adds nothing: official splits of GlaS tear patients, and say so
    own = set(split.parts["train"])
    trained, selected = (
        {groups.get(id_, id_) for id_ in set(ids) - used}
        for ids, used in ((one.train, own), (one.val, own.union(split.parts["val"])))
    )
    for part, members in split.parts.items():
        if part != "train" and (ids := [id_ for id_ in members if groups.get(id_, id_) in trained]):
            yield "was trained on", part, ids
        if is_test(part) and (ids := [id_ for id_ in members if groups.get(id_, id_) in selected]):
            yield "was selected by", part, ids


def refuse_seen(found: Sequence[str], *, allowed: bool) -> None:
    """ValueError for `faults`, unless they are allowed (data.allow_leaks)."""
    if found and not allowed:
        raise ValueError(
            f"{'; '.join(found)}: a score on them would be of images it learned from. Use the split that it was "
            "trained with, or data.allow_leaks=true for a run whose scores are not to be compared."
        )
