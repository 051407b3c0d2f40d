"""One published archive comes onto this disk: continued where it broke off, checked, never taken for another.

What we download lies in `<folder>/.download/`. An archive that the user put into `<folder>` by hand is checked and used
too, and never deleted: the place tells whose it is.
"""

import hashlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from src.data.archives import readable, require_space
from src.files import write_json
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
        say(f"found {by_hand}, not downloading it")
        if fault := _checksum_fault(by_hand, archive.checksum):
            raise ValueError(f"{by_hand} {fault}; remove it and it is downloaded, {remedy}")
        return by_hand
    ours.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial(ours, archive.url)
    if not ours.is_file():
        say(f"downloading {archive.url}, about {readable(archive.about_bytes)}, into {ours.parent}")
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
    with file.open("rb") as content, progress(size_of(file), f"checking {file.name}", unit="B") as bar:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    received = digest.hexdigest()
    return None if received == required else f"has the {kind} {received}, required is {required}"


def size_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


# ---- one download


class Partial:
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
        return f", which resumes after the {size_of(self.file)} bytes in {self.file}" if self.note() else ""


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


def _complete(archive: Archive, partial: Partial, remedy: str) -> None:
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
            say(f"{archive.name}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
        except requests.RequestException as error:
            raise DownloadError(f"{archive.url}: {error}. Try again later, {remedy}") from error


def _attempt(archive: Archive, partial: Partial) -> None:
    """One request for the bytes that are missing. _Again if another may do better, RequestException if none will."""
    note = partial.note()
    have = size_of(partial.file) if note else 0
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
    if total not in (None, size_of(partial.file)):
        raise _Again(f"{size_of(partial.file)} bytes came and {total} were announced")


def _accept(reply: requests.Response, partial: Partial, note: dict[str, Any] | None, have: int) -> int | None:
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


def _receive(reply: requests.Response, archive: Archive, partial: Partial, total: int | None) -> None:
    have = size_of(partial.file)
    folder = partial.file.parent
    require_space(folder, (total or archive.about_bytes) - have, f"downloading {archive.name}")
    with partial.file.open("ab") as file, progress(total, f"downloading {archive.name}", unit="B") as bar:
        bar.initial = bar.n = have
        for chunk in reply.iter_content(CHUNK):
            if not file.tell() and chunk.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                partial.forget()
                raise _page_instead()
            file.write(chunk)
            bar.update(len(chunk))


def _page_instead() -> requests.HTTPError:
    return requests.HTTPError("the server sent a web page, not the archive: it may ask for a login or have moved it")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
