"""Archives from a real server that fails in every way known to us; what is asked for is read off the server's log."""

import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from src.data import download
from src.data.datasets import ISIC2018, Folder, GlaS, KvasirSEG
from src.data.download import DOWNLOADS, Archive, DownloadError, fetch
from src.data.official import ARCHIVES, ensure, how_to_get
from src.data.splits import Split
from tests.layouts import example_pairs, write_kvasir_seg
from tests.test_archives import FILE, FOLDER, Member, craft, tree

Reply = Callable[["Handler"], None]
BODY = b"PK\3\4" + bytes(range(256)) * 2000  # half a megabyte: several chunks
ATTEMPTS = len(download.WAITS) + 1


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        with self.server.gate:
            self.server.asked.append(self.path)
            self.server.ranges.append(self.headers["Range"])
            self.server.conditions.append(self.headers["If-Range"])
            reply = self.server.script.pop(0) if self.server.script else self.server.usual
        reply(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers with the replies of `script` in turn, then always with `usual`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data.zip"
        self.script: list[Reply] = []
        self.usual: Reply = serve()
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.conditions: list[str | None] = []
        self.gate = threading.Lock()


def serve(
    body: bytes = BODY,
    *,
    etag: str | None = '"one"',
    date: str | None = None,
    cut: int | None = None,
    announced: int | str | None = None,
    shifted: int = 0,
    ranges: bool = True,
    if_range: bool = True,
    content_type: str = "application/zip",
) -> Reply:
    """A file server's reply; `cut` breaks off after so many bytes, `if_range=False` takes no note of that header,
    `announced=""` says no length, `shifted` begins so many bytes too early and says so."""

    def reply(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        valid = not if_range or handler.headers["If-Range"] in (etag, date)
        start = int(asked[1]) - shifted if asked and ranges and valid else 0
        if start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1 - shifted}/{len(body)}")
        if etag:
            handler.send_header("ETag", etag)
        if date:
            handler.send_header("Last-Modified", date)
        handler.send_header("Content-Type", content_type)
        if announced != "":
            handler.send_header("Content-Length", str(announced or len(body) - start - shifted))
        handler.end_headers()
        handler.wfile.write(body[start : len(body) - shifted if cut is None else start + cut])

    return reply


def status(code: int, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return reply


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "WAITS", (0.0,) * len(download.WAITS))
    monkeypatch.setenv("NO_PROXY", "*")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def archive_of(server: Server, body: bytes = BODY, *, kind: str = "sha256", about: int | None = None) -> Archive:
    checksum = f"{kind}:{hashlib.new(kind, body).hexdigest()}"
    return Archive("data.zip", server.url, len(body) if about is None else about, checksum, provides="Set")


def kept(folder: Path) -> bytes:
    return (folder / DOWNLOADS / "data.zip.part").read_bytes()


def require_arrived(archive: Archive, folder: Path, body: bytes = BODY) -> None:
    assert fetch(archive, folder) == folder / DOWNLOADS / "data.zip"
    assert tree(folder / DOWNLOADS) == {"data.zip": body}


# ---- a connection that works


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_download(server: Server, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    archive = archive_of(server, kind=kind)
    require_arrived(archive, tmp_path)
    assert server.ranges == [None]
    assert f"downloading {server.url}, about 512 kB" in capfd.readouterr().err
    require_arrived(archive, tmp_path)  # a run killed before unpacking it
    assert len(server.asked) == 1


def test_a_size_that_the_server_does_not_tell(server: Server, tmp_path: Path) -> None:
    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    server.script = [reply]
    require_arrived(archive_of(server), tmp_path)


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.script = [status(302, Location="/elsewhere.zip")]
    require_arrived(archive_of(server), tmp_path)
    assert server.asked == ["/data.zip", "/elsewhere.zip"]


# ---- bytes that are missing


def test_a_body_cut_off_is_continued(server: Server, tmp_path: Path) -> None:
    server.script = [serve(cut=200_000), serve(cut=150_000)]
    require_arrived(archive_of(server), tmp_path)
    starts = [int(asked[6:-1]) for asked in server.ranges if asked is not None]
    assert server.ranges[0] is None and len(starts) == 2
    assert 200_000 - download.CHUNK <= starts[0] <= 200_000
    assert 150_000 - download.CHUNK <= starts[1] - starts[0] <= 150_000
    assert server.conditions == [None, '"one"', '"one"']


def test_a_body_cut_off_in_every_attempt_is_continued_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.usual = serve(cut=100_000)
    with pytest.raises(DownloadError, match="resumes after") as error:
        fetch(archive_of(server), tmp_path)
    assert len(server.asked) == ATTEMPTS
    there = kept(tmp_path)
    assert len(there) > 300_000 and BODY.startswith(there)
    assert f"resumes after the {len(there)} bytes in {tmp_path / DOWNLOADS / 'data.zip.part'}" in str(error.value)
    server.usual = serve()
    require_arrived(archive_of(server), tmp_path)
    assert server.ranges[ATTEMPTS:] == [f"bytes={len(there)}-"]


def test_more_announced_than_there_is(server: Server, tmp_path: Path) -> None:
    server.usual = serve(announced=len(BODY) + 1)
    with pytest.raises(DownloadError, match="given up after"):
        fetch(archive_of(server), tmp_path)
    assert not (tmp_path / DOWNLOADS / "data.zip").exists()


def test_a_body_cut_off_that_announced_no_length(server: Server, tmp_path: Path) -> None:
    server.script = [serve(cut=200_000), serve(cut=100_000, announced="")]
    require_arrived(archive_of(server), tmp_path)
    assert len(server.asked) == 3 and server.ranges[2] is not None


def test_a_complete_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    server.usual = serve(cut=0)
    with pytest.raises(DownloadError):
        fetch(archive_of(server), tmp_path)
    asked = len(server.asked)
    (tmp_path / DOWNLOADS / "data.zip.part").write_bytes(BODY)  # killed before it was renamed
    require_arrived(archive_of(server), tmp_path)
    assert len(server.asked) == asked


def test_a_server_that_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.script = [serve(cut=200_000), serve(ranges=False)]
    require_arrived(archive_of(server), tmp_path)
    assert server.ranges[1] is not None


def test_the_date_does_where_there_is_no_strong_etag(server: Server, tmp_path: Path) -> None:
    date = "Sat, 01 Aug 2020 10:00:00 GMT"
    server.usual = serve(etag='W/"weak"', date=date)
    server.script = [serve(etag='W/"weak"', date=date, cut=200_000)]
    require_arrived(archive_of(server), tmp_path)
    assert server.conditions == [None, date] and server.ranges[1] is not None


def test_no_resuming_without_a_word_on_which_file_it_was(server: Server, tmp_path: Path) -> None:
    server.usual = serve(etag=None)
    server.script = [serve(etag=None, cut=200_000)]
    require_arrived(archive_of(server), tmp_path)
    assert server.ranges == [None, None]


CHANGED = BODY[:100_000] + bytes(len(BODY) - 100_000)  # as long as before


@pytest.mark.parametrize(
    ("second", "requests_needed"),
    [
        pytest.param(serve(CHANGED, etag='"two"'), 2, id="If-Range heeded: 200"),
        pytest.param(serve(CHANGED, etag='"two"', if_range=False), 3, id="206 with another ETag"),
        pytest.param(serve(CHANGED + b"more", if_range=False), 3, id="206 of another size"),
        pytest.param(serve(shifted=7), 3, id="206 from another place"),
        pytest.param(serve(b"PK short", etag='"two"', if_range=False), 3, id="416: it is shorter now"),
    ],
)
def test_a_file_changed_between_attempts_is_not_glued(
    server: Server, tmp_path: Path, second: Reply, requests_needed: int
) -> None:
    server.script = [serve(cut=200_000), second]
    server.usual = serve(CHANGED, etag='"two"')
    require_arrived(archive_of(server, CHANGED), tmp_path, CHANGED)
    assert len(server.asked) == requests_needed
    assert server.ranges[2:] == [None] * (requests_needed - 2)


def test_a_part_longer_than_the_file_is_started_over(server: Server, tmp_path: Path) -> None:
    server.usual = serve(cut=100_000)
    with pytest.raises(DownloadError):
        fetch(archive_of(server), tmp_path)
    (tmp_path / DOWNLOADS / "data.zip.part").write_bytes(BODY + b"?")
    server.usual = serve()
    require_arrived(archive_of(server), tmp_path)


def test_a_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.usual = serve(cut=100_000)
    with pytest.raises(DownloadError):
        fetch(archive_of(server), tmp_path)
    server.usual, server.url = serve(), server.url + "?version=2"
    server.ranges.clear()
    require_arrived(archive_of(server), tmp_path)
    assert server.ranges == [None]


# ---- a server that will not


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.script = [status(503), status(429)]
    require_arrived(archive_of(server), tmp_path)
    assert "the server answered 503 Service Unavailable; trying again in 0 s" in capfd.readouterr().err


def test_a_server_that_stays_busy(server: Server, tmp_path: Path) -> None:
    server.usual = status(503)
    with pytest.raises(DownloadError, match=f"answered 503 .*given up after {ATTEMPTS} attempts"):
        fetch(archive_of(server), tmp_path)
    assert len(server.asked) == ATTEMPTS


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_final(server: Server, tmp_path: Path, code: int) -> None:
    server.usual = status(code)
    place = re.escape(str(tmp_path / "data.zip"))
    with pytest.raises(DownloadError, match=f"answered {code} .* in a browser and put it as {place}"):
        fetch(archive_of(server), tmp_path)
    assert len(server.asked) == 1


def test_a_redirect_without_end(server: Server, tmp_path: Path) -> None:
    server.usual = status(302, Location="/data.zip")
    with pytest.raises(DownloadError, match=f"Exceeded {download.MAX_REDIRECTS} redirects"):
        fetch(archive_of(server), tmp_path)
    assert len(server.asked) == 1 + download.MAX_REDIRECTS


@pytest.mark.parametrize(
    ("url", "target", "allowed"),
    [
        ("https://a.org/x", "http://a.org/x", False),
        ("https://a.org/x", "ftp://a.org/x", False),
        ("https://a.org/x", "/y", True),
        ("https://a.org/x", "//b.org/y", True),
        ("https://a.org/x", "https://b.org/y", True),
        ("http://a.org/x", "http://b.org/y", True),
        ("http://a.org/x", "https://b.org/y", True),
    ],
)
def test_no_redirect_leaves_https(url: str, target: str, allowed: bool) -> None:
    reply = requests.Response()
    reply.url, reply.status_code, reply.headers["location"] = url, 302, target
    with download._Session() as session:
        if allowed:
            assert session.get_redirect_target(reply) == target
        else:
            with pytest.raises(requests.RequestException, match="not https"):
                session.get_redirect_target(reply)


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_login_page(server: Server, tmp_path: Path, content_type: str) -> None:
    page = b"\xef\xbb\xbf\r\n <!DOCTYPE html><title>Sign in</title>"
    server.usual = serve(page, content_type=content_type)
    with pytest.raises(DownloadError, match="a web page, not the archive: it may ask for a login"):
        fetch(archive_of(server), tmp_path)
    assert len(server.asked) == 1
    assert tree(tmp_path / DOWNLOADS) == {}


def test_a_login_page_does_not_cost_what_came_before(server: Server, tmp_path: Path) -> None:
    server.script = [serve(cut=200_000), serve(b"<html>", etag='"page"', content_type="text/html")]
    with pytest.raises(DownloadError, match="web page"):
        fetch(archive_of(server), tmp_path)
    assert len(kept(tmp_path)) > 100_000
    require_arrived(archive_of(server), tmp_path)
    assert server.ranges[2] is not None


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{unused.getsockname()[1]}/data.zip"
        with pytest.raises(DownloadError, match=f"connection failed .*refused.*after {ATTEMPTS} attempts") as error:
            fetch(archive_of(server), tmp_path)
    assert "resumes" not in str(error.value)


@pytest.mark.parametrize("sent", [0, 200_000])
def test_a_server_that_falls_silent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int) -> None:
    silence = threading.Event()

    def reply(handler: Handler) -> None:
        if sent:
            serve(cut=sent)(handler)
        silence.wait(10)

    monkeypatch.setattr(download, "TIMEOUTS", (5.0, 0.2))
    server.script = [reply]
    try:
        require_arrived(archive_of(server), tmp_path)
    finally:
        silence.set()
    assert len(server.asked) == 2 and (server.ranges[1] is not None) == bool(sent)


def test_a_wrong_certificate_is_final(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(session: requests.Session, url: str, **options: object) -> None:
        asked.append(url)
        raise requests.exceptions.SSLError("certificate verify failed")

    monkeypatch.setattr(download._Session, "get", get)
    with pytest.raises(DownloadError, match=r"certificate verify failed\. Try again later"):
        fetch(archive_of(server), tmp_path)
    assert asked == [server.url]


# ---- bytes that are wrong


def test_wrong_bytes_are_deleted(server: Server, tmp_path: Path) -> None:
    wrong = BODY[:-1] + b"?"
    server.usual = serve(wrong)
    archive = archive_of(server)
    with pytest.raises(ValueError, match="is deleted; run the same command again") as error:
        fetch(archive, tmp_path)
    assert hashlib.sha256(wrong).hexdigest() in str(error.value)
    assert archive.checksum.removeprefix("sha256:") in str(error.value)
    assert tree(tmp_path / DOWNLOADS) == {}
    server.usual = serve()
    require_arrived(archive, tmp_path)


def test_an_archive_put_there_by_hand_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(BODY)
    assert fetch(archive_of(server), tmp_path) == tmp_path / "data.zip"
    assert server.asked == []


def test_a_wrong_archive_put_there_by_hand_stays(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"something else")
    archive = archive_of(server)
    with pytest.raises(ValueError, match="remove it") as error:
        fetch(archive, tmp_path)
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)
    assert archive.checksum.removeprefix("sha256:") in str(error.value)
    assert tree(tmp_path) == {"data.zip": b"something else"} and server.asked == []


# ---- no room


@pytest.mark.parametrize("announced", [True, False])
def test_no_room_for_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    def unannounced(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    server.usual = serve() if announced else unannounced
    free = SimpleNamespace(free=len(BODY) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=r"needs 512 kB in .*, and 512 kB are free") as error:
        fetch(archive_of(server), tmp_path)
    assert error.value.errno == 28 and len(server.asked) == 1
    free.free += 1
    require_arrived(archive_of(server), tmp_path)


def test_a_part_needs_room_for_the_rest_only(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.usual = serve(cut=100_000)
    with pytest.raises(DownloadError):
        fetch(archive_of(server), tmp_path)
    rest = len(BODY) - len(kept(tmp_path))
    server.usual = serve()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=rest))
    require_arrived(archive_of(server), tmp_path)


# ---- a dataset


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A dataset of two archives, the second needed by one split alone, as {address: zip}; put into the table."""
    bodies, archives = {}, []
    for name, split in (("One", None), ("Two", "official")):
        members = [Member(f"{name}/", b"", FOLDER), Member(f"{name}/a.jpg", name.encode() * 50_000, FILE, method=0)]
        body = craft(tmp_path / "made.zip", members).read_bytes()
        bodies[f"/{name}.zip"] = body
        url, checksum = server.url.replace("data.zip", f"{name}.zip"), f"sha256:{hashlib.sha256(body).hexdigest()}"
        archives.append(Archive(f"{name}.zip", url, len(body), checksum, name, split=split))
    monkeypatch.setitem(ARCHIVES, "kvasir_seg", tuple(archives))
    server.usual = lambda handler: serve(bodies[handler.path])(handler)
    return bodies


def contents(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.name != ".download.lock")


def test_what_a_split_needs_comes_and_no_archive_stays(
    server: Server, published: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data" / "kvasir_seg"
    ensure("kvasir_seg", root, "holdout")
    assert contents(root) == ["One"] and (root / "One" / "a.jpg").read_bytes() == b"One" * 50_000
    assert f"unpacking {root / DOWNLOADS / 'One.zip'} into {root}" in capfd.readouterr().err
    ensure("kvasir_seg", str(root), "official")
    assert contents(root) == ["One", "Two"]
    ensure("kvasir_seg", root, "official")
    assert server.asked == ["/One.zip", "/Two.zip"]


@pytest.mark.parametrize("place", ["images", "One", "root is One"])
def test_nothing_is_done_where_data_is(server: Server, published: dict[str, bytes], tmp_path: Path, place: str) -> None:
    root = tmp_path / "data"
    (root / place.removeprefix("root is ")).mkdir(parents=True)
    ensure("kvasir_seg", root / "One" if place == "root is One" else root, "holdout")
    assert server.asked == [] and len(list(root.iterdir())) == 1


def test_an_archive_put_there_by_hand_is_unpacked_and_stays(
    server: Server, published: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "One.zip").write_bytes(published["/One.zip"])
    (root / DOWNLOADS).mkdir()
    (root / DOWNLOADS / "One.zip.part").write_bytes(b"PK")  # an attempt before that
    ensure("kvasir_seg", root, "official")
    assert contents(root) == ["One", "One.zip", "Two"] and server.asked == ["/Two.zip"]


def test_leftovers_of_killed_runs(server: Server, published: dict[str, bytes], tmp_path: Path) -> None:
    """One was unpacked and not deleted; Two is half there, which a run that does not need it leaves alone."""
    root = tmp_path / "data"
    server.script = [lambda handler: serve(published["/One.zip"])(handler)]
    server.usual = lambda handler: serve(published["/Two.zip"], cut=20_000)(handler)
    with pytest.raises(DownloadError):
        ensure("kvasir_seg", root, "official")
    (root / DOWNLOADS / "One.zip").write_bytes(b"left")
    ensure("kvasir_seg", root, "holdout")
    assert sorted(tree(root / DOWNLOADS)) == ["Two.zip.part", "Two.zip.part.json"]
    server.usual = lambda handler: serve(published["/Two.zip"])(handler)
    server.ranges.clear()
    ensure("kvasir_seg", root, "official")
    assert contents(root) == ["One", "Two"]
    assert len(server.ranges) == 1 and server.ranges[0] is not None


def test_an_archive_that_does_not_hold_what_it_should(
    server: Server, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ARCHIVES["kvasir_seg"][0]
    renamed = Archive(one.name, one.url, one.about_bytes, one.checksum, provides="Other")
    monkeypatch.setitem(ARCHIVES, "kvasir_seg", (renamed,))
    with pytest.raises(ValueError, match="held no folder 'Other'"):
        ensure("kvasir_seg", tmp_path / "data", "official")


def test_two_at_once_download_once(server: Server, published: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "data"
    faults: list[BaseException] = []

    def run() -> None:
        try:
            ensure("kvasir_seg", root, "official")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and contents(root) == ["One", "Two"]
    assert server.asked == ["/One.zip", "/Two.zip"]


def test_room_is_checked_before_the_first_byte(
    server: Server, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    needed = 3 * len(published["/One.zip"])  # both unpacked, and one archive beside them
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=f"downloading and unpacking needs .* in {root}"):
        ensure("kvasir_seg", root, "official")
    assert server.asked == [] and contents(root) == []
    free.free += 1
    ensure("kvasir_seg", root, "official")
    assert contents(root) == ["One", "Two"]


def test_an_archive_that_is_there_needs_room_once(
    server: Server, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "One.zip").write_bytes(published["/One.zip"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=len(published["/One.zip"])))
    ensure("kvasir_seg", tmp_path, "holdout")
    assert (tmp_path / "One" / "a.jpg").is_file()


@pytest.mark.parametrize("dataset", ["folder", "synthetic"])
def test_what_is_not_published_cannot_be_had(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(ValueError, match=f"nothing to download for data={dataset}. Possible: kvasir_seg, isic2018"):
        ensure(dataset, tmp_path, "holdout")
    assert how_to_get(dataset, tmp_path, "holdout") == ""
    assert list(tmp_path.iterdir()) == []


# ---- the table, and what is said of it


def test_the_table() -> None:
    archives = [archive for of_dataset in ARCHIVES.values() for archive in of_dataset]
    assert len({archive.name for archive in archives}) == len({archive.checksum for archive in archives}) == 8
    for archive in archives:
        assert archive.url.startswith("https://") and archive.url.endswith(f"/{archive.name}")
        assert re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.checksum)
        assert 10**6 <= archive.about_bytes < 11 * 10**9
    assert {archive.provides for archive in ARCHIVES["isic2018"]} == {
        *(f"ISIC2018_Task1-2_{part}_Input" for part in ("Training", "Validation", "Test")),
        *(f"ISIC2018_Task1_{part}_GroundTruth" for part in ("Training", "Validation", "Test")),
    }


@pytest.mark.parametrize(
    ("split", "size", "count"), [("holdout", "about 10.4 GB", 2), ("official", "about 12.9 GB", 6)]
)
def test_how_to_get_isic(tmp_path: Path, split: str, size: str, count: int) -> None:
    text = how_to_get("isic2018", tmp_path, split)
    assert size in text and text.count("https://") == count and "login" not in text
    assert "data.download=true" in text and str(tmp_path / "ISIC2018_Task1-2_Training_Input") in text


def test_how_to_get_names_only_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ISIC2018_Task1-2_Training_Input").mkdir()
    (tmp_path / "ISIC2018_Task1_Training_GroundTruth").mkdir()
    assert how_to_get("isic2018", tmp_path, "holdout") == ""
    assert how_to_get("isic2018", tmp_path, "official").count("https://") == 4
    assert how_to_get("isic2018", tmp_path / "ISIC2018_Task1_Training_GroundTruth", "holdout") == ""


def test_how_to_get_glas_speaks_of_the_login(tmp_path: Path) -> None:
    text = how_to_get("glas", tmp_path, "official")
    assert f"put it as {tmp_path / 'warwick_qu_dataset_released_2016_07_08.zip'}" in text
    assert "may ask for a login" in text and "about 173 MB" in text
    assert "login" not in how_to_get("kvasir_seg", tmp_path, "official")


def test_the_note_beside_a_part(server: Server, tmp_path: Path) -> None:
    """What is written there is what If-Range and the size check rest on."""
    server.usual = serve(cut=100_000)
    with pytest.raises(DownloadError):
        fetch(archive_of(server), tmp_path)
    note = json.loads((tmp_path / DOWNLOADS / "data.zip.part.json").read_text())
    assert note == {"url": server.url, "validator": '"one"', "total": len(BODY)}


# ---- data.download=true


@pytest.fixture
def polyps(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """The Kvasir-SEG archive, with nine images, served at its address; the split of them."""
    ids = [f"polyp{number}" for number in range(9)]
    made = write_kvasir_seg(tmp_path / "made", True, example_pairs(ids))
    body = Path(shutil.make_archive(str(tmp_path / "polyps"), "zip", made)).read_bytes()
    official = ARCHIVES["kvasir_seg"][0]
    archive = replace(official, url=server.url, checksum=f"sha256:{hashlib.sha256(body).hexdigest()}")
    monkeypatch.setitem(ARCHIVES, "kvasir_seg", (archive,))
    server.usual = serve(body)
    return Split("tiny", "kvasir_seg", {"train": tuple(ids[:5]), "val": tuple(ids[5:7]), "test": tuple(ids[7:])})


def test_the_datamodule_gets_what_it_lacks(server: Server, polyps: Split, tmp_path: Path) -> None:
    def source(**options: bool) -> KvasirSEG:
        made = KvasirSEG(root=str(tmp_path / "data" / "kvasir_seg"), size=32, num_workers=0, **options)
        made.split = polyps
        return made

    with pytest.raises(ValueError) as error:
        source().setup("fit")
    place = tmp_path / "data" / "kvasir_seg"
    for told in ("data.download=true", "about 46 MB", str(place), f"{server.url} (unpacks to {place / 'Kvasir-SEG'})"):
        assert told in str(error.value)
    assert server.asked == [] and not place.exists()
    source(download=True).setup("fit")
    assert contents(place) == ["Kvasir-SEG"] and len(server.asked) == 1
    source(download=True).setup("fit")
    source().setup("fit")
    assert len(server.asked) == 1


def test_nothing_is_fetched_for_a_split_that_does_not_exist(server: Server, polyps: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split 'oficial' of 'kvasir_seg'"):
        KvasirSEG(root=str(tmp_path / polyps.dataset), split="oficial", download=True).setup("fit")
    assert server.asked == []


def test_a_failed_download_is_one_message(server: Server, polyps: Split, tmp_path: Path) -> None:
    server.usual = status(404)
    with pytest.raises(ValueError, match=r"the server answered 404 .*put it as .*kvasir-seg\.zip"):
        KvasirSEG(root=str(tmp_path / "data"), download=True).setup("fit")


@pytest.mark.parametrize(("dataset", "about"), [(KvasirSEG, "46 MB"), (ISIC2018, "10.4 GB"), (GlaS, "173 MB")])
def test_without_data_the_error_says_how_to_get_it(dataset: type, about: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"data.download=true fetches it, about {re.escape(about)}") as error:
        dataset(root=str(tmp_path / "nothing"), split="holdout").setup("fit")
    by_hand = f"put it as {tmp_path / 'nothing' / 'warwick_qu_dataset_released_2016_07_08.zip'}"
    assert (by_hand in str(error.value)) == (dataset is GlaS)


def test_a_folder_has_nothing_to_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to download for data=folder\. Possible: kvasir_seg, isic2018, glas"):
        Folder(root=str(tmp_path), download=True).setup("fit")
