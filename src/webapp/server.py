"""What serves the page: one process, one port, nothing from outside, and no file of this machine but the page's own."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from src.webapp.examples import write_examples
from src.webapp.guard import Guard
from src.webapp.session import Looker

SESSIONS = 64  # whose pictures are kept; the one not used for longest is forgotten first
BESIDE_FILE = 2**20  # bytes of a request that are not the file's
MOST_CONNECTIONS = 512  # at once: a page holds two or three


@contextmanager
def opened(host: str, port: int) -> Iterator[socket.socket]:
    """The socket, bound before anything slow is done. ValueError: the port is taken, or the host not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        remedy = "Choose another port=..." if error.errno == errno.EADDRINUSE else "Is the host this machine's?"
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}). {remedy}") from error
    with listener:
        yield listener


@contextmanager
def serving(
    looker: Looker, *, mode: str = "full", max_upload_mb: int = 50, names: Sequence[str] = ("*",)
) -> Iterator[Any]:
    """A uvicorn server of the page, to be run with a socket; what users sent is deleted at the end.

    `names`: of hosts by which it may be asked for; another would be a page that had its name point to this machine.
    """
    with tempfile.TemporaryDirectory(prefix="emisnet-app-") as name, _environment(name):
        folder = Path(name)
        # Gradio reads its folders from the environment when it is imported and when a page is built
        from src.webapp.page import Page

        page = Page(looker, write_examples(folder / "examples"), folder, mode=mode)
        app = _mounted(page.blocks, max_upload_mb)
        app.add_middleware(Guard, most_bytes=max_upload_mb * 2**20 + BESIDE_FILE, folder=folder)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=2,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
        )
        yield uvicorn.Server(config)


def _mounted(blocks: Any, max_upload_mb: int) -> FastAPI:
    import gradio as gr
    from gradio import processing_utils

    from src.webapp.markup import CSS
    from src.webapp.page import theme

    # a client may name a URL where a file is expected, and Gradio would fetch it
    processing_utils.async_ssrf_protected_download = _nothing_is_fetched
    processing_utils.ssrf_protected_download = _nothing_is_fetched
    blocks.state_session_capacity = SESSIONS
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[],
        show_error=False,
        max_file_size=max_upload_mb * 2**20,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
    )
    blocks.has_launched = True  # or Gradio 6.31 lets clients name any file of this machine as their upload
    return app


def _nothing_is_fetched(*_: Any, **__: Any) -> NoReturn:
    raise ValueError("this page fetches nothing from elsewhere")


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """All of Gradio's files in `folder`, and no words to its makers."""
    wanted: Mapping[str, str] = {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_EXAMPLES_CACHE": str(Path(folder) / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
