"""A headless browser for the tests of pages; they are skipped where there is none.

Playwright drives it (``pip install playwright``); the browser is its own, or Chromium or Chrome on the path, or the
program named by SAMIX_BROWSER.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def open_page(path: Path, width: int, height: int, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    """A tab with the page, and what went wrong in it: console messages, errors, and every request to outside."""
    api = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("SAMIX_BROWSER") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url) if outside(request.url) else None)
        tab.goto(path.resolve().as_uri())
        yield tab, said
        browser.close()


def outside(url: str) -> bool:
    """Whether a request goes anywhere but to the page itself."""
    return not url.startswith(("data:", "file:"))
