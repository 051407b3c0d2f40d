"""What stands on two sides of a split: copies, near-duplicates, and groups such as patients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from src.data.cache import PixelStore
from src.data.duplicates import SEARCH, Match, Thumbs, copies, near_duplicates
from src.data.splits import Split, is_test

SHOWN = 20  # leaks listed in an error
KINDS = {"exact": "same pixels", "near": "near-duplicates", "group": "same group"}  # patient, or known duplicates


class Leak(NamedTuple):
    """Two images in different parts of a split; `kind` is "exact", "near" or "group", `similarity` 1 but for "near"."""

    kind: str
    id_a: str
    part_a: str
    id_b: str
    part_b: str
    similarity: float = 1.0

    def __str__(self) -> str:
        what = KINDS[self.kind] + (f" (similarity {self.similarity:.2f})" if self.kind == "near" else "")
        return f"{what}: {self.id_a} in {self.part_a}, {self.id_b} in {self.part_b}"


def image_leaks(
    parts: Mapping[str, Sequence[str]],
    ids: Sequence[str],
    digests: Sequence[str],
    thumbs: Thumbs,
    picture: Callable[[str], npt.NDArray[np.uint8]] | None = None,
) -> list[Leak]:
    """Copies and near-duplicates in two parts; `digests` and `thumbs` are those of `ids`, what is on disk.

    Without `picture` (id -> image) near-duplicates are only those that the thumbnails leave no doubt about, found in
    half a second for 2000 images on one core; with it all that the audit finds, at some 30 ms an image.
    """
    digest_of = dict(zip(ids, digests, strict=True))
    matches = copies(digest_of)
    if picture is not None:
        matches += near_duplicates(thumbs, ids, picture=picture)
    else:
        row_of = {id_: row for row, id_ in enumerate(ids)}
        rows = {part: [row_of[id_] for id_ in members if id_ in row_of] for part, members in parts.items()}
        for a, b in combinations(rows.values(), 2):
            matches += near_duplicates(thumbs[a], [ids[i] for i in a], (thumbs[b], [ids[i] for i in b]))
    return across(parts, matches, digest_of)


def across(parts: Mapping[str, Sequence[str]], matches: Sequence[Match], digest_of: Mapping[str, str]) -> list[Leak]:
    """The matches whose images are in different parts, each pair once; those of one digest are "exact"."""
    part_of = {id_: part for part, members in parts.items() for id_ in members}
    order = list(parts)
    found: dict[tuple[str, ...], Leak] = {}
    for *pair, similarity in matches:
        if all(id_ in part_of for id_ in pair) and part_of[pair[0]] != part_of[pair[1]]:
            a, b = sorted(pair, key=lambda id_: order.index(part_of[id_]))
            exact = digest_of[a] == digest_of[b]
            leak = Leak("exact" if exact else "near", a, part_of[a], b, part_of[b], 1.0 if exact else similarity)
            found.setdefault((a, b), leak)
    return list(found.values())


def shared_groups(parts: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> Iterator[Leak]:
    """One leak for a group and two parts it has images in, with the first image of each."""
    first = {part: {groups[id_]: id_ for id_ in reversed(members) if id_ in groups} for part, members in parts.items()}
    for a, b in combinations(first, 2):
        for group in sorted(first[a].keys() & first[b].keys()):
            yield Leak("group", first[a][group], a, first[b][group], b)


def cached_image_leaks(
    store: PixelStore, split: Split, picture: Callable[[str], npt.NDArray[np.uint8]] | None
) -> list[Leak]:
    """`image_leaks` of the split of a store's images, sought once and remembered beside its pixels."""

    def seek() -> list[Leak]:
        digests = [entry.digest for entry in store.entries.values()]
        return image_leaks(split.parts, list(store.entries), digests, store.thumbs, picture)

    return [Leak(*fields) for fields in store.remembered(f"leaks-{SEARCH}-{split.hash}", seek)]


# ---- what is done about them


def is_published(leak: Leak, split: str) -> bool:
    """Whether the authors of an official split made it so; scores on their test part are compared nevertheless."""
    return split == "official" and (is_test(leak.part_a) or is_test(leak.part_b))


def refuse_leaks(leaks: Sequence[Leak], split: Split) -> None:
    """ValueError that lists the leaks, but for those that the split's authors published."""
    found = [leak for leak in leaks if not is_published(leak, split.name)]
    if found:
        listing = "\n".join(f"  - {leak}" for leak in found[:SHOWN])
        listing += f"\n  ... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(
            f"{split.dataset}, split {split.name!r}: {len(found)} leaks between its parts, which make scores "
            f"better than they are:\n{listing}\nLook at them with python -m src.audit. Keep them on one side (take "
            "one of each pair away, or give data.groups=<csv with a group for every image> of a folder), or train "
            "nevertheless with data.allow_leaks=true."
        )


def leak_note(leaks: Sequence[Leak], split: Split) -> str:
    """What to say of the leaks that training goes on with, at least one."""
    published = all(is_published(leak, split.name) for leak in leaks)
    whose = "by its authors" if published else "data.allow_leaks=true"
    return f"{len(leaks)} leaks between the parts of this split ({whose}), such as {leaks[0]}"
