"""Files written whole or not at all, tables in them, and locks."""

import csv
import errno
import fcntl
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DRAFT = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet would compute


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` to write into, synced and renamed at the end: what is at `path` is always whole.

    OSError that names `path`, and tells how much is free, where the disk or a quota is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id alone: containers that share a folder may share that too
    draft = path.with_name(
        f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    )  # names have 255 bytes at most
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: as which torch.save passes it on
        if (full := _full(error)) is None:
            raise
        draft.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            full.errno,
            f"{path} was not written ({full.strerror}, {free:,.1f} MB are free; what stood there still stands). Make "
            "room and give the same command again",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what `replacing` left in `folder` when its process was killed; of processes that live nothing. (Those of
    another machine that writes there, too, count as dead.)"""
    for draft in folder.glob(".*.tmp"):
        named = DRAFT.fullmatch(draft.name)
        if named is None or not draft.is_file():  # another's
            continue
        try:
            os.kill(int(named[1]), 0)  # asks only whether there is one
        except (ProcessLookupError, OverflowError):
            draft.unlink(missing_ok=True)
        except PermissionError:
            pass  # a process of another user


def _full(error: BaseException | None) -> OSError | None:
    """The error of a full disk among this one and those that it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        error = error.__cause__ or error.__context__
    return None


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one shape; floats as Python prints them, so that reading them back gives the same numbers.

    A text that a spreadsheet would take for a formula gets a quote before it, which `read_csv` takes away.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def plain_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(FORMULAS) else text


def _plain(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("'", *FORMULAS)):
        return value
    try:
        float(value)  # a number that was read as text
        return value
    except ValueError:
        return f"'{value}"


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(("'", *FORMULAS)) else text


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows by the names in the first. ValueError names a file that is no such table, or has lost a part of a row."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged: restore it, or have it made anew") from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # more cells than names, or fewer
            raise ValueError(f"{path}: row {number} has not the cells of the first; restore it, or have it made anew")
    return [{name: _as_it_was(text) for name, text in row.items()} for row in rows]


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `path` now; nothing is created."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def lock(path: Path, *, wait: bool = True) -> IO[str]:
    """Locks `path` for this process until the returned file is closed; the kernel lets go of a killed process's locks.

    Not inherited by forked children: a DataLoader worker outlives its killed parent by seconds. BlockingIOError if
    another holds it and `wait` is false.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            file.close()
            raise
        # its folder may have been renamed while this waited: then it is the lock of another path
        if path.is_file() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            os.register_at_fork(after_in_child=file.close)
            return file
        file.close()
