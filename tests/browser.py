"""Fixtures that open pages in a real browser, Chromium, by Playwright.

A page may load what lies beside it on its own server, and nothing else: every other request is
refused and recorded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route


@dataclass
class Visit:
    """A page that is open, and what went wrong on it or left it so far."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Messages of level error on the console, and exceptions that nothing caught."""
    requests: list[str] = field(default_factory=list)
    """Every address that was asked for, but the page's own."""


Open = Callable[..., Visit]


# Not for the session: while Playwright runs, a test in the same thread can't call asyncio.run.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium, as Debian's package chromium installs it")
    # Chromium's sandbox doesn't start as root, as whom containers run tests.
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = ["--no-sandbox"] if is_root else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """`open_page(url, **options of a Playwright context)` returns a Visit."""
    contexts = []

    def open_url(url: str, **options: Any) -> Visit:
        context = chromium.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        context.set_offline(urlsplit(url).scheme == "file")
        visit = Visit(context.new_page())

        def route(route: Route, request: Request) -> None:
            if request.url != url:
                visit.requests.append(request.url)
            is_own = request.url == url or is_beside(request.url, url)
            if is_own:
                route.continue_()
            else:
                route.abort()

        context.route("**/*", route)
        page = visit.page
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on(
            "console",
            lambda message: visit.errors.append(message.text) if message.type == "error" else None,
        )
        page.goto(url)
        return visit

    yield open_url
    for context in contexts:
        context.close()


def is_beside(address: str, url: str) -> bool:
    """Whether the server of a page serves an address, too. Files are served by none."""
    a, b = urlsplit(address), urlsplit(url)
    return a.scheme in ("http", "https") and (a.scheme, a.netloc) == (b.scheme, b.netloc)
