"""The official archives: where they are, how they come onto this disk, and what to tell a user who lacks them.

What we download lies in `<root>/.download/` until it is unpacked, and is deleted then. An archive that the user put
into `<root>` by hand is checked and unpacked too, and never deleted: the place tells whose it is.
"""

import hashlib
import json
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import requests

from src.data.archives import extract, readable, require_space
from src.data.pairs import GLAS_ARCHIVE, ISIC2018_PARTS, KVASIR_SEG_ARCHIVE
from src.files import lock, write_json
from src.progress import progress

DOWNLOADS = ".download"
TIMEOUTS = (10.0, 60.0)  # seconds to connect, and between two pieces of the body
WAITS = (1.0, 5.0, 20.0)  # seconds before each further attempt
CHUNK = 1 << 14  # what a broken connection loses at most
MAX_REDIRECTS = 5


@dataclass(frozen=True)
class Archive:
    """One published zip. `provides` is the top-level folder in it, `split` the only split that needs it."""

    name: str
    url: str
    about_bytes: int  # as published; checks use the server's figure
    checksum: str  # "sha256:..." or "md5:..."
    provides: str
    login: bool = False
    split: str | None = None


class DownloadError(OSError):
    """The archive could not be had: no connection, a refusing server, a body that broke off."""


class _Again(Exception):
    """What may pass: the next attempt goes on with the bytes that are there."""


def _isic2018(stem: str, checksum: str, about_bytes: int) -> Archive:
    url = f"https://isic-challenge-data.s3.amazonaws.com/2018/{stem}.zip"
    split = None if "_Training_" in stem else "official"
    return Archive(f"{stem}.zip", url, about_bytes, f"sha256:{checksum}", stem, split=split)


_TRAINING, _VALIDATION, _TEST = (ISIC2018_PARTS[part] for part in ("train", "val", "test"))
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "kvasir_seg": (
        Archive(
            name="kvasir-seg.zip",
            url="https://datasets.simula.no/downloads/kvasir-seg.zip",
            about_bytes=46_000_000,
            checksum="sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
            provides=KVASIR_SEG_ARCHIVE,
        ),
    ),
    "isic2018": (
        _isic2018(
            f"ISIC2018_Task1-2_{_TRAINING}_Input",
            "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
            10_400_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_TRAINING}_GroundTruth",
            "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
            26_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1-2_{_VALIDATION}_Input",
            "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
            228_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_VALIDATION}_GroundTruth",
            "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
            1_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1-2_{_TEST}_Input",
            "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
            2_200_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_TEST}_GroundTruth",
            "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
            9_000_000,
        ),
    ),
    "glas": (
        Archive(
            name="warwick_qu_dataset_released_2016_07_08.zip",
            url="https://warwick.ac.uk/fac/sci/dcs/research/tia/glascontest/download/"
            "warwick_qu_dataset_released_2016_07_08.zip",
            about_bytes=173_000_000,
            checksum="md5:495b2a9f3d694545fbec06673fb3f40f",
            provides=GLAS_ARCHIVE,
            login=True,
        ),
    ),
}


# ---- a dataset


def how_to_get(dataset: str, root: str | Path, split: str) -> str:
    """What to do about a dataset that is not there; "" if nothing of it is missing or none of it is published."""
    root, absent = _absent(dataset, Path(root), split)
    if not absent:
        return ""
    cost = readable(sum(archive.about_bytes for archive in absent))
    files = "".join(f"\n      {archive.url} (unpacks to {root / archive.provides})" for archive in absent)
    login = "".join(
        f"\n  The site may ask for a login. Then download it in a browser, put it as {root / archive.name}, and "
        "data.download=true checks and unpacks it."
        for archive in absent
        if archive.login
    )
    return (
        f"Two ways to get {dataset}:\n"
        f"  data.download=true fetches it, about {cost}, into {root} and unpacks it there; have twice that free.\n"
        f"  By hand: download into {root} and unpack there{files}{login}"
    )


