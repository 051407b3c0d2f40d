"""Decoded, resized pixels on disk, memory-mapped: a dataset is decoded once, not in every epoch.

    <folder>/<dataset>/<kind>-<height>x<width>-<key>/     pixels.bin, index.json, thumbs.npy, and what
                                                          is remembered of them

The key is made of the content of the source files (src.data.digests), of the size, of the kind of view and of how masks
read. So a changed file leads to another directory, a moved or copied dataset to the same one. A directory is written
under another name, synced and renamed: it is whole or absent.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from src.data.digests import Faults, file_digests, file_states
from src.data.duplicates import pixel_digest, thumbnail
from src.data.pairs import Pair
from src.data.stores import stored
from src.data.transforms import view
from src.files import lock, replacing, write_json, write_text
from src.progress import in_threads

# Raised when decoding, a view, thumbnails or the layout of the files change: old directories are then no longer found.
FORMAT = 1
DAY = 86400  # seconds; an unfinished directory that old belongs to a killed process
Load = Callable[[str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a view lies in pixels.bin: the image (height, width, 3), then the mask (height, width), all uint8."""

    offset: int
    height: int
    width: int
    area: float  # of the foreground, as a fraction of the native image
    digest: str  # of the native image's pixels

    @property
    def bytes(self) -> int:
        return self.height * self.width * 4


