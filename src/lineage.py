"""What a run learned from besides its own images: the weights it starts from (`init`) and its teacher.

Both have seen images of their own. Where such an image is in this run's val or test part, that score would be of
images that were trained on, at second hand; `refuse_seen` stops that. A run directory keeps the whole line in
lineage.json, since a start may have had a start of its own, and may be elsewhere by then.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.data.splits import Split, is_test, read_split
from src.trained import run_and_weights
from src.weights import sha256

LINEAGE = "lineage.json"
SHOWN = 5  # ids in an error


@dataclass(frozen=True)
class Ancestor:
    """A run whose weights this one learned from: `role` init or teacher, the images that trained it and chose its
    checkpoint."""

    role: str
    source: str
    sha256: str
    dataset: str
    train: tuple[str, ...]
    val: tuple[str, ...]


def ancestors(config: dict[str, Any]) -> list[Ancestor]:
    """Of a run's config, theirs included. ValueError for an `init` or `teacher` that is no run, no bundle, no name."""
    found: list[Ancestor] = []
    for role in ("init", "teacher"):
        if config[role] is not None:
            run, weights = run_and_weights(config[role])
            split = read_split(run.path / "split.json")
            parts = tuple(split.parts["train"]), tuple(split.parts["val"])
            found.append(Ancestor(role, Path(config[role]).name, sha256(weights), split.dataset, *parts))
            found += read_lineage(run.path)
    return found


def read_lineage(run_path: Path) -> list[Ancestor]:
    file = run_path / LINEAGE
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return [Ancestor(**{**row, "train": tuple(row["train"]), "val": tuple(row["val"])}) for row in held]


def lineage_json(found: Sequence[Ancestor]) -> str:
    return json.dumps([asdict(ancestor) for ancestor in found], indent=1) + "\n"


def refuse_seen(found: Sequence[Ancestor], split: Split, *, allowed: bool) -> list[str]:
    """Notes for a run of `split`. ValueError where an ancestor trained on an image of its val or test part, or chose by
    one of its test part; with `allowed` (data.allow_leaks) those are notes, too."""
    notes = [f"{one.role}: {one.source} (sha256 {one.sha256[:12]}), trained on {one.dataset}" for one in found]
    faults = [
        f"{one.role}={one.source} {did} {len(ids)} of this run's {part} images ({', '.join(ids[:SHOWN])}"
        f"{', ...' if len(ids) > SHOWN else ''})"
        for one in found
        if one.dataset == split.dataset
        for did, part, ids in _seen(one, split)
    ]
    if faults and not allowed:
        raise ValueError(
            f"{'; '.join(faults)}: a score on them would be of images it learned from. Use the split that it was "
            "trained with, or data.allow_leaks=true for a run whose scores are not to be compared."
        )
    return notes + faults


def _seen(one: Ancestor, split: Split) -> Iterator[tuple[str, str, list[str]]]:
    for part, members in split.parts.items():
        if part != "train" and (ids := sorted(set(members).intersection(one.train))):
            yield "was trained on", part, ids
        if is_test(part) and (ids := sorted(set(members).intersection(one.val))):
            yield "was selected by", part, ids