def ensure(dataset: str, root: str | Path, split: str) -> None:
    """Makes the official archive folders that `split` needs be there: downloads, checks and unpacks what is absent.

    Nothing is done where a plain images/ folder is. One process at a time; others wait, then find it done.

    Raises:
        ValueError: the dataset has no archives; an archive that is not the published one, or not what it should hold.
        OSError: no room on the disk; as DownloadError, no way to get the archive.
    """
    if dataset not in ARCHIVES:
        raise ValueError(
            f"data.download=true: there is nothing to download for data={dataset}. Possible: {', '.join(ARCHIVES)}. "
            "Leave the option out"
        )
    home, absent = _absent(dataset, Path(root), split)
    if not absent and not (home / DOWNLOADS).is_dir():
        return
    with _locked(home / ".download.lock"):
        _sweep(dataset, home)
        _, absent = _absent(dataset, home, split)  # another process may have brought it
        _require_space_for(absent, home)
        for archive in absent:
            file = fetch(archive, home)
            _say(f"unpacking {file} into {home}")
            extract(file, home)
            if not (home / archive.provides).is_dir():
                raise ValueError(f"{file} was unpacked into {home}, but it held no folder {archive.provides!r}")
            _sweep(dataset, home)


def _absent(dataset: str, root: Path, split: str) -> tuple[Path, list[Archive]]:
    """The folder that archives unpack into, and those needed for `split` that are not there."""
    archives = [archive for archive in ARCHIVES.get(dataset, ()) if archive.split in (None, split)]
    if root.name in {archive.provides for archive in archives}:
        root = root.parent  # data.root may name the unpacked folder itself
    if (root / "images").is_dir():
        return root, []
    return root, [archive for archive in archives if not (root / archive.provides).is_dir()]


def _require_space_for(archives: list[Archive], root: Path) -> None:
    """All that is unpacked, about as large as it is packed, and beside it one archive at a time."""
    if archives:
        unpacked = sum(archive.about_bytes for archive in archives)
        packed = max(archive.about_bytes - _bytes_there(archive, root) for archive in archives)
        require_space(root, unpacked + max(0, packed), "downloading and unpacking")


def _bytes_there(archive: Archive, root: Path) -> int:
    ours = root / DOWNLOADS / archive.name
    return max(_size(file) for file in (root / archive.name, ours, _Partial(ours, archive.url).file))


def _sweep(dataset: str, root: Path) -> None:
    """Deletes what we downloaded of archives that are unpacked by now; a killed run left it, or it just served."""
    downloads = root / DOWNLOADS
    for archive in ARCHIVES[dataset]:
        if (root / archive.provides).is_dir():
            (downloads / archive.name).unlink(missing_ok=True)
            _Partial(downloads / archive.name, archive.url).forget()
    with suppress(OSError):  # absent, or it holds what another split needs
        downloads.rmdir()


