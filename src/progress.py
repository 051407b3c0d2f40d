"""Long work: on all cores, with a bar on a terminal and a line now and then in a log file."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines where stderr is no terminal
QUICK = 1.0  # work done within this time shows nothing
MOST_THREADS = 16  # each may hold an image of 20 Mpx, 0.3 GB with what is made of it

T = TypeVar("T")
R = TypeVar("R")


def progress(total: int | None, what: str, *, unit: str = " images") -> tqdm:
    """A tqdm bar on stderr, to be used as a context and moved on with `update(n)`; unit "B" counts in kB, MB, GB."""
    how: dict[str, Any] = {"total": total, "desc": what, "unit": unit, "unit_scale": unit == "B"}
    how |= {"delay": QUICK, "disable": total == 0}
    if sys.stderr.isatty():
        return tqdm(file=sys.stderr, dynamic_ncols=True, **how)
    return tqdm(file=_Lines(sys.stderr), ncols=100, mininterval=LOG_SECONDS, **how)


def in_threads(function: Callable[[T], R], items: Iterable[T], what: str, *, total: int | None = None) -> Iterator[R]:
    """`function` of each item, in order, on all cores: for work that lets go of Python's lock (decoding, hashing).

    `total` is the number of items, where they have no length.
    """
    cores = min(MOST_THREADS, available_cores())
    left = iter(items)
    ahead: deque[Future[R]] = deque()  # a few of them: all results at once might not fit into memory
    with ThreadPoolExecutor(cores) as pool, progress(len(items) if isinstance(items, Sized) else total, what) as bar:
        try:
            ahead.extend(pool.submit(function, item) for item in islice(left, 2 * cores))
            while ahead:
                yield ahead.popleft().result()
                bar.update()
                ahead.extend(pool.submit(function, item) for item in islice(left, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Lines:
    """tqdm redraws one line by carriage returns; a log gets lines instead."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        shown = text.strip("\r\n")
        return self.stream.write(f"{shown.rstrip()}\n") if shown.strip() else 0

    def flush(self) -> None:
        self.stream.flush()
