"""What stands before the page: answers what is not its own, and bounds what may be sent to it."""

import asyncio
import re
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# All that the page asks for. Gradio has much more: its API's pages, a proxy, a fetcher of URLs, recordings, editors.
ASKED_FOR = re.compile(
    r"/|/theme\.css|/favicon\.ico|/config|/(assets|static|svelte)/[^?]*"
    r"|/gradio_api/(upload|upload_progress|startup-events|queue/join|queue/data|cancel|reset|heartbeat/\w+|theme\.css)"
    r"|/gradio_api/file=/.*"
)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
UPLOAD = "/gradio_api/upload"
KEPT_S = 3600  # files of users are deleted after this time, as src.webapp.about says
LARGEST_OF_AN_HOUR = 400  # uploads of the full size, in bytes
BODY_S = 30.0  # without a byte of a body that was announced


@dataclass
class Upload:
    """Of a body: when its head came, the bytes that it announced, those that came, and whether it has ended."""

    when: float
    announced: int
    received: int = 0
    ended: bool = False

    @property
    def counts(self) -> int:
        """Bytes that lie there or may still come: what broke off may stay until it is swept."""
        return self.received if self.ended else self.announced


class Guard:
    """Answers 404 to what the page does not ask for, 403 to what another page sends, 413 to bodies of more than
    `most_bytes` (Gradio counts those of each file of a request, and takes a thousand files), 411 where a body does not
    say how long it is, 408 where it does not come, and 503 where the uploads of the last hour, which lie in `folder`,
    would be more than LARGEST_OF_AN_HOUR full ones or half of what is free on its disk. Has browsers fetch nothing from
    elsewhere."""

    def __init__(self, app: ASGIApp, most_bytes: int, folder: Path):
        self.app, self.most_bytes, self.folder = app, most_bytes, folder
        self.uploads: deque[Upload] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if refused := self._refusal(scope):
            await refused(scope, receive, send)
            return
        begun = late = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            if not late:
                await send(message)

        async def receive_in_time() -> Message:
            nonlocal late
            try:
                message = await asyncio.wait_for(receive(), BODY_S)
                upload.received += len(message.get("body", b""))
                return message
            except TimeoutError:
                late = not begun
                return {"type": "http.disconnect"}

        is_upload = _is_upload(scope)
        upload = self.uploads[-1] if is_upload else Upload(0, 0)  # the one that `_refusal` has just counted
        try:
            await self.app(scope, receive_in_time if is_upload else receive, send_with_headers)
        except Exception:  # of a reader whose body broke off
            if not late:
                raise
        finally:
            upload.ended = True
        if late:
            await _answer(408, "The body did not come", {"Connection": "close"})(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if not ASKED_FOR.fullmatch(scope["path"]):
            return _answer(404, "Not found")
        length = headers.get("content-length", "")
        if scope["method"] == "POST":
            if _is_from_elsewhere(headers):
                return _answer(403, "Another page may not send anything here")
            if not length.isdecimal() or "transfer-encoding" in headers:
                return _answer(411, "Say how long the body is")
        if int(length or 0) > self.most_bytes:
            return _answer(413, "The body is too large")
        if _is_upload(scope) and not self._has_room(int(length)):
            return _answer(503, "Too much was sent within an hour; try again later", {"Retry-After": "600"})
        return None

    def _has_room(self, size: int) -> bool:
        """Whether an upload fits, which then counts."""
        now = time.monotonic()
        while self.uploads and self.uploads[0].when < now - KEPT_S:
            self.uploads.popleft()
        # what has come is no longer free
        half = (shutil.disk_usage(self.folder).free + sum(upload.received for upload in self.uploads)) // 2
        if sum(upload.counts for upload in self.uploads) + size > min(LARGEST_OF_AN_HOUR * self.most_bytes, half):
            return False
        self.uploads.append(Upload(now, size))
        return True


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] == UPLOAD


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that another page had it send this: a form needs nobody's leave to post."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    try:
        origin = headers.get("origin")
        return origin is not None and urlsplit(origin).netloc != headers.get("host")
    except ValueError:  # no address
        return True


def _answer(code: int, text: str, more: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(text, code, {**HEADERS, **(more or {})})
