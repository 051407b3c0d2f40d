"""A real headless Chromium for tests of pages: Debian's, driven by Playwright without a browser of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
QUIET = ("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update")
ARGUMENTS = ("--no-sandbox", *QUIET, "--disable-sync", "--enable-unsafe-swiftshader")  # the last: WebGL without a GPU
OWN = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1", "http://localhost")


WAIT = 60_000  # ms: some machines take ten times as long
expect.set_options(timeout=WAIT)


@dataclass
class Visit:
    """An open page, and what went wrong in it: errors of its scripts, dialogs, and requests that left this machine."""

    page: Page
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def assert_clean(self) -> None:
        assert not self.errors and not self.strangers, (self.errors, self.strangers)


@contextmanager
def visit(url: str, *, width: int = 1280, dark: bool = False, offline: bool = False) -> Iterator[Visit]:
    """Opens `url`; `offline` cuts the page's network first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=offline
        )
        context.set_default_timeout(WAIT)
        page = context.new_page()
        found = Visit(page)

        def say(message: Any) -> None:
            if message.type == "error":
                found.errors.append(message.text)

        def dismiss(dialog: Any) -> None:
            found.errors.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("console", say)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("dialog", dismiss)
        page.on("request", lambda it: None if it.url.startswith(OWN) else found.strangers.append(it.url))
        try:
            page.goto(url)
            yield found
        finally:
            browser.close()
