"""The web page: what happens behind it, what its server refuses, and the page in a real browser."""

import asyncio
import csv
import gc
import io
import re
import socket
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import requests
import torch
from playwright.sync_api import Page, expect

from src.app import check_settings, is_private, own_names
from src.cli import ConfigError
from src.data.decode import read_image
from src.data.synthetic import generate
from src.inference import Prediction
from src.rois import PostProcess
from src.trained import Trained, open_trained
from src.webapp import about, guard, markup, session
from src.webapp.examples import write_examples
from src.webapp.session import Kept, Looker, Settings

from . import dicoms
from .browser import needs_chromium, visit
from .conftest import REPO
from .hostile import ACCEPTED, NAMES, REFUSED, picture, write_all

pytest.importorskip("gradio", reason="the extra `app` is not installed")
# raised inside Gradio and what it stands on
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(gradio|starlette|fastapi|pydantic|websockets).*")
SIZE = (300, 400)
LIMIT_MB = 1
MAX_PIXELS = 64_000_000
SERVER_PATH = re.compile(r"/(tmp|work|root|home|var)/")


class Sharper(torch.nn.Module):
    """A network whose probabilities, after two epochs all alike, spread from 0 to 1 around the middle of an image."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.net(image)
        return (logits - logits.mean((2, 3), keepdim=True)) / logits.std((2, 3), keepdim=True)


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> Trained:
    opened = open_trained(trained_run)
    return replace(opened, net=Sharper(opened.net))


@pytest.fixture(scope="module")
def looker(trained: Trained) -> Looker:
    return Looker(trained, max_pixels=MAX_PIXELS)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_photo(tmp_path / "a photo.png")


def write_photo(path: Path, size: tuple[int, int] = SIZE, kind: str = "polyp") -> Path:
    image, _ = generate(kind, 3, size=SIZE if max(size) > 1000 else size)  # to draw a large one takes long
    path.write_bytes(session.png(cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST)))
    return path


def decoded(file: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


# ---- what a session keeps


@pytest.mark.parametrize("native", [False, True])
def test_masks_of_what_is_kept_are_those_of_the_prediction(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if native:
        monkeypatch.setattr(session, "LOGITS_KEPT", 0)
    logits = torch.randn(1, 1, 90, 70, generator=torch.Generator().manual_seed(0)) * 3
    steps = torch.tensor(session.STEPS)
    logits.view(-1)[: len(steps)] = torch.log(steps / (1 - steps))  # as near to the thresholds as can be
    prediction = Prediction((90, 70), ((logits, (slice(0, 90), slice(0, 70))),))
    kept, probs = Kept(prediction, [0.4321]), prediction.probabilities()
    again = kept.probabilities()
    assert again.dtype == np.float32 and np.abs(again - probs).max() <= (0.00501 if native else 0)
    for threshold in (*session.STEPS, 0.4321):
        assert ((again > threshold) == (probs > threshold)).all(), threshold


def test_what_a_session_keeps_is_small(looker: Looker, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "large.png", (1500, 2000))
    for mode in ("full", "coarse_to_fine"):
        seen = looker.look(path, "large.png", mode)
        drawn = session.draw(seen, Settings(0.5))
        assert seen.kept.nbytes + len(seen.small) + len(drawn.small) < 2**20
    plane = torch.randn(1, 1, 15, 20).repeat_interleave(100, 2).repeat_interleave(100, 3)
    tiled = Kept(Prediction((1500, 2000), ((plane, (slice(0, 1500), slice(0, 2000))),)))
    assert tiled.nbytes < 3_000_000 / 20


@pytest.mark.parametrize("mode", session.MODES)
def test_the_mask_is_the_segmenters(looker: Looker, photo: Path, mode: str) -> None:
    threshold = 0.45
    seen = looker.look(photo, "photo.png", mode)
    (probs,) = looker.segmenters[mode].probabilities([read_image(photo)])
    mask = decoded(session.mask_png(seen, Settings(threshold)))
    assert mask.shape == SIZE and ((mask == 255) == (probs > threshold)).all() and set(np.unique(mask)) <= {0, 255}
    assert 0 < (mask > 0).mean() < 1


def test_downloads_hold_every_region(looker: Looker, photo: Path) -> None:
    seen, settings = looker.look(photo, photo.name, "full"), Settings(0.45)
    _, rois = session.find(seen, settings)
    rows = list(csv.DictReader(io.StringIO(session.table_csv(seen, settings))))
    assert [int(row["area_px"]) for row in rows] == [roi.area_px for roi in rois] and rows[0]["file"] == "a photo.png"
    with zipfile.ZipFile(io.BytesIO(session.crops_zip(looker, seen, settings))) as archive:
        assert archive.namelist() == [f"a_photo/roi{roi.id}.png" for roi in rois]
        assert decoded(archive.read("a_photo/roi1.png")).shape[0] >= rois[0].bbox[3]
    photo.unlink()
    with pytest.raises(ValueError, match=r"a photo\.png is no longer kept here"):
        session.crops_zip(looker, seen, settings)


def test_post_processing_and_threshold_change_what_is_drawn(looker: Looker, photo: Path) -> None:
    seen, threshold = looker.look(photo, "photo.png", "full"), 0.45
    largest = session.draw(seen, Settings(threshold, PostProcess(largest_only=True)))
    assert largest.number == 1
    nothing = session.draw(seen, Settings(0.99, PostProcess(min_area=10**9)))
    assert nothing.number == 0 and "Nothing found" in markup.status(seen, nothing) and markup.table(seen, nothing) == ""
    strong, none = (session.shown(seen, largest, opacity) for opacity in (1.0, 0.0))
    assert strong.shape == none.shape == (*SIZE, 3) and (strong != none).any()


def test_more_regions_than_anyone_reads_are_not_measured(looker: Looker, photo: Path, monkeypatch) -> None:
    seen, settings = looker.look(photo, "photo.png", "full"), Settings(0.45)
    monkeypatch.setattr(session, "MOST_ROIS", 0)
    drawn = session.draw(seen, settings)
    assert drawn.too_many and not drawn.rois and "too many to measure" in markup.status(seen, drawn)
    with pytest.raises(ValueError, match="raise the threshold"):
        session.mask_png(seen, settings)


def test_a_large_picture_is_shown_small_and_tiled_only_in_bounds(looker: Looker, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "large.png", (2000, 3000))
    seen = looker.look(path, "large.png", "full")
    drawn = session.draw(seen, Settings(0.5))
    assert seen.shape == (2000, 3000) and max(seen.preview.shape) == session.SHOWN_SIDE
    html = markup.pictures(seen, drawn, 0.4)
    assert "shown at 1600 x 1067 px" in html and len(html) < 2_000_000
    with pytest.raises(ValueError, match=r"windows of \d+ px, at most 2,000"):
        looker.look(path, "large.png", "tiled")


# ---- files of strangers


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_answered_in_words(looker: Looker, tmp_path: Path, name: str) -> None:
    path = write_all(tmp_path)[name]
    with pytest.raises(ValueError) as error:
        looker.look(path, "their file", "full")
    assert str(error.value).startswith("their file") and str(tmp_path) not in str(error.value), error.value


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_picture_is_a_picture(looker: Looker, tmp_path: Path, name: str) -> None:
    seen = looker.look(write_all(tmp_path)[name], name, "full")
    assert session.draw(seen, Settings(0.5)).mask.size > 0


def test_sixteen_bits_arrive_unchanged(trained: Trained, tmp_path: Path) -> None:
    grey = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(session.png(grey))
    with pytest.raises(ValueError, match=r"have this page started with intensity=\[low,high\]"):
        Looker(trained, max_pixels=MAX_PIXELS).look(path, "deep.png", "full")
    deep = Looker(trained, max_pixels=MAX_PIXELS, intensity=[0, 4095])
    pixels, _ = deep.pixels(path, "deep.png")
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) == 256


def test_a_dicom_file_brings_areas_in_mm(looker: Looker, tmp_path: Path) -> None:
    grey = generate("lesion", 2, size=(64, 80))[0][..., 0]
    seen = looker.look(dicoms.write(tmp_path / "a.dcm", grey, PixelSpacing=[0.5, 0.25]), "a.dcm", "full")
    drawn = session.draw(seen, Settings(0.45))
    assert drawn.rois[0].area == pytest.approx(drawn.rois[0].area_px * 0.125) and "mm²" in markup.table(seen, drawn)
    (first, *_) = csv.DictReader(io.StringIO(session.table_csv(seen, Settings(0.45))))
    assert first["area_unit"] == "mm2" and first["diameter_unit"] == "mm"


@pytest.mark.parametrize("name", [*NAMES, "", "..", "/etc/passwd", "x" * 300 + ".png", "a\nb\x00.png"])
def test_names_are_text(looker: Looker, photo: Path, name: str) -> None:
    short = markup.short_name(name)
    seen = looker.look(photo, short, "full")
    drawn = session.draw(seen, Settings(0.45))
    html = markup.status(seen, drawn) + markup.pictures(seen, drawn, 0.4) + markup.message(name)
    assert "<img src=x" not in html and "<b>.png" not in html
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,60}", seen.stem) and "/" not in short and len(short) <= 80
    assert not session.table_csv(seen, Settings(0.01)).splitlines()[-1].startswith("=")


# ---- words


def test_the_page_says_which_network_it_is(trained: Trained, looker: Looker) -> None:
    facts = dict(about.facts(looker, "full"))
    assert facts["Trained on"].startswith("synthetic, split ") and facts["Sees pictures at"] == "32 x 32 px"
    assert re.search(r"val Dice 0\.\d{3} \(mean of 5 images\)", facts["Measured"])
    assert "chosen on validation images" in facts["Masks are cut at"]
    assert "none was chosen for this mode" in dict(about.facts(looker, "tiled"))["Masks are cut at"]
    assert "not a medical device" in markup.heading(looker) and about.parameters(trained) in markup.heading(looker)
    untold = Looker(replace(trained, told={}, thresholds={}), max_pixels=MAX_PIXELS)
    assert "not scored yet" in dict(about.facts(untold, "full"))["Trained on"]
    hostile = Looker(replace(trained, name="<script>"), max_pixels=MAX_PIXELS)
    assert "<script>" not in markup.heading(hostile) + markup.model_card(hostile, "full")


def test_examples_are_drawn(tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "examples")
    assert len(examples) == 6 and all(read_image(example.path).shape == (384, 512, 3) for example in examples)


# ---- the command


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": None}, "which network"),
        ({"weights": "x"}, "which network"),
        ({"port": 70_000}, "port=70000"),
        ({"port": "a"}, "port=a"),
        ({"max_upload_mb": 0}, "max_upload_mb=0"),
        ({"max_pixels": True}, "max_pixels=True"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, Any], said: str) -> None:
    settings = {"run": "x", "weights": None, "port": 7860, "max_upload_mb": 50, "max_pixels": 10**6, "threads": None}
    assert check_settings(settings) == "x"
    with pytest.raises(ConfigError, match=said):
        check_settings(settings | changed)


def test_without_gradio_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="extra `app`"):
        check_settings(
            {"run": "x", "weights": None, "port": 7860, "max_upload_mb": 50, "max_pixels": 10**6, "threads": None}
        )


def test_hosts_of_this_machine_are_known() -> None:
    assert is_private("127.0.0.1") and is_private("localhost") and is_private("::1") and is_private("127.8.8.8")
    assert "127.8.8.8" in own_names("127.8.8.8") and own_names("0.0.0.0") == ["*"]
    assert not is_private("0.0.0.0") and not is_private("192.168.1.2") and not is_private("example.org")


def test_a_taken_port_is_said() -> None:
    from src.webapp.server import opened

    with opened("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match="Choose another port"), opened("127.0.0.1", port):
            pass


# ---- the server


@dataclass
class Served:
    url: str
    folder: Path


@contextmanager
def letting_loops_go() -> Iterator[None]:
    """Gradio makes event loops that it neither uses nor closes (gradio.utils.safe_get_lock), and leaves the last as
    this thread's own: collected in here, where nobody is told, and not in another test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            asyncio.set_event_loop(None)
            gc.collect()


