"""Look for leaks and faults in a dataset before training on it: copies across the split, bad files, odd masks.

python -m src.audit data=kvasir_seg
python -m src.audit data=kvasir_seg against=folder against.root=other_polyps
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import plain, user_errors

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import numpy as np

    from src.data.findings import Finding
    from src.data.source import DataSource
    from src.data.survey import Look

OTHER = "against:"  # before the ids of the other dataset, which may be named like those of this one
SHOWN = 20  # findings printed of each severity; the files have all


@dataclass
class Audit:
    """`looks`: one per pair of files; `part_of`: id -> part of the split; `source` and `other`: where pictures are."""

    source: "DataSource"
    other: "DataSource | None"
    looks: "list[Look]"
    part_of: dict[str, str]
    findings: "list[Finding]"

    @property
    def name(self) -> str:
        return self.source.dataset + (f" against {self.other.dataset}" if self.other else "")

    @property
    def spoils(self) -> bool:
        """Whether anything found would spoil a score."""
        return any(finding.severity != "note" for finding in self.findings)

    def kinds(self) -> dict[str, Counter[str]]:
        """severity -> how often each kind of finding."""
        counts: dict[str, Counter[str]] = {}
        for finding in self.findings:
            counts.setdefault(finding.severity, Counter())[finding.kind] += 1
        return counts

    def parts_table(self) -> list[tuple[str, ...]]:
        """Of every part: images, median size, median, least and greatest lesion area, empty masks."""
        table = []
        for part in [*self.source.parts, ""]:
            looks = [look for look in self.looks if look.height and self.part_of.get(look.id, "") == part]
            areas = [look.area for look in looks if look.area is not None]
            if looks:
                size = f"{median(look.height for look in looks):g} x {median(look.width for look in looks):g}"
                area = (
                    [f"{100 * value:.3g} %" for value in (median(areas), min(areas), max(areas))] if areas else [""] * 3
                )
                table.append((part or "no part", str(len(looks)), size, *area, str(areas.count(0))))
        return table

    def picture(self, id_: str) -> "np.ndarray":
        return _picture(id_, self.source, self.other)

    def rows(self) -> list[dict[str, Any]]:
        return [{"id": look.id, "part": self.part_of.get(look.id, ""), **asdict(look)} for look in self.looks]

    def summary(self) -> dict[str, Any]:
        split = self.source.split
        return {
            "dataset": self.source.dataset,
            "root": str(self.source.root),
            "split": split.name,
            "split_hash": split.sha256,
            "against": str(self.other.root) if self.other else None,
            "images": len(self.looks),
            "counts": dict(Counter(finding.severity for finding in self.findings)),
            "findings": [finding._asdict() for finding in self.findings],
        }


def examine(source: "DataSource", other: "DataSource | None" = None) -> Audit:
    """Reads everything once. ValueError: nothing to read, or no such split."""
    from src.data.duplicates import copies, near_duplicates
    from src.data.findings import (
        FAULT,
        NOTE,
        SEVERITIES,
        Finding,
        against_findings,
        leak_findings,
        look_findings,
        match_findings,
    )
    from src.data.leaks import shared_groups
    from src.data.survey import survey

    def picture(id_: str) -> "np.ndarray":
        return _picture(id_, source, other)

    findings = [Finding(FAULT, "unpaired files", fault) for fault in _pairing_faults(source)]
    findings += [Finding(NOTE, "split", note) for note in source.notes(test=True)]
    groups, unknown = _groups(source)
    findings += [Finding(FAULT, "groups unknown", text) for text in unknown]
    findings += leak_findings(list(shared_groups(source.parts, groups)), source.split.name)

    part_of = {id_: part for part, ids in source.parts.items() for id_ in ids}
    here = survey(source)
    findings += look_findings(here.looks, part_of)
    matches = copies(here.digest_of) + near_duplicates(here.thumbs, list(here.digest_of), picture=picture)
    findings += match_findings(matches, source.parts, here.digest_of, source.split.name)
    if other is not None:
        findings += [Finding(FAULT, "unpaired files", OTHER + fault) for fault in _pairing_faults(other)]
        there = survey(other, prefix=OTHER)
        name = OTHER + other.dataset
        seen = look_findings(there.looks, {look.id: name for look in there.looks})
        findings += [finding for finding in seen if finding.severity == FAULT]
        others = there.thumbs, list(there.digest_of)
        matches = copies(here.digest_of, there.digest_of)
        matches += near_duplicates(here.thumbs, list(here.digest_of), others, picture=picture)
        findings += against_findings(matches, part_of, here.digest_of | there.digest_of, name)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Audit(source, other, here.looks, part_of, findings)


def _pairing_faults(source: "DataSource") -> list[str]:
    """What has no partner; `source.pairs` then holds what has. ValueError: nothing has."""
    from src.data.pairs import PairingError

    try:
        _ = source.pairs
    except NotImplementedError:
        raise ValueError(
            f"{source.dataset}: these images are made in memory, and there are no files to audit"
        ) from None
    except PairingError as error:
        if not error.pairs:
            raise
        source.pairs = error.pairs
        return error.faults
    return []


def _groups(source: "DataSource") -> tuple[dict[str, str], list[str]]:
    """id -> patient or other group where the dataset tells, and why it does not where it should."""
    try:
        return source.groups(), []
    except ValueError as error:
        return {}, [str(error)]


def _picture(id_: str, source: "DataSource", other: "DataSource | None") -> "np.ndarray":
    from src.data.decode import read_image

    if other is not None and id_.startswith(OTHER):
        return read_image(other.pairs[id_.removeprefix(OTHER)].image)
    return read_image(source.pairs[id_].image)


def write_audit(audit: Audit, folder: Path) -> None:
    """audit.json, audit.csv (a row per image) and audit.html."""
    from src.audit_page import page
    from src.files import write_csv, write_json, write_text

    write_json(folder / "audit.json", audit.summary())
    write_csv(folder / "audit.csv", audit.rows())
    write_text(folder / "audit.html", page(audit))


def print_audit(audit: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=max(110, Console().width))
    table = Table(title=f"{audit.name}, split {audit.source.split.name}", title_justify="left")
    for column in ("part", "images", "height x width (median)", "lesion area (median)", "smallest", "largest", "empty"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in audit.parts_table():
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)
    for severity, kinds in audit.kinds().items():
        console.print(f"{severity}s: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    for severity in ("leak", "fault"):
        found = [finding for finding in audit.findings if finding.severity == severity]
        for finding in found[:SHOWN]:
            who = " and ".join(f"{id_} ({part or 'no part'})" for id_, part in finding.images)
            console.print(f"{severity}: {who} {finding.text}".replace("  ", " "), markup=False, highlight=False)
        if len(found) > SHOWN:
            console.print(f"... and {len(found) - SHOWN} more {severity}s in audit.json")


def _run(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    if not cfg.get("data"):
        raise ConfigError("which dataset? For example python -m src.audit data=kvasir_seg")
    with user_errors():
        source = instantiate(plain(cfg.data))
        other = instantiate(plain(cfg.against)) if cfg.get("against") else None
        audit = examine(source, other)
    folder = Path(cfg.out or Path("audits") / source.dataset)
    write_audit(audit, folder)
    print_audit(audit)
    print(f"pictures, rows and findings: {folder / 'audit.html'}")
    if audit.spoils:
        raise SystemExit(1)


main = entry_point("audit", _run)

if __name__ == "__main__":
    main()