class PixelStore:
    """The views of one dataset: id -> image (H, W, 3) and mask (H, W), read-only and not in memory until looked at."""

    def __init__(self, path: Path):
        """OSError, ValueError or KeyError: `path` holds no whole store."""
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        self.path = path
        self.entries = {id_: Entry(**entry) for id_, entry in index["entries"].items()}
        self.pixels = np.memmap(path / "pixels.bin", mode="r", dtype=np.uint8)
        # in the order of `entries`; mapped, as only the search for leaks looks at them: 3 kB an image
        self.thumbs: np.ndarray = np.load(path / "thumbs.npy", mmap_mode="r")
        if len(self.pixels) != sum(entry.bytes for entry in self.entries.values()):
            raise ValueError(f"{path}: pixels.bin has {len(self.pixels)} bytes, which is not what index.json tells")

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.path,)  # a pickled memmap would carry all pixels into every worker

    def __getitem__(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        entry = self.entries[sample_id]
        shape, offset = (entry.height, entry.width), entry.offset
        middle, end = offset + entry.height * entry.width * 3, offset + entry.bytes
        return self.pixels[offset:middle].reshape(*shape, 3), self.pixels[middle:end].reshape(shape)

    def remembered(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` returned the first time, as JSON beside the pixels: for what follows from the source files."""
        file = self.path / f"{name}.json"
        with suppress(OSError, ValueError):  # absent, or damaged
            return json.loads(file.read_text(encoding="utf-8"))
        found = find()
        with suppress(OSError):  # a cache that others made may not be ours to write in
            write_json(file, found)
        return found


def open_store(
    folder: Path,
    dataset: str,
    kind: str,
    size: tuple[int, int],
    *,
    pairs: Mapping[str, Pair],
    root: Path,
    reading: Mapping[str, Any],
    load: Load,
) -> PixelStore:
    """The store of all `pairs`, built now if there is none.

    `load` gives an id's native image and mask, `reading` is all that it depends on besides the files. Two processes may
    ask at once: one builds, the other waits.

    Raises:
        Unreadable: files that are absent, pipes or not readable; nothing was decoded then.
        Faults: files that cannot be loaded, all of them.
        ValueError: no room on the disk, or `folder` cannot be written.
    """
    ids = sorted(pairs)
    files = [file for id_ in ids for file in (pairs[id_].image, pairs[id_].mask)]
    try:
        digests = file_digests(files, root, folder / dataset)
        content = [list(row) for row in zip(ids, digests[::2], digests[1::2], strict=True)]
        made_by = [FORMAT, PIL.__version__, cv2.__version__]
        key = hashlib.sha256(json.dumps([made_by, kind, size, dict(reading), content]).encode()).hexdigest()[:16]
        target = folder / dataset / f"{kind}-{size[0]}x{size[1]}-{key}"
        if (store := _opened(target)) is None:
            with lock(target.with_name(f"{target.name}.lock")):
                if (store := _opened(target)) is None:  # else another process built it while we waited
                    before = file_states(files)
                    store = _build(target, kind, size, ids, load, lambda: file_states(files) == before)
        with suppress(OSError):  # a cache that others made
            os.utime(target / "index.json")  # last used now
        return store
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            there = next(place for place in (folder, *folder.parents) if place.exists())
            free = shutil.disk_usage(there).free
            raise ValueError(
                f"{folder}: no room for the decoded images of {dataset} ({free / 1e6:,.0f} MB are free). Make room, "
                "choose another disk with data.cache=..., or decode in every epoch with data.cache=null"
            ) from error
        raise ValueError(  # what is wrong with a source file is a ValueError by now
            f"{folder}: {error.strerror}, so no decoded images can be kept there. Choose another folder with "
            "data.cache=..., or decode in every epoch with data.cache=null"
        ) from error


def _opened(target: Path) -> PixelStore | None:
    try:
        return PixelStore(target)
    except (OSError, ValueError, KeyError, TypeError):  # absent, or damaged: it is built anew
        return None


def _build(
    target: Path,
    kind: str,
    size: tuple[int, int],
    ids: Sequence[str],
    load: Load,
    unchanged: Callable[[], bool],
) -> PixelStore:
    for leftover in target.parent.glob(".*-*x*-*.*"):
        ours = leftover.name.startswith(f".{target.name}.")  # of a killed process: nobody else holds our lock
        if ours or leftover.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(leftover)
    if target.exists():
        shutil.rmtree(target)  # damaged
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.mkdir()
    try:
        needed = len(ids) * size[0] * size[1] * 4
        if kind == "full" and shutil.disk_usage(draft).free < needed:
            raise OSError(errno.ENOSPC, "no room")
        entries: dict[str, Any] = {}
        thumbs: list[np.ndarray] = []
        faults, offset = [], 0
        what = f"decoding {target.parent.name} once ({kind}, {size[0]}x{size[1]})"
        with (draft / "pixels.bin").open("wb") as file:
            for id_, prepared in zip(ids, in_threads(partial(_prepared, load, kind, size), ids, what), strict=True):
                if isinstance(prepared, str):
                    faults.append(prepared)
                    continue
                image, mask, area, digest, thumb = prepared
                thumbs.append(thumb)
                file.write(image.tobytes() + mask.tobytes())
                entries[id_] = asdict(Entry(offset, mask.shape[0], mask.shape[1], area, digest))
                offset += mask.size * 4
            file.flush()
            os.fsync(file.fileno())
        if faults:
            raise Faults(faults)
        if not unchanged():
            raise ValueError(f"{target.parent.name}: source files changed while they were read; start again")
        with replacing(draft / "thumbs.npy") as file:
            np.save(file, np.stack(thumbs))
        write_text(draft / "index.json", json.dumps({"kind": kind, "size": size, "entries": entries}))
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"cached {len(ids)} images ({offset / 1e6:,.0f} MB) in {target}", file=sys.stderr)
    if others := [
        store.bytes for store in stored(target.parent, f"{kind}-{size[0]}x{size[1]}-*") if store.path != target
    ]:
        told = f"other stores of {target.parent.name} at this size take {sum(others) / 1e6:,.0f} MB"
        print(f"{told}: python -m src.data.cache shows and removes them", file=sys.stderr)
    return PixelStore(target)


def _prepared(
    load: Load, kind: str, size: tuple[int, int], sample_id: str
) -> tuple[np.ndarray, np.ndarray, float, str, np.ndarray] | str:
    """The view of one image with area, digest and thumbnail of the native one, or why there is none."""
    try:
        image, mask = load(sample_id)
    except ValueError as error:
        return str(error)
    return *view(image, mask, kind, size), float(mask.mean()), pixel_digest(image), thumbnail(image)


if __name__ == "__main__":
    from src.data.stores import main

    sys.exit(main())
