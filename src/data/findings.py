"""What an audit says of a dataset: leaks, faults and notes, each with the images it is about."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from src.data.duplicates import Match
from src.data.foreground import kinds_told_apart
from src.data.leaks import KINDS, Leak, across, is_published
from src.data.pairs import listed
from src.data.survey import Look

SEVERITIES = LEAK, FAULT, PUBLISHED, NOTE = "leak", "fault", "published leak", "note"
SPOILING = LEAK, FAULT  # nobody who compares with papers can mend what their authors published
PUBLISHED_SO = "the official split was published so: say it beside every score"
PATIENT, UNPAIRED = "same patient", "unpaired files"
GROUPS = (KINDS["group"], PATIENT)
OF_PATIENTS = ("glas",)  # datasets whose groups are patients
TINY_OBJECT = 20  # px; a smaller component beside a larger one is hardly a lesion
AUTO = "data.mask=auto guesses each file's rule by its values: correct these, or set the rule that holds for all"
IDS = 20  # of masks of a rarer kind that are listed
COUNTED = {  # kind -> what one and many are called; unpaired files count themselves
    KINDS["exact"]: ("1 pair of the same pixels", "{} pairs of the same pixels"),
    KINDS["near"]: ("1 pair of near-duplicates", "{} pairs of near-duplicates"),
    KINDS["group"]: ("1 pair of the same group", "{} pairs of the same group"),
    PATIENT: ("1 pair of the same patient", "{} pairs of the same patient"),
    "unusable file": ("1 unusable file", "{} unusable files"),
    "empty mask": ("1 empty mask", "{} empty masks"),
    "full mask": ("1 full mask", "{} full masks"),
    "specks": ("masks with specks", "masks with specks"),
    "split": ("1 remark on the split", "{} remarks on the split"),
}


class Finding(NamedTuple):
    """`images`: (id, part) of those concerned; `similarity` of near-duplicates."""

    severity: str
    kind: str
    text: str
    images: tuple[tuple[str, str], ...] = ()
    similarity: float | None = None


def tally(findings: Sequence[Finding]) -> str:
    """Of one severity: "3 faults: 1 image without a mask, 2 unusable files"; empty of none."""
    if not findings:
        return ""
    phrases = [finding.text.split(":")[0] for finding in findings if finding.kind == UNPAIRED]
    for kind, count in Counter(finding.kind for finding in findings if finding.kind != UNPAIRED).items():
        one, many = COUNTED.get(kind, (kind, kind))
        phrases.append(one if count == 1 else many.format(count))
    return f"{counted(len(findings), findings[0].severity)}: {', '.join(phrases)}"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def told(findings: Sequence[Finding], shown: int) -> Iterator[str]:
    """Every text once, with the first `shown` of the images it is about."""
    about: dict[str, list[str]] = {}
    for finding in findings:
        names = about.setdefault(finding.text, [])
        if finding.images:
            names.append(" and ".join(id_ for id_, _ in finding.images))
    for text, names in about.items():
        count = f" ({len(names)})" if len(names) > 1 else ""
        yield f"{text}{count}: {listed(names, shown)}" if names else text


def singular(text: str) -> str:
    """The texts of pairing and split write "1 images"."""
    text = re.sub(r"\b1 images on disk are\b", "1 image on disk is", text)
    return re.sub(r"\b1 (image|mask)s (?=without|on)", r"1 \1 ", text)


def leak_findings(found: Sequence[Leak], split: str, dataset: str) -> list[Finding]:
    """What the authors of an official split published is of a severity of its own."""
    findings = []
    for leak in found:
        kind = PATIENT if leak.kind == "group" and dataset in OF_PATIENTS else KINDS[leak.kind]
        severity = PUBLISHED if is_published(leak, split) else LEAK
        shown = leak.similarity if leak.kind == "near" else None
        text, images = (
            f"{kind} in {leak.part_a} and {leak.part_b}",
            ((leak.id_a, leak.part_a), (leak.id_b, leak.part_b)),
        )
        findings.append(Finding(severity, kind, text, images, shown))
    return findings


def match_findings(
    matches: Sequence[Match],
    parts: Mapping[str, Sequence[str]],
    digest_of: Mapping[str, str],
    split: str,
    dataset: str,
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
    return leak_findings(leaking, split, dataset) + notes


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


def look_findings(looks: Sequence[Look], part_of: Mapping[str, str], rule: str | Mapping[Any, int]) -> list[Finding]:
    """Files that cannot be used, and masks that a person should see; `rule` is how masks read."""
    findings = []
    for look in looks:
        image = ((look.id, part_of.get(look.id, "")),)
        if look.fault:
            findings.append(Finding(FAULT, "unusable file", look.fault, image))
        if look.area in (0, 1):
            kind = "full mask" if look.area else "empty mask"
            findings.append(Finding(NOTE, kind, "foreground throughout" if look.area else "no foreground", image))
    return findings + _specks(looks) + _mixed(looks, rule)


def has_speck(look: Look) -> bool:
    return look.objects > 1 and look.smallest_object < TINY_OBJECT


def _specks(looks: Sequence[Look]) -> list[Finding]:
    ids = [look.id for look in looks if has_speck(look)]
    if not ids:
        return []
    holds = "mask holds" if len(ids) == 1 else "masks hold"
    text = f"{len(ids)} {holds} an object of less than {TINY_OBJECT} px beside others, such as {ids[0]}"
    return [Finding(NOTE, "specks", text)]


def _mixed(looks: Sequence[Look], rule: str | Mapping[Any, int]) -> list[Finding]:
    """Masks of several kinds in one dataset often are a conversion that went wrong for some."""
    members: dict[tuple[str, str], list[str]] = {}  # (values, file type) -> ids
    kinds = kinds_told_apart({look.id: look.mask_kind for look in looks if look.mask_kind})
    for look in looks:
        if look.id in kinds:
            members.setdefault((kinds[look.id], f"{look.mask_format} {look.mask_mode}"), []).append(look.id)
    if len(members) < 2:
        return []
    (values, files), ids = max(members.items(), key=lambda item: len(item[1]))
    texts = [f"{len(ids)} of {values} ({files})"]
    texts += [f"{len(m)} of {v} ({f}): {listed(m, IDS)}" for (v, f), m in members.items() if m is not ids]
    text = "masks of several kinds: " + "; ".join(texts)
    if rule == "auto" and len({values for values, _ in members}) > 1:
        return [Finding(FAULT, "masks of several kinds", text + f". {AUTO}")]
    return [Finding(NOTE, "masks of several kinds", text)]