@contextmanager
def running(looker: Looker, **settings: Any) -> Iterator[Served]:
    from src.webapp.server import opened, serving

    with opened("127.0.0.1", 0) as listener, ExitStack() as while_served:
        # not around all of it: a server may outlive the phase of a test that began it, and the filters of that phase
        with letting_loops_go():
            server = while_served.enter_context(serving(looker, names=own_names("127.0.0.1"), **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            from gradio.utils import get_upload_folder

            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", Path(get_upload_folder()))
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(looker: Looker) -> Iterator[Served]:
    with running(looker, max_upload_mb=LIMIT_MB) as it:
        yield it
    assert not it.folder.exists()  # what users sent is deleted at the end


FORBIDDEN = (
    "/gradio_api/file=/etc/passwd",
    f"/gradio_api/file={REPO / 'README.md'}",
    f"/gradio_api/file={REPO / 'src' / 'app.py'}",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file=README.md",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=http://127.0.0.1:1/x.png",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/static/../../../../../../etc/passwd",
    "/assets/%2e%2e/%2e%2e/%2e%2e/utils.py",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/gradio_api/runs",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/monitoring",
    "/gradio_api/mcp",
    "/manifest.json",
)


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_but_the_page_is_served(served: Served, path: str) -> None:
    session_ = requests.Session()
    request = session_.prepare_request(requests.Request("GET", served.url))
    request.url = served.url + path  # as it stands: requests would resolve the dots
    answer = session_.send(request, timeout=60, allow_redirects=False)
    assert answer.status_code in (400, 403, 404), (path, answer.status_code)
    assert "root:" not in answer.text


def test_the_page_names_no_other_machine(served: Served) -> None:
    answer = requests.get(served.url, timeout=60)
    assert answer.status_code == 200 and "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    fetched = re.findall(r'(?:src|href)="(https?:[^"]*)"', answer.text)
    assert not fetched, fetched
    config = requests.get(f"{served.url}/config", timeout=60).json()
    assert config["analytics_enabled"] is False
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} == {"private"}
    other_name = requests.get(served.url, headers={"Host": "elsewhere.example"}, timeout=60)
    assert other_name.status_code == 400


def upload(served: Served, name: str, content: bytes) -> requests.Response:
    return requests.post(f"{served.url}/gradio_api/upload", files={"files": (name, content)}, timeout=60)


def test_uploads_are_bounded_and_stay_in_their_folder(served: Served) -> None:
    assert upload(served, "large.png", bytes(LIMIT_MB * 2**20 + 1)).status_code == 413
    many = [("files", (f"{i}.png", bytes(2**20 // 2))) for i in range(8)]  # each small enough
    try:
        code = requests.post(f"{served.url}/gradio_api/upload", files=many, timeout=60).status_code
    except requests.ConnectionError:  # the server has answered, and does not wait for the rest
        code = 413
    assert code == 413
    endless = requests.post(f"{served.url}/gradio_api/upload", data=iter([b"x"]), timeout=60)
    assert endless.status_code == 411
    (path,) = upload(served, "../../../evil.png", b"x").json()
    assert Path(path).is_relative_to(served.folder) and Path(path).name == "evil.png"
    page = upload(served, "page.html", REFUSED["page.html"]).json()[0]
    shown = requests.get(f"{served.url}/gradio_api/file={page}", timeout=60)
    assert shown.headers["Content-Disposition"].startswith("attachment")  # never as a page of this server
    assert shown.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_no_other_page_may_send_anything(served: Served, headers: dict[str, str]) -> None:
    """A form of another page posts without asking anybody, and would fill the disk of whoever looks at it."""
    before = list(served.folder.rglob("*"))
    files = {"files": ("a.png", b"x")}
    for path in ("upload", "queue/join"):
        answer = requests.post(f"{served.url}/gradio_api/{path}", files=files, headers=headers, timeout=60)
        assert answer.status_code == 403
    assert list(served.folder.rglob("*")) == before
    own = {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}
    assert requests.post(f"{served.url}/gradio_api/upload", files=files, headers=own, timeout=60).status_code == 200


def raw(served: Served, *lines: str, body: bytes = b"") -> str:
    """The first line of the answer to a request that no library would make."""
    host = served.url.removeprefix("http://")
    head = "\r\n".join(["POST /gradio_api/upload HTTP/1.1", f"Host: {host}", *lines, "", ""])
    with socket.create_connection(tuple(host.split(":")), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(4096).decode().split("\r\n")[0]


def test_a_body_of_two_lengths_is_refused(served: Served) -> None:
    said = raw(served, "Content-Length: 10", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    assert said.split()[1] in ("400", "411")


def test_a_body_that_never_comes_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    begun = time.monotonic()
    said = raw(served, "Content-Length: 1000", "Content-Type: multipart/form-data; boundary=x", body=b"--x\r\n")
    assert said.split()[1] == "408" and time.monotonic() - begun < 25  # guard.BODY_S is 30 s when unpatched


def test_what_is_sent_within_an_hour_is_bounded(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    bounded = guard.Guard(None, 100, tmp_path)  # type: ignore[arg-type]
    assert [bounded._has_room(100) for _ in range(401)] == [True] * 400 + [False]
    now = guard.KEPT_S + 1.0
    assert bounded._has_room(100)
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda _: SimpleNamespace(free=250))
    assert not bounded._has_room(100) and bounded._has_room(25)  # 100 may still come, and half of 250 is 125
    assert not bounded._has_room(1)
    bounded.uploads[0].received = 100  # they have come: 350 were free before, of which half is 175
    assert bounded._has_room(50) and not bounded._has_room(1)
    bounded.uploads[-1].ended = True  # broken off before anything came
    assert bounded._has_room(50)
    monkeypatch.undo()
    monkeypatch.setattr(guard, "LARGEST_OF_AN_HOUR", 0)
    answer = upload(served, "a.png", b"x")
    assert answer.status_code == 503 and "Retry-After" in answer.headers and "try again later" in answer.text


@pytest.mark.parametrize("path", ["/etc/passwd", str(REPO / "README.md"), "http://127.0.0.1:{port}/config"])
def test_no_file_can_be_named_that_was_not_sent(served: Served, path: str) -> None:
    before = {file for file in served.folder.rglob("*") if file.is_file()}
    file = {"path": path.format(port=served.url.split(":")[-1]), "meta": {"_type": "gradio.FileData"}}
    config = requests.get(f"{served.url}/config", timeout=60).json()
    (sent,) = [it for it in config["dependencies"] if it["targets"] and it["targets"][0][1] == "upload"]
    name = "hash1"
    asked = {"data": [file, "full", 0.4, 0.5, False, 0, False], "fn_index": sent["id"], "session_hash": name}
    assert requests.post(f"{served.url}/gradio_api/queue/join", json=asked, timeout=60).status_code == 200
    answer = requests.get(f"{served.url}/gradio_api/queue/data", params={"session_hash": name}, timeout=60).text
    assert '"success":false' in answer and "passwd" not in answer and "README" not in answer
    assert {file for file in served.folder.rglob("*") if file.is_file()} == before  # nothing was fetched or copied


# ---- the page


def send(page: Page, path: Path) -> None:
    clear = page.locator("#upload").get_by_label("Clear")
    if clear.count():
        clear.click()
    page.locator("#upload input[type=file]").set_input_files(path)


def set_slider(page: Page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(f"{value:g}")
    field.press("Enter")


def overlay_of(page: Page) -> str:
    return page.locator("#overlay").get_attribute("src") or ""


@needs_chromium
def test_the_page_segments_redraws_and_hands_out(served: Served, looker: Looker, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / NAMES[0].replace("/", ""))
    threshold = 0.45
    with visit(served.url) as found:
        page = found.page
        expect(page.locator("#save-mask")).to_be_disabled()
        assert "not a medical device" in page.inner_text("body")
        send(page, photo)
        page.wait_for_selector("#overlay")
        set_slider(page, "threshold", threshold)
        expect(page.locator("#status")).to_contain_text(f"above {threshold:g}")
        expect(page.locator("#roi-table tbody tr").first).to_be_visible()
        alt = page.locator("#overlay").get_attribute("alt") or ""
        assert "with its mask in red" in alt and page.locator("img[src=x]").count() == 0
        with page.expect_download() as download:
            page.click("#save-mask")
        (probs,) = looker.segmenters["full"].probabilities([read_image(photo)])
        mask = decoded(Path(download.value.path()).read_bytes())
        assert ((mask > 0) == (probs > threshold)).all() and 0 < (mask > 0).mean() < 1
        assert re.fullmatch(r"[\w-]+_mask\.png", download.value.suggested_filename)
        for name, suffix in (("table", ".csv"), ("crops", ".zip")):
            with page.expect_download() as download:
                page.click(f"#save-{name}")
            assert download.value.suggested_filename.endswith(f"_{name}{suffix}")
        before = overlay_of(page)
        set_slider(page, "threshold", threshold + 0.01)
        expect(page.locator("#status")).to_contain_text(f"above {threshold + 0.01:g}")
        assert overlay_of(page) != before
        before = overlay_of(page)
        set_slider(page, "opacity", 1)
        expect(page.locator("#overlay")).not_to_have_attribute("src", before)
        page.get_by_text("closer at what was found").click()
        expect(page.locator("#status")).to_contain_text(f"above {looker.threshold('coarse_to_fine'):g}")
        found.assert_clean()


@pytest.mark.slow
@needs_chromium
def test_a_hostile_file_leaves_the_page_working(served: Served, tmp_path: Path) -> None:
    files = write_all(tmp_path)
    with visit(served.url, width=400) as found:
        page = found.page
        page.wait_for_selector("#upload input[type=file]", state="attached")
        for name in ("page.png", "drawing.svg", "bomb.png", "truncated.jpg"):
            send(page, files[name])
            expect(page.get_by_role("alert")).to_contain_text(name)
            assert not SERVER_PATH.search(page.inner_text("#status")) and page.title() != "taken"
            expect(page.locator("#overlay")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        send(page, files[NAMES[1]])
        expect(page.locator("#status")).to_contain_text("found")
        expect(page.get_by_role("alert")).to_have_count(0)
        assert page.title() != "taken"
        page.get_by_role("button", name="Glands 1").press("Enter")  # by the keyboard
        expect(page.locator("#status")).to_contain_text("generated_gland_1.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        found.assert_clean()


@pytest.mark.slow
@needs_chromium
def test_a_file_that_is_too_large_is_refused_in_words(served: Served, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(picture() + bytes(LIMIT_MB * 2**20))
    with visit(served.url) as found:
        send(found.page, large)
        expect(found.page.get_by_text(re.compile("exceeds|maximum|too large", re.I)).first).to_be_visible()


@pytest.mark.slow
@needs_chromium
def test_two_pages_at_once_do_not_mix(served: Served, tmp_path: Path) -> None:
    first, second = write_photo(tmp_path / "first.png"), write_photo(tmp_path / "second.png", (200, 500), "lesion")
    with visit(served.url) as found:
        one, two = found.page, found.page.context.new_page()
        two.goto(served.url)
        send(one, first)
        send(two, second)
        expect(one.locator("#status")).to_contain_text("400 x 300")
        expect(two.locator("#status")).to_contain_text("500 x 200")
        set_slider(two, "threshold", 0.01)
        expect(two.locator("#status")).to_contain_text("above 0.01")
        expect(one.locator("#status")).not_to_contain_text("above 0.01")
        expect(one.locator("#status")).to_contain_text("first.png")
        found.assert_clean()
