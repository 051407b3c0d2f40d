"""What an audit prints: a table of the parts, then leaks and faults, what the authors published, and notes."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.data.findings import FAULT, LEAK, NOTE, PUBLISHED, PUBLISHED_SO, tally, told

if TYPE_CHECKING:
    from src.audit import Audit
    from src.data.findings import Finding

SHOWN, FEW = 20, 3  # leaks and faults printed of each severity, and images of a note; the files have all


def print_audit(audit: "Audit") -> None:
    console = Console(width=max(110, Console().width))
    table = Table(title=escape(f"{audit.title}, split {audit.source.split.name}"), title_justify="left")
    for column in ("part", "images", "height x width (median)", "lesion area (median)", "smallest", "largest", "empty"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in audit.parts_table():
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)
    lines = [audit.comparison] if audit.other else []
    lines += [tally(audit.of(severity)) for severity in (LEAK, FAULT) if audit.of(severity)]
    for severity in (LEAK, FAULT):
        lines += _lines(audit.of(severity))
    for line in [*lines, *_published_lines(audit), *_note_lines(audit)]:
        console.print(line, markup=False, highlight=False)


def _lines(found: list["Finding"]) -> list[str]:
    """Of one severity: a line each, the first SHOWN."""
    lines = []
    for finding in found[:SHOWN]:
        who = " and ".join(f"{id_} ({part or 'no part'})" for id_, part in finding.images)
        lines.append(": ".join(text for text in (finding.severity, who, finding.text) if text))
    if len(found) > SHOWN:
        lines.append(f"... and {len(found) - SHOWN} more {found[0].severity}s in audit.json")
    return lines


def _published_lines(audit: "Audit") -> list[str]:
    found = audit.of(PUBLISHED)
    return [f"{tally(found)}; {PUBLISHED_SO}", *(f"  {text}" for text in told(found, SHOWN))] if found else []


def _note_lines(audit: "Audit") -> list[str]:
    return [f"note: {text}" for text in told(audit.of(NOTE), FEW)]
