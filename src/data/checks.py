"""What is wrong with the files of a dataset as a whole, beyond what reading each of them tells."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from src.data.decode import mask_kind
from src.data.foreground import kinds_told_apart
from src.data.pairs import Pair, listed
from src.progress import in_threads


def mixed_masks(pairs: Mapping[str, Pair]) -> list[str]:
    """`mixed_kinds` of masks that are all decoded for it."""
    return mixed_kinds(mask_kinds(pairs))


def mask_kinds(pairs: Mapping[str, Pair]) -> dict[str, str]:
    """id -> `src.data.decode.mask_kind`; decodes every mask. Unreadable ones are named elsewhere, and left out."""

    def kind(pair: Pair) -> str | None:
        with suppress(ValueError):
            return mask_kind(pair.mask)
        return None

    kinds = zip(pairs, in_threads(kind, list(pairs.values()), "looking at masks"), strict=True)
    return {id_: found for id_, found in kinds if found}


def mixed_kinds(kinds: Mapping[str, str]) -> list[str]:
    """What is wrong if masks (id -> kind) are of several kinds, which the rule "auto" would read by several rules."""
    ids_of: dict[str, list[str]] = {}
    for id_, kind in kinds_told_apart(kinds).items():
        ids_of.setdefault(kind, []).append(id_)
    if len(ids_of) < 2:
        return []
    most = max(ids_of, key=lambda kind: len(ids_of[kind]))
    others = "; ".join(f"{kind}: {listed(ids)}" for kind, ids in ids_of.items() if kind != most)
    return [
        f"data.mask=auto meets masks of several kinds: {len(ids_of[most])} of kind {most!r}, but {others}. Save "
        "them alike, or say how all are to be read: data.mask=binary, threshold, instances, or {value: 0 or 1, ...}"
    ]


def differ(pair: Pair, image: Sequence[int], mask: Sequence[int]) -> str:
    return (
        f"{pair.id}: the image is {image[0]}x{image[1]}, its mask {mask[0]}x{mask[1]} ({pair.image}, {pair.mask}). "
        "Give both the same size."
    )
