"""SHA-256 of source files, computed only when their size or times changed.

<folder>/<dataset>/files-<root>.json     each file's digest with the size and times that it had
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from src.data.decode import require_regular
from src.files import write_text
from src.progress import in_threads


class Faults(ValueError):
    """What is wrong with the files, one line each."""

    def __init__(self, faults: Sequence[str]):
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Unreadable(Faults):
    """Files of which not even the bytes can be had."""


def file_digests(files: Sequence[Path], root: Path, folder: Path | None) -> list[str]:
    """SHA-256 of each file under `root`; with a `folder` that remembers them computed only for those whose size or
    times are not as they were. Unreadable: files that are not there or not readable; OSError: of `folder`."""
    if folder is None:
        return _hashed(files, root.name)
    root = root.resolve()
    known_at = folder / f"files-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    names, states = _names(root, files), file_states(files)
    try:
        known = json.loads(known_at.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    changed = [i for i, name in enumerate(names) if known.get(name, [None])[:-1] != states[i]]
    if changed:
        digests = _hashed([files[i] for i in changed], folder.name)
        for i, digest in zip(changed, digests, strict=True):
            known[names[i]] = [*states[i], digest]
        write_text(known_at, json.dumps(known))  # on one line: with an indent json is ten times slower
    return [known[name][-1] for name in names]


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    """Of each file the one name that it has, however the root is written: its true path, from `root` on."""
    names, folders = [], {}  # a folder is resolved once: for every file that takes a system call for each level
    for path in map(os.fspath, files):
        place, name = os.path.split(path)
        if os.path.islink(path):
            names.append(os.path.relpath(os.path.realpath(path), root))
            continue
        if place not in folders:
            folders[place] = os.path.relpath(os.path.realpath(place), root)
        names.append(os.path.join(folders[place], name) if folders[place] != "." else name)
    return names


def file_states(files: Sequence[Path]) -> list[list[int]]:
    """Size, time of modification and of change (tools that copy keep the former) of each file, as it is now."""
    states, faults = [], []
    for file in files:
        try:
            require_regular(file)
            stat = os.stat(file)
            states.append([stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        except OSError as error:
            faults.append(f"{file}: {error.strerror}; restore it")
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise Unreadable(faults)
    return states


def _hashed(files: Sequence[Path], what: str) -> list[str]:
    """SHA-256 of each file. Unreadable."""
    found = list(in_threads(_sha256, files, f"hashing {what}"))
    if faults := [str(one) for one in found if isinstance(one, ValueError)]:
        raise Unreadable(faults)
    return [str(one) for one in found]


def _sha256(file: Path) -> str | ValueError:
    """Or why there is none."""
    try:
        require_regular(file)
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return ValueError(f"{file}: {error.strerror}; make it readable, or move it away")
    except ValueError as error:
        return error
