"""What growth.py and feed.py share: the machine that they ran on, and a table that goes on where it stopped."""

import csv
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.files import read_csv, write_text
from src.progress import available_cores
from src.provenance import processor

IDLE = 0.3  # load per core, before anything is measured, up to which times mean something


def conditions() -> str:
    """Processor, cores and load now, with a warning where others use the machine."""
    load, cores = os.getloadavg()[0], available_cores()
    told = f"{processor()}, load {load:.2f} at {time.strftime('%Y-%m-%d %H:%M')}"
    return told + ("\nWARNING: others use this machine, and these times mean little." if load > IDLE * cores else "")


class Table:
    """Rows of measurements in a CSV file, by what was measured; each is written as soon as it is known."""

    def __init__(self, path: Path, *, afresh: bool):
        self.path = path
        rows = read_csv(path) if path.is_file() and not afresh else []
        self.rows: dict[str, dict[str, Any]] = {
            row["what"]: {key: value for key, value in row.items() if value} for row in rows
        }

    def add(self, what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of `what`, measured unless it is there."""
        if what not in self.rows:
            load = round(os.getloadavg()[0], 2)
            self.rows[what] = {"what": what, **measure(), "load before": load, "processor": processor()}
            self._write()
        return self.rows[what]

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines: list[str] = []

        class Lines:
            def write(self, text: str) -> None:
                lines.append(text)

        writer = csv.DictWriter(Lines(), names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_text(self.path, "".join(lines))

    def show(self, names: Sequence[str], title: str) -> None:
        """Prints the rows that have all of `names`, as Markdown."""
        rows = [row for row in self.rows.values() if all(name in row for name in names)]
        columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "processor"]
        print(f"\n**{title}**\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(str(row.get(name, '')) for name in columns)} |")