def _locked(path: Path) -> IO[str]:
    try:
        return lock(path, wait=False)
    except BlockingIOError:
        _say(f"waiting for another process that downloads into {path.parent}")
        return lock(path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- one archive


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive, checked: `folder`/<name> if it was put there, else `folder`/.download/<name>, downloaded if need be.

    A download that broke off is continued, in this call a few times and by the next call.

    Raises:
        ValueError: the file, or what the server sent, is not the published archive; a file of the user's stays.
        DownloadError: no connection, a refusal, or a body cut off in each attempt; what came is kept.
        OSError: no room on the disk.
    """
    by_hand, ours = folder / archive.name, folder / DOWNLOADS / archive.name
    remedy = f"or download {archive.url} in a browser and put it as {by_hand}, which data.download=true then unpacks"
    if by_hand.is_file():
        _say(f"found {by_hand}, not downloading it")
        if fault := _checksum_fault(by_hand, archive.checksum):
            raise ValueError(f"{by_hand} {fault}; remove it and it is downloaded, {remedy}")
        return by_hand
    ours.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(ours, archive.url)
    if not ours.is_file():
        _say(f"downloading {archive.url}, about {readable(archive.about_bytes)}, into {ours.parent}")
        _complete(archive, partial, remedy)
        os.replace(partial.file, ours)
        partial.forget()
    if fault := _checksum_fault(ours, archive.checksum):
        ours.unlink()
        raise ValueError(f"{archive.url}: what came {fault} and is deleted; run the same command again, {remedy}")
    return ours


def _checksum_fault(file: Path, checksum: str) -> str | None:
    kind, required = checksum.split(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as content, progress(_size(file), f"checking {file.name}", bytes_=True) as bar:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    received = digest.hexdigest()
    return None if received == required else f"has the {kind} {received}, required is {required}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


# ---- one download


class _Partial:
    """The bytes that came so far, beside a note of the file on the server that they begin. Without it, no resuming.

    The note is written after the old bytes are gone, and goes before the new ones do: it never vouches for others.
    """

    def __init__(self, done: Path, url: str):
        self.url = url
        self.file = done.with_name(f"{done.name}.part")
        self._note = done.with_name(f"{done.name}.part.json")

    def begin(self, validator: str | None, total: int | None) -> None:
        self.forget()
        self.file.touch()
        if validator and total:
            write_json(self._note, {"url": self.url, "validator": validator, "total": total})

    def forget(self) -> None:
        self._note.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)

    def note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self._note.read_text())
        except FileNotFoundError:
            return None
        return note if note["url"] == self.url else None

    def kept(self) -> str:
        return f", which resumes after the {_size(self.file)} bytes in {self.file}" if self.note() else ""


class _Session(requests.Session):
    """Follows few redirects, and none from https to http, where anyone on the way may change what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and urlsplit(resp.url).scheme == "https" and urlsplit(urljoin(resp.url, target)).scheme != "https":
            raise requests.RequestException(f"it redirects to {target}, which is not https")
        return target


def _complete(archive: Archive, partial: _Partial, remedy: str) -> None:
    """Attempts until all bytes are there; DownloadError when there is no use or no attempt left."""
    for wait in (*WAITS, None):
        try:
            return _attempt(archive, partial)
        except _Again as error:
            if wait is None:
                raise DownloadError(
                    f"{archive.url}: {error}; given up after {len(WAITS) + 1} attempts. Run the same command again"
                    f"{partial.kept()}, {remedy}"
                ) from error
            _say(f"{archive.name}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
        except requests.RequestException as error:
            raise DownloadError(f"{archive.url}: {error}. Try again later, {remedy}") from error


def _attempt(archive: Archive, partial: _Partial) -> None:
    """One request for the bytes that are missing. _Again if another may do better, RequestException if none will."""
    note = partial.note()
    have = _size(partial.file) if note else 0
    if note and have == note["total"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if note and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    try:
        with _Session() as session, session.get(archive.url, headers=headers, stream=True, timeout=TIMEOUTS) as reply:
            total = _accept(reply, partial, note, have)
            _receive(reply, archive, partial, total)
    except requests.exceptions.SSLError:
        raise  # it is a ConnectionError, and does not pass
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error  # without urllib3's wrapping
        raise _Again(f"the connection failed ({cause})") from error
    if total not in (None, _size(partial.file)):
        raise _Again(f"{_size(partial.file)} bytes came and {total} were announced")


def _accept(reply: requests.Response, partial: _Partial, note: dict[str, Any] | None, have: int) -> int | None:
    """Makes `partial` fit to what comes next; the size of the whole file, None if the server does not tell."""
    status = reply.status_code
    if status == 206 and note and _continues(reply, note, have):
        return note["total"]
    if status in (206, 416):
        partial.forget()
        raise _Again("the file on the server is another than before, starting over")
    if status == 429 or status >= 500:
        raise _Again(f"the server answered {status} {reply.reason}")
    if status != 200:
        raise requests.HTTPError(f"the server answered {status} {reply.reason}")
    if reply.headers.get("Content-Type", "").startswith("text/html"):
        raise _page_instead()
    length = reply.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    partial.begin(_validator(reply), total)
    return total


def _continues(reply: requests.Response, note: dict[str, Any], have: int) -> bool:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    same_place = found is not None and (int(found[1]), int(found[2])) == (have, note["total"])
    return same_place and _validator(reply) in (None, note["validator"])


def _validator(reply: requests.Response) -> str | None:
    """What If-Range takes to tell a changed file: a strong ETag, else the date."""
    etag = reply.headers.get("ETag", "")
    return etag if etag.startswith('"') else reply.headers.get("Last-Modified")


def _receive(reply: requests.Response, archive: Archive, partial: _Partial, total: int | None) -> None:
    have = _size(partial.file)
    folder = partial.file.parent
    require_space(folder, (total or archive.about_bytes) - have, f"downloading {archive.name}")
    with partial.file.open("ab") as file, progress(total, f"downloading {archive.name}", bytes_=True) as bar:
        bar.initial = bar.n = have
        for chunk in reply.iter_content(CHUNK):
            if not file.tell() and chunk.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                partial.forget()
                raise _page_instead()
            file.write(chunk)
            bar.update(len(chunk))


def _page_instead() -> requests.HTTPError:
    return requests.HTTPError("the server sent a web page, not the archive: it may ask for a login or have moved it")
