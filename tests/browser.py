"""A real browser for the pages: what it loads, says and refuses is kept, and anything wrong fails the test."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server import RunningServer

CHROMIUM = os.environ.get("SPARKLE_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text("utf-8")
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def launch() -> Any:
    """A headless Chromium and the driver to stop after it; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no Chromium: install Debian's chromium, or name one in SPARKLE_TEST_CHROMIUM")
    driver = sync_api.sync_playwright().start()
    return driver, driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)


class Visit:
    """A browser of one person at one server; `page` is Playwright's."""

    def __init__(self, page: Any, server: RunningServer) -> None:
        self.page = page
        self.server = server
        self.outside: list[str] = []
        self.faults: list[str] = []
        page.on("request", self._on_request)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.server.url}/", "data:")):
            self.outside.append(request.url)

    def _on_console(self, message: Any) -> None:
        # The browser notes every refusal itself; a test that wants one sees its status.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def go(self, path: str, status: int = 200) -> None:
        """Open a page."""
        response = self.page.goto(self.server.url + path)
        assert response is not None
        assert response.status == status, f"{path}: {response.status}"

    def text(self) -> str:
        """What the page's main part says."""
        return str(self.page.inner_text("main"))

    def check(self) -> None:
        """The page fits its width, is sound, and a screen reader finds its way (axe: nothing serious)."""
        page = self.page
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), page.url
        # Playwright's evaluate is not bound by the page's policy.
        page.evaluate(AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (one["id"], [node["target"] for node in one["nodes"]][:3])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{page.url}: {serious}"


@contextmanager
def visiting(browser: Any, server: RunningServer, token: str = "", **context: Any) -> Iterator[Visit]:
    """A browser of its own, signed in with a token; at the end nothing must have gone wrong in it."""
    own = browser.new_context(**{"locale": "en-GB", "viewport": DESKTOP, **context})
    if token:
        own.add_cookies([{"name": "X-BTN-Token", "value": token, "url": server.url}])
    try:
        visit = Visit(own.new_page(), server)
        visit.page.set_default_timeout(10_000)
        yield visit
        assert visit.outside == [], "the page asked another origin"
        assert visit.faults == []
    finally:
        own.close()
