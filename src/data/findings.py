"""What an audit says of a dataset: leaks, faults and notes, each with the images it is about."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from src.data.duplicates import Match
from src.data.leaks import KINDS, Leak, across
from src.data.survey import LABELS, Look

SEVERITIES = LEAK, FAULT, NOTE = "leak", "fault", "note"
TINY_OBJECT = 20  # px; a smaller component beside a larger one is hardly a lesion


class Finding(NamedTuple):
    """`images`: (id, part) of those concerned; `similarity` of near-duplicates."""

    severity: str
    kind: str
    text: str
    images: tuple[tuple[str, str], ...] = ()
    similarity: float | None = None


def leak_findings(found: Sequence[Leak], split: str) -> list[Finding]:
    """Of an official split a leak into a test part is the authors', which the text says: it stays a leak."""
    findings = []
    for kind, a, part_a, b, part_b, similarity in found:
        text = f"{KINDS[kind]} in {part_a} and {part_b}"
        if split == "official" and (part_a.startswith("test") or part_b.startswith("test")):
            text += "; the official split was published so: say it beside every score"
        shown = similarity if kind == "near" else None
        findings.append(Finding(LEAK, KINDS[kind], text, ((a, part_a), (b, part_b)), shown))
    return findings


def match_findings(
    matches: Sequence[Match], parts: Mapping[str, Sequence[str]], digest_of: Mapping[str, str], split: str
) -> list[Finding]:
    """Leaks where the two images are in different parts, notes where they are not."""
    leaking = across(parts, matches, digest_of)
    seen = {frozenset((leak.id_a, leak.id_b)) for leak in leaking}
    part_of = {id_: part for part, members in parts.items() for id_ in members}
    notes = []
    for a, b, similarity in matches:
        if frozenset((a, b)) not in seen:
            seen.add(frozenset((a, b)))
            kind = KINDS["exact" if digest_of[a] == digest_of[b] else "near"]
            where = f"inside {part_of[a]}" if a in part_of and b in part_of else "one of them in no part of the split"
            places = ((a, part_of.get(a, "")), (b, part_of.get(b, "")))
            notes.append(Finding(NOTE, kind, f"{kind}, {where}", places, similarity))
    return leak_findings(leaking, split) + notes


def against_findings(
    matches: Sequence[Match], part_of: Mapping[str, str], digest_of: Mapping[str, str], name: str
) -> list[Finding]:
    """Every match with the other dataset, called `name`, is a leak to whoever trains on one and scores on the other."""
    found: dict[tuple[str, str], Finding] = {}
    for a, b, similarity in matches:
        kind = KINDS["exact" if digest_of[a] == digest_of[b] else "near"]
        places = ((a, part_of.get(a, "")), (b, name))
        found.setdefault((a, b), Finding(LEAK, kind, f"{kind} in both datasets", places, similarity))
    return list(found.values())


def look_findings(looks: Sequence[Look], part_of: Mapping[str, str]) -> list[Finding]:
    """Files that cannot be used, and masks that a person should see."""
    findings = []
    for look in looks:
        image = ((look.id, part_of.get(look.id, "")),)
        if look.fault:
            findings.append(Finding(FAULT, "unusable file", look.fault, image))
        if look.area in (0, 1):
            kind = "full mask" if look.area else "empty mask"
            findings.append(Finding(NOTE, kind, "foreground throughout" if look.area else "no foreground", image))
    return findings + _specks(looks) + _mixed(looks)


def has_speck(look: Look) -> bool:
    return look.objects > 1 and look.smallest_object < TINY_OBJECT


def _specks(looks: Sequence[Look]) -> list[Finding]:
    ids = [look.id for look in looks if has_speck(look)]
    text = (
        f"{len(ids)} masks hold an object of less than {TINY_OBJECT} px beside others, such as {ids[0]}" if ids else ""
    )
    return [Finding(NOTE, "specks", text)] if ids else []


def _mixed(looks: Sequence[Look]) -> list[Finding]:
    """Masks of several kinds in one dataset often are a conversion that went wrong for some."""
    some_labels = any(look.mask_kind == LABELS for look in looks)
    count: dict[str, list[str]] = {}
    for look in looks:
        if look.mask_kind:
            kind = LABELS if look.mask_kind == "0 and 1" and some_labels else look.mask_kind  # a map of one label
            count.setdefault(f"{kind} ({look.mask_format} {look.mask_mode})", []).append(look.id)
    if len(count) < 2:
        return []
    text = "; ".join(f"{len(ids)} {kind}, such as {ids[0]}" for kind, ids in count.items())
    return [Finding(NOTE, "masks of several kinds", text)]
