"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines where stderr is no terminal


def progress(total: int | None, what: str, *, unit: str = "images", bytes_: bool = False) -> tqdm:
    """A tqdm bar on stderr, to be used as a context and moved on with `update(n)`; `bytes_` counts in kB, MB, GB."""
    scaling: dict[str, Any] = (
        {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if bytes_ else {"unit": f" {unit}"}
    )
    if sys.stderr.isatty():
        return tqdm(total=total, desc=what, file=sys.stderr, dynamic_ncols=True, **scaling)
    return tqdm(total=total, desc=what, file=_Lines(sys.stderr), ncols=100, mininterval=LOG_SECONDS, **scaling)


class _Lines:
    """tqdm redraws one line by carriage returns; a log gets lines instead."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        shown = text.strip("\r\n")
        return self.stream.write(f"{shown.rstrip()}\n") if shown.strip() else 0

    def flush(self) -> None:
        self.stream.flush()
