"""The stores in the cache folder: how large, when last used, and their removal (`python -m src.data.cache`)."""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from src.files import lock


class Stored(NamedTuple):
    """`used`: when a run last opened it, in seconds since the epoch."""

    path: Path
    bytes: int
    used: float


def stored(folder: Path, pattern: str) -> list[Stored]:
    """Whole stores, those unused for longest first; what is being built or removed has a dot before its name."""
    found = []
    for index in folder.glob(f"{pattern}/index.json"):
        with suppress(FileNotFoundError):  # another process may be removing it
            if not index.parent.name.startswith("."):
                size = sum(file.stat().st_size for file in index.parent.iterdir())
                found.append(Stored(index.parent, size, index.stat().st_mtime))
    return sorted(found, key=lambda store: (store.used, store.path))


def remove(store: Path) -> None:
    """A run keeps the pixels that it has open, but its loader workers that start later find none."""
    with lock(store.with_name(f"{store.name}.lock")):
        going = store.with_name(f".{store.name}.removed")
        os.rename(store, going)  # whole or absent; what a kill leaves of it, the next build takes away
        shutil.rmtree(going)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.cache", description="Shows decoded pixels, or removes them."
    )
    place = os.environ.get("EMISNET_CACHE", "~/.cache/emisnet")
    parser.add_argument("--cache", default=place, help="the folder, as in data.cache=... (default: %(default)s)")
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="names as shown")
    chosen = parser.parse_args(arguments)
    folder = Path(chosen.cache).expanduser()
    stores = {f"{store.path.parent.name}/{store.path.name}": store for store in stored(folder, "*/*-*x*-*")}
    if unknown := set(chosen.remove) - stores.keys():
        parser.error(f"{folder} holds no {', '.join(sorted(unknown))}")
    for name, store in stores.items():
        if name in chosen.remove:
            remove(store.path)
        what = "removed" if name in chosen.remove else f"used {time.strftime('%Y-%m-%d', time.localtime(store.used))}"
        print(f"{store.bytes / 1e6:9,.1f} MB  {what:15}  {name}")
    return 0
