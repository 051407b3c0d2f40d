"""Zip files unpacked whole or not at all: the only place of the project that unpacks, and strict about what it takes.

An official archive holds plain files in plain folders. What else a zip may hold (links, paths that lead elsewhere, two
names for one file, a bomb) is refused instead of repaired: zipfile would rename or overwrite in silence.
"""

import errno
import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from src.progress import progress

MAX_BYTES = 40 * 10**9  # ISIC 2018's training images, the largest official archive, are about 10.4 GB
MAX_RATIO = 20.0  # of the whole archive: JPEG and PNG do not shrink (about 1), GlaS's bitmaps do by half; a bomb 1000
MAX_FILES = 20_000  # the same ISIC archive holds about 5200
MAX_NAME = 255  # bytes of a path inside the archive: what one file name may have
DRAFT = ".unpacking"  # in the target folder, so that the last step is a rename
CHUNK = 1 << 20
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # plain, strong, and of the directory
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, NotImplementedError)


def extract(
    archive: Path,
    into: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_ratio: float = MAX_RATIO,
    max_files: int = MAX_FILES,
) -> None:
    """Unpacks a zip into the folder `into`, where its top-level entries appear only after all is read and checked.

    `max_ratio` is unpacked by packed bytes of the whole archive. macOS's `__MACOSX/` and `.DS_Store` are passed over.
    One extraction into a folder at a time: what a killed one left there is swept by the next.

    Raises:
        ValueError: a member that is refused, a cap exceeded, damage, or an entry that is already there; names the
            archive and the member, and leaves nothing behind.
        OSError: no such archive, or no room on the disk.
    """
    draft = into / DRAFT
    if draft.exists():
        shutil.rmtree(draft)
    with _damage_named(str(archive)), zipfile.ZipFile(archive) as opened:
        _require_whole_directory(archive, opened)
        members = _accepted(archive, opened.infolist(), max_files)
        size = sum(member.file_size for member in members)
        limit = min(max_bytes, int(max_ratio * archive.stat().st_size))
        if size > limit:
            raise ValueError(
                f"{archive}: would unpack to {readable(size)}, at most {readable(limit)} are accepted ("
                f"{readable(max_bytes)}, or {max_ratio:g} times the archive); get it again from its official source"
            )
        into.mkdir(parents=True, exist_ok=True)
        _require_absent(archive, into, members)
        require_space(into, size, f"unpacking {archive.name}")
        draft.mkdir()
        try:
            with progress(size, f"unpacking {archive.name}", unit="B") as bar:
                for member in members:
                    _write(archive, opened, member, draft, bar.update)
            for entry in sorted(draft.iterdir()):
                entry.rename(into / entry.name)
        finally:
            shutil.rmtree(draft)


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """OSError (ENOSPC) unless `needed` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{purpose} needs {readable(needed)} in {folder}, and {readable(free)} are free there; make room or set "
            "data.root=... to another disk",
        )


def readable(size: float) -> str:
    """Bytes as 46 MB or 10.4 GB; decimal units, as download pages give them."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"


# ---- what is accepted


def _require_whole_directory(archive: Path, opened: zipfile.ZipFile) -> None:
    """BadZipFile where zipfile would lose a member in silence, or seek to before the start of the archive."""
    with archive.open("rb") as file:
        file.seek(-22 - len(opened.comment), os.SEEK_END)
        signature, count = struct.unpack("<4s6xH10x", file.read(22))
    if signature != b"PK\5\6" or count not in (0xFFFF, len(opened.infolist())):  # 0xFFFF: see the zip64 record
        raise zipfile.BadZipFile(f"{len(opened.infolist())} members are listed, not as many as are announced")
    if any(member.header_offset < 0 for member in opened.infolist()):
        raise zipfile.BadZipFile("bytes are missing at its start")


def _accepted(archive: Path, members: Sequence[zipfile.ZipInfo], max_files: int) -> list[zipfile.ZipInfo]:
    """The members to unpack; ValueError for the first that an honest archive would not hold."""
    if len(members) > max_files:
        raise ValueError(
            f"{archive}: holds {len(members)} members, at most {max_files} are accepted; get it again from its "
            "official source"
        )
    kept = [member for member in members if not _is_clutter(member.filename)]
    for member in kept:
        # zipfile cuts a name at NUL: the one before that is looked at as well
        fault = _fault_of_name(member.orig_filename) or _fault_of_name(member.filename) or _fault_of_kind(member)
        if fault:
            _refuse(archive, member.orig_filename, fault)
    _refuse_collisions(archive, kept)
    return kept


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1] == ".DS_Store"


def _fault_of_name(name: str) -> str | None:
    if len(name.encode()) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} bytes"
    if not name.isprintable():
        return "has control characters in its name"
    if "\\" in name or re.match("[A-Za-z]:", name):
        return "has a backslash or a drive letter in its name"
    if not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")):
        return "has an absolute path, or one with empty, '.' or '..' parts"
    return None


def _fault_of_kind(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
    if kind not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
        return "is a link or another special file"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {member.compress_type}, only 0 (stored) and 8 (deflated) are read"
    return None


def _refuse_collisions(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Two names that are one on some file system: equal but for case or Unicode form, or both file and folder."""
    seen: dict[str, tuple[str, bool]] = {}  # folded path -> as spelled, is a folder
    named = set()
    for member in members:
        path = member.filename.removesuffix("/")
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            spelled, is_folder = "/".join(parts[:depth]), depth < len(parts) or member.is_dir()
            other, other_is_folder = seen.setdefault(_folded(spelled), (spelled, is_folder))
            if other != spelled:
                _refuse(archive, member.filename, f"has a name that other file systems do not tell from {other!r}")
            if other_is_folder != is_folder:
                _refuse(archive, member.filename, f"needs {spelled!r} to be both a file and a folder")
        if path in named:
            _refuse(archive, member.filename, "is there twice")
        named.add(path)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _require_absent(archive: Path, into: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    for top in sorted({member.filename.split("/")[0] for member in members}):
        if os.path.lexists(into / top):
            raise ValueError(f"{archive}: {top!r} of it is already there in {into}; move that away to unpack it anew")


def _refuse(archive: Path, member: str, fault: str) -> NoReturn:
    raise ValueError(
        f"{archive}: member {member[:MAX_NAME]!r} {fault}, so nothing of it is unpacked; get it again from its "
        "official source"
    )


# ---- what is read


def _write(
    archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo, draft: Path, count: Callable[[int], object]
) -> None:
    target = draft / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _damage_named(f"{archive}, member {member.filename!r}"), opened.open(member) as source, target.open("xb") as f:
        _copy(source, f, member.file_size, count)


def _copy(source: IO[bytes], target: IO[bytes], size: int, count: Callable[[int], object]) -> None:
    """Exactly `size` bytes, else BadZipFile: the caps hold for what is read, not only for what headers declare."""
    left = size
    while chunk := source.read(min(CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise zipfile.BadZipFile(f"more than the declared {size} bytes")
        target.write(chunk)
        count(len(chunk))
    if left:
        raise zipfile.BadZipFile(f"{left} of the declared {size} bytes are missing")


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{what}: damaged or cut off ({error}); get it again from its official source") from error
