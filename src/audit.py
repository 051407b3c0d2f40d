"""Look for leaks and faults in a dataset before training on it: copies across the split, bad files, odd masks.

python -m src.audit data=kvasir_seg
python -m src.audit data=kvasir_seg against=folder against.root=other_polyps
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import plain, user_errors
from src.trusted import check_targets

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import numpy as np

    from src.data.findings import Finding
    from src.data.source import DataSource
    from src.data.survey import Look, Survey

OTHER = "against:"  # before the ids of the other dataset, which may be named like those of this one


@dataclass
class Other:
    """A second dataset: `compared` images of it with `to` of the first, and `pairs` of them were found in both."""

    source: "DataSource"
    name: str
    compared: int
    to: int
    pairs: int


@dataclass
class Audit:
    """`looks`: one per pair of files; `part_of`: id -> part of the split; `source` and `other`: where pictures are."""

    source: "DataSource"
    name: str
    looks: "list[Look]"
    part_of: dict[str, str]
    findings: "list[Finding]"
    other: Other | None = None

    @property
    def title(self) -> str:
        return self.name + (f" against {self.other.name}" if self.other else "")

    @property
    def folder(self) -> Path:
        """Where it goes by default: other splits and other datasets have another."""
        names = [_called(self.name, self.source), self.source.split.name]
        names += ["against", _called(self.other.name, self.other.source)] if self.other else []
        return Path("audits") / "-".join(names).replace("/", "_")

    @property
    def comparison(self) -> str:
        from src.data.findings import counted

        if not self.other:
            return ""
        theirs = f"{counted(self.other.compared, 'image')} of {self.other.name} ({self.other.source.root})"
        pairs = counted(self.other.pairs, "pair")
        return f"{theirs} compared with {self.other.to} of {self.name}: {pairs} in common"

    @property
    def spoils(self) -> bool:
        """Whether anything found would spoil a score that its owner can mend."""
        from src.data.findings import SPOILING

        return any(finding.severity in SPOILING for finding in self.findings)

    def of(self, severity: str) -> "list[Finding]":
        return [finding for finding in self.findings if finding.severity == severity]

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
                size = f"{median(look.height for look in looks):.0f} x {median(look.width for look in looks):.0f}"
                area = (
                    [f"{100 * value:.3g} %" for value in (median(areas), min(areas), max(areas))] if areas else [""] * 3
                )
                table.append((part or "no part", str(len(looks)), size, *area, str(areas.count(0))))
        return table

    def picture(self, id_: str) -> "np.ndarray":
        return _picture_of(self.source, self.other.source if self.other else None)(id_)

    def rows(self) -> list[dict[str, Any]]:
        return [{"id": look.id, "part": self.part_of.get(look.id, ""), **asdict(look)} for look in self.looks]

    def summary(self) -> dict[str, Any]:
        split, other = self.source.split, self.other
        return {
            "name": self.name,
            "dataset": self.source.dataset,
            "root": str(self.source.root),
            "split": split.name,
            "split_hash": split.sha256,
            "against": {
                "name": other.name,
                "root": str(other.source.root),
                "images": other.compared,
                "compared_with": other.to,
                "pairs_in_common": other.pairs,
            }
            if other
            else None,
            "images": len(self.looks),
            "counts": dict(Counter(finding.severity for finding in self.findings)),
            "findings": [finding._asdict() for finding in self.findings],
        }


def _called(name: str, source: "DataSource") -> str:
    """data=folder may be any folder, and is called by that too."""
    return f"{name}-{source.root.resolve().name}" if name == "folder" else name


def examine(source: "DataSource", other: "DataSource | None" = None, name: str = "", other_name: str = "") -> Audit:
    """Reads everything once; the names are what the datasets are called. ValueError: nothing to read, no such split."""
    from src.data.duplicates import NOT_ALL, compares_all, copies, near_duplicates
    from src.data.findings import (
        FAULT,
        NOTE,
        SEVERITIES,
        UNPAIRED,
        Finding,
        leak_findings,
        look_findings,
        match_findings,
        singular,
    )
    from src.data.leaks import shared_groups
    from src.data.survey import survey

    findings = [Finding(FAULT, UNPAIRED, fault) for fault in _pairing_faults(source)]
    findings += [Finding(NOTE, "split", singular(note)) for note in source.notes(test=True)]
    groups, unknown = _groups(source)
    findings += [Finding(FAULT, "groups unknown", text) for text in unknown]
    findings += leak_findings(list(shared_groups(source.parts, groups)), source.split.name, source.dataset)

    part_of = {id_: part for part, ids in source.parts.items() for id_ in ids}
    here = survey(source)
    findings += look_findings(here.looks, part_of, source.foreground)
    matches = copies(here.digest_of)
    matches += near_duplicates(here.thumbs, list(here.digest_of), picture=_picture_of(source, other))
    if not compares_all(len(here.thumbs), len(here.thumbs)):
        findings.append(Finding(NOTE, "search", NOT_ALL))
    findings += match_findings(matches, source.parts, here.digest_of, source.split.name, source.dataset)
    audit = Audit(source, name or source.dataset, here.looks, part_of, findings)
    if other is not None:
        _compare(audit, here, other, other_name or other.dataset)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return audit


def _compare(audit: Audit, here: "Survey", other: "DataSource", name: str) -> None:
    """Adds what spoils a score of training on one dataset and testing on the other."""
    from src.data.duplicates import NOT_ALL, compares_all, copies, near_duplicates
    from src.data.findings import FAULT, NOTE, UNPAIRED, Finding, against_findings, look_findings
    from src.data.survey import survey

    where = OTHER + name
    audit.findings += [Finding(FAULT, UNPAIRED, f"{fault} (in {where})") for fault in _pairing_faults(other)]
    there = survey(other, prefix=OTHER)
    seen = look_findings(there.looks, {look.id: where for look in there.looks}, other.foreground)
    audit.findings += [finding for finding in seen if finding.severity == FAULT]
    others = there.thumbs, list(there.digest_of)
    matches = copies(here.digest_of, there.digest_of)
    matches += near_duplicates(here.thumbs, list(here.digest_of), others, picture=_picture_of(audit.source, other))
    if not compares_all(len(here.thumbs), len(there.thumbs)):
        audit.findings.append(Finding(NOTE, "search", f"{where}: {NOT_ALL}"))
    common = against_findings(matches, audit.part_of, here.digest_of | there.digest_of, where)
    audit.findings += common
    audit.other = Other(other, name, len(there.digest_of), len(here.digest_of), len(common))


def _pairing_faults(source: "DataSource") -> list[str]:
    """What has no partner; `source.pairs` then holds what has. ValueError: nothing has."""
    from src.data.findings import singular
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
        return [singular(fault) for fault in error.faults]
    return []


def _groups(source: "DataSource") -> tuple[dict[str, str], list[str]]:
    """id -> patient or other group where the dataset tells, and why it does not where it should."""
    try:
        return source.groups(), []
    except ValueError as error:
        return {}, [str(error)]


def _picture_of(source: "DataSource", other: "DataSource | None") -> "Callable[[str], np.ndarray]":
    """id -> native image, of either dataset."""

    def picture(id_: str) -> "np.ndarray":
        if other is not None and id_.startswith(OTHER):
            return other.load_image(id_.removeprefix(OTHER))
        return source.load_image(id_)

    return picture


def write_audit(audit: Audit, folder: Path) -> None:
    """audit.json, audit.csv (a row per image) and audit.html."""
    from src.audit_page import page
    from src.files import write_csv, write_json, write_text

    write_json(folder / "audit.json", audit.summary())
    write_csv(folder / "audit.csv", audit.rows())
    write_text(folder / "audit.html", page(audit))


def _run(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from src.audit_print import print_audit

    if not cfg.get("data"):
        raise ConfigError("which dataset? For example python -m src.audit data=kvasir_seg")
    choices = HydraConfig.get().runtime.choices
    with user_errors():
        check_targets(plain(cfg))
        source = instantiate(plain(cfg.data))
        other = instantiate(plain(cfg.against)) if cfg.get("against") else None
        audit = examine(source, other, name=str(choices["data"]), other_name=str(choices["against"]))
    folder = Path(cfg.out or audit.folder)
    write_audit(audit, folder)
    print_audit(audit)
    print(f"pictures, rows and findings: {folder / 'audit.html'}")
    if audit.spoils:
        raise SystemExit(1)


main = entry_point("audit", _run)

if __name__ == "__main__":
    main()
